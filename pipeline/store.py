"""A folder whose files appear whole or not at all, on local disk or in an object store.

Knows nothing of what is in a file, and nothing of rasters, which GDAL reads by itself.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.access import Access, FileSystem, explained
from pipeline.errors import UsageError
from pipeline.errors import UsageError

_TEMPORARY = ".tmp"


class Store(ABC):
    """Paths are relative to the folder, with forward slashes."""

    def __init__(self, root: str) -> None:
        self.root = root
        """The folder as it was named; on local disk its absolute path."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """For reading at any position."""

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Names of the complete files and of the folders in a folder, sorted; empty where there
        is no folder."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Replaces the file, whole or not at all."""

    @abstractmethod
    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file of any size that appears under its name when the block ends well."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Writes the file only if there is none; False if there is. Atomic."""

    @abstractmethod
    def delete_folder(self, folder: str) -> None:
        """Deletes the files of a folder, then the folder; nothing if there is none."""

    @abstractmethod
    def sweep(self) -> None:
        """Deletes what writers that were killed left behind. No writer may be active."""

    @abstractmethod
    def alone(self, path: str) -> AbstractContextManager[None]:
        """Holds this existing file for one process at a time. A courtesy: correctness rests on
        idempotent units and create-only commits. Raises UsageError where another holds it."""

    @abstractmethod
    def fsspec(self) -> tuple[FileSystem, str]:
        """The folder as other libraries take it: a file system and the path on it."""

    def read(self, path: str) -> bytes:
        with self.open(path) as file:
            return file.read()


def open_store(url: str, access: Access) -> Store:
    """The store of a folder's URL. Raises UsageError for a scheme that nothing installed knows."""
    fs, path = access.filesystem(url)
    if fs.protocol in ("file", ("file", "local")):
        if os.path.exists(path) and not os.path.isdir(path):
            raise UsageError(f"{url}: is a file; name a folder")
        return LocalStore(path, fs)
    if url.startswith(("http://", "https://")):
        raise UsageError(f"{url}: cannot be written; name a folder on disk or an s3:// URL")
    return ObjectStore(url.rstrip("/"), fs, path.rstrip("/"))


class LocalStore(Store):
    """Temporary name, fsync, rename."""

    def __init__(self, root: str, fs: FileSystem) -> None:
        super().__init__(root)
        self._folder = Path(root)
        self._fs = fs

    def fsspec(self) -> tuple[FileSystem, str]:
        return self._fs, self.root

    def open(self, path: str) -> BinaryIO:
        return (self._folder / path).open("rb")

    def exists(self, path: str) -> bool:
        return (self._folder / path).exists()

    def list(self, folder: str) -> list[str]:
        try:
            names = os.listdir(self._folder / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.endswith(_TEMPORARY))

    def write(self, path: str, data: bytes) -> None:
        with self.writing(path) as file:
            file.write(data)

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        final = self._folder / path
        temporary = self._temporary(final)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(final.parent)

    def create(self, path: str, data: bytes) -> bool:
        final = self._folder / path
        temporary = self._temporary(final)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, final)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(final.parent)
        return True

    def delete_folder(self, folder: str) -> None:
        path = self._folder / folder
        if path.is_dir():
            for file in path.iterdir():
                file.unlink(missing_ok=True)
            path.rmdir()

    def sweep(self) -> None:
        for file in self._folder.rglob(f".*{_TEMPORARY}"):
            file.unlink(missing_ok=True)

    @contextmanager
    def alone(self, path: str) -> Iterator[None]:
        with (self._folder / path).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"{self.root}: another run is at work on this output; wait for it to end"
                ) from error
            yield  # the kernel releases the lock with the process, however it ends

    def _temporary(self, final: Path) -> Path:
        final.parent.mkdir(parents=True, exist_ok=True)
        return final.parent / f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}{_TEMPORARY}"


class ObjectStore(Store):
    """One PUT makes an object appear; create-only ones carry If-None-Match: *."""

    def __init__(self, root: str, fs: FileSystem, path: str) -> None:
        super().__init__(root)
        self._fs = fs
        self._path = path

    def fsspec(self) -> tuple[FileSystem, str]:
        return self._fs, self._path

    def open(self, path: str) -> BinaryIO:
        with explained(f"{self.root}/{path}"):
            return cast(BinaryIO, self._fs.open(self._at(path), "rb"))

    def read(self, path: str) -> bytes:
        with explained(f"{self.root}/{path}"):
            return bytes(self._fs.cat_file(self._at(path)))

    def exists(self, path: str) -> bool:
        with explained(f"{self.root}/{path}"):
            return bool(self._fs.exists(self._at(path)))

    def list(self, folder: str) -> list[str]:
        with explained(f"{self.root}/{folder}"):
            try:
                names = self._fs.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                return []
        names = [name.rstrip("/").rpartition("/")[2] for name in names]
        return sorted(name for name in names if name)

    def write(self, path: str, data: bytes) -> None:
        with explained(f"{self.root}/{path}"):
            self._fs.pipe_file(self._at(path), data)

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        # Spooled on disk: a shard's masks may not fit into memory, and a failed upload is repeated.
        # Not by fsspec's file objects: closed after a failed part, they would complete the upload.
        with tempfile.NamedTemporaryFile() as spool:
            yield cast(BinaryIO, spool)
            spool.flush()
            with explained(f"{self.root}/{path}"):
                self._fs.put_file(spool.name, self._at(path))

    def create(self, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._at(path), data, mode="create")
        except (FileExistsError, OSError) as error:
            # s3fs gives OSError(EINVAL) for some servers' PreconditionFailed.
            if isinstance(error, FileExistsError) or "PreconditionFailed" in str(error.__cause__):
                return False
            with explained(f"{self.root}/{path}"):
                raise
        return True

    def delete_folder(self, folder: str) -> None:
        files = [self._at(f"{folder}/{name}") for name in self.list(folder)]
        if files:
            with explained(f"{self.root}/{folder}"):
                self._fs.rm(files)

    def sweep(self) -> None:
        """Aborts the multipart uploads of killed writers: they are invisible, but they cost."""
        if not hasattr(self._fs, "clear_multipart_uploads"):
            return
        bucket, _, prefix = self._path.partition("/")
        query = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
        with explained(self.root):
            truncated = True
            while truncated:
                page = self._fs.call_s3("list_multipart_uploads", **query)
                for upload in page.get("Uploads", ()):
                    self._abort(bucket, upload)
                truncated = page.get("IsTruncated", False)
                query["KeyMarker"] = page.get("NextKeyMarker", "")
                query["UploadIdMarker"] = page.get("NextUploadIdMarker", "")

    def _abort(self, bucket: str, upload: dict[str, str]) -> None:
        key, upload_id = upload["Key"], upload["UploadId"]
        with suppress(FileNotFoundError):  # it has just ended by itself
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id)

    def _at(self, path: str) -> str:
        return f"{self._path}/{path}".rstrip("/")


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is on disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
