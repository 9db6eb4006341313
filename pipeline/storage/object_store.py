"""The store in an object store, such as S3."""

from __future__ import annotations

import errno
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import BinaryIO, TypeVar, cast

from pipeline.errors import LOG, DeniedError, UnfinishedError
from pipeline.storage.access import FileSystem
from pipeline.storage.lease import clear_dead_lease, current_holder, hold_lease
from pipeline.storage.lock_holder import LockHolder
from pipeline.storage.range_file import StoredFile
from pipeline.storage.retry import call_store
from pipeline.storage.store import Store

T = TypeVar("T")


class ObjectStore(Store):
    """A folder in an object store. A file appears with one PUT, for `create` with
    If-None-Match: *."""

    def __init__(self, root: str, fs: FileSystem, path: str, patience_s: float) -> None:
        super().__init__(root)
        self._fs = fs
        self._path = path
        self._patience_s = patience_s

    def fsspec(self) -> tuple[FileSystem, str]:
        return self._fs, self._path

    def open(self, path: str) -> BinaryIO:
        file = StoredFile(self._fs, self._at(path), f"{self.root}/{path}", self._patience_s)
        return cast(BinaryIO, file.open())

    def read(self, path: str) -> bytes:
        return self._try(path, lambda: self._get(path, 0))

    def tail(self, path: str, max_bytes: int) -> bytes:
        return self._try(path, lambda: self._get(path, -max_bytes))

    def _get(self, path: str, start: int) -> bytes:
        """The bytes from `start` in one request: without a start, s3fs would request the size
        first."""
        try:
            return bytes(self._fs.cat_file(self._at(path), start=start))
        except OSError as error:
            if "InvalidRange" in str(error.__cause__):  # an empty object has no first byte
                return b""
            raise

    def check_writable(self) -> None:
        return

    def exists(self, path: str) -> bool:
        return bool(self._try(path, lambda: self._fs.exists(self._at(path))))

    def list(self, folder: str) -> list[str]:
        try:
            names = self._try(folder, lambda: self._fs.ls(self._at(folder), detail=False))
        except FileNotFoundError:
            return []
        # Consoles create a folder as an empty object with the folder's name and a slash.
        paths = {name.rstrip("/") for name in names} - {self._at(folder)}
        return sorted(path.rpartition("/")[2] for path in paths)

    def write(self, path: str, data: bytes) -> None:
        self._try(path, lambda: self._fs.pipe_file(self._at(path), data))

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        # Spooled on disk: a shard's masks may not fit into memory, and a failed upload is repeated.
        # Not by fsspec's file objects: closed after a failed part, they would complete the upload.
        with _disk_errors(path), tempfile.NamedTemporaryFile() as spool:
            yield cast(BinaryIO, spool)
            spool.flush()
            self._try(path, lambda: self._fs.put_file(spool.name, self._at(path)))

    def create(self, path: str, data: bytes) -> bool:
        # If an object exists, read it back: when the response to our own PUT was lost, its retry
        # finds our own object.
        if self._try(path, lambda: self._create(path, data)):
            return True
        try:
            return self.read(path) == data
        except FileNotFoundError:  # deleted in the meantime
            return False

    def _create(self, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._at(path), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs raises OSError(EINVAL) for some servers' PreconditionFailed.
            if "PreconditionFailed" in str(error.__cause__):
                return False
            raise
        return True

    def delete(self, path: str) -> None:
        self._try(path, lambda: self._delete([self._at(path)]))

    def hold(self, name: str, patient: bool = False) -> AbstractContextManager[None]:
        return hold_lease(self, name, patient)

    def remove_dead_lock(self, name: str) -> None:
        clear_dead_lease(self, name)

    def holder(self, name: str) -> LockHolder | None:
        return current_holder(self, name)

    def age_s(self, path: str) -> float:
        """Seconds since a file was written, if this machine's clock agrees with the store's."""
        written = self._try(path, lambda: self._fs.modified(self._at(path)))
        return (datetime.now(UTC) - cast(datetime, written)).total_seconds()

    def delete_folder(self, folder: str) -> None:
        files = [self._at(f"{folder}/{name}") for name in self.list(folder)]
        if files:
            self._try(folder, lambda: self._delete(files))

    def _delete(self, files: Sequence[str]) -> None:
        with suppress(FileNotFoundError):  # deleted by an earlier attempt
            self._fs.rm(files)

    def sweep(self, path: str = "") -> None:
        """Abort the multipart uploads of killed writers: they are invisible, but cost money."""
        if not hasattr(self._fs, "clear_multipart_uploads"):
            return
        try:
            self._try(path, lambda: self._abort_all(path))
        except (DeniedError, UnfinishedError) as error:  # this is only housekeeping
            LOG.warning("%s; unfinished uploads of killed writers are left behind", error)

    def _abort_all(self, path: str) -> None:
        bucket, _, prefix = f"{self._path}/{path}".partition("/")
        query = {"Bucket": bucket, "Prefix": prefix}
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
        with suppress(FileNotFoundError):  # it has just finished by itself
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id)

    def _try(self, path: str, call: Callable[[], T]) -> T:
        return call_store(f"{self.root}/{path}".rstrip("/"), call, self._patience_s)

    def _at(self, path: str) -> str:
        return f"{self._path}/{path}".rstrip("/")


@contextmanager
def _disk_errors(path: str) -> Iterator[None]:
    """Raise UnfinishedError if this machine's own disk is full; the store's errors are translated
    elsewhere (`storage_errors`)."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        place = f"{tempfile.gettempdir()} on {platform.node()}"
        raise UnfinishedError(
            f"{place}: no space left to hold {path} until it is uploaded; free some, or set TMPDIR"
            " to a larger folder; the same command resumes the run"
        ) from error
