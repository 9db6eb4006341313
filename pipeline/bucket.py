"""A store in an object store: one PUT makes an object appear."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from pipeline.access import FileSystem, explained
from pipeline.store import Store


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
        # Consoles make a folder by an empty object whose name is the folder's, with a slash.
        paths = {name.rstrip("/") for name in names} - {self._at(folder)}
        return sorted(path.rpartition("/")[2] for path in paths)

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
        with explained(f"{self.root}/{path}"):
            try:
                self._fs.pipe_file(self._at(path), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                # s3fs gives OSError(EINVAL) for some servers' PreconditionFailed.
                if "PreconditionFailed" in str(error.__cause__):
                    return False
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
