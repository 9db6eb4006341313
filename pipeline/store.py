"""Files that appear whole or not at all, and what an INPUT consists of.

The only room that lists, reads and writes outside of rasters. Knows nothing of what is in a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import fsspec

from pipeline.errors import UsageError

RASTER_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")
"""What a folder is searched for; a file that is named is taken whatever its suffix."""
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Found:
    """One input file."""

    scene_id: str
    url: str
    version: str
    """The ETag, or size and modification time: another version is another scene."""
    size_bytes: int


def find_inputs(inputs: Sequence[str]) -> list[Found]:
    """The raster files that the INPUTs (files, folders, globs) name, sorted by scene id.

    Raises UsageError for a path that does not exist, a folder or glob without a raster, and two
    files with one scene id.
    """
    by_id: dict[str, Found] = {}
    for given in inputs:
        for found in _expand(given):
            other = by_id.setdefault(found.scene_id, found)
            if other.url != found.url:
                raise UsageError(
                    f"{found.url} and {other.url} would both be scene {found.scene_id!r}:"
                    " give their common parent folder as the INPUT"
                )
    return [by_id[scene_id] for scene_id in sorted(by_id)]


def _expand(given: str) -> list[Found]:
    fs, path = fsspec.core.url_to_fs(given)
    try:
        if has_magic(path) and not fs.exists(path):
            root = _parent_without_magic(path)
            infos = fs.glob(path, detail=True)
            files = [info for info in infos.values() if info["type"] == "file"]
        elif fs.isdir(path):
            root = path.rstrip("/")
            files = [
                info
                for name, info in fs.find(path, detail=True).items()
                if name.lower().endswith(RASTER_SUFFIXES) and not _hidden(name, root)
            ]
        elif fs.exists(path):
            root = path.rpartition("/")[0]
            files = [fs.info(path)]
        else:
            raise UsageError(f"{given}: no such file or folder")
    except PermissionError as error:
        raise UsageError(f"{given}: permission denied") from error
    if not files:
        wanted = ", ".join(RASTER_SUFFIXES)
        raise UsageError(f"{given}: holds no raster file ({wanted}); name another folder or glob")
    return [
        Found(
            scene_id=info["name"][len(root) :].lstrip("/"),
            url=fs.unstrip_protocol(info["name"]).removeprefix("file://"),
            version=_version(info),
            size_bytes=int(info["size"]),
        )
        for info in files
    ]


def _hidden(name: str, root: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name[len(root) :]).parts)


def _parent_without_magic(path: str) -> str:
    parts = path.split("/")
    plain = next(i for i, part in enumerate(parts) if has_magic(part))
    return "/".join(parts[:plain])


def _version(info: dict[str, object]) -> str:
    etag = info.get("ETag") or info.get("etag")
    if etag:
        return str(etag).strip('"')
    return f"{info['size']}-{info.get('mtime', '')}"


def version_of(url: str) -> str:
    """The identity of a file's bytes now. Raises FileNotFoundError."""
    fs, path = fsspec.core.url_to_fs(url)
    return _version(fs.info(path))


class Store:
    """A folder. Paths are relative to it, with forward slashes; local disk for now."""

    def __init__(self, root: str) -> None:
        fs, path = fsspec.core.url_to_fs(root)
        if fs.protocol not in ("file", ("file", "local")):
            raise UsageError(f"{root}: only folders on local disk can be written for now")
        self.root = path
        self._folder = Path(path)

    def read(self, path: str) -> bytes:
        return (self._folder / path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        return (self._folder / path).open("rb")

    def exists(self, path: str) -> bool:
        return (self._folder / path).exists()

    def list(self, folder: str) -> list[str]:
        """Names of the complete files in a folder, sorted; empty where there is no folder."""
        try:
            names = os.listdir(self._folder / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.endswith(_TEMPORARY))

    def write(self, path: str, data: bytes) -> None:
        """Replaces the file, whole or not at all."""
        with self.writing(path) as file:
            file.write(data)

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """A file that appears under its name, flushed to disk, when the block ends well."""
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
        """Writes the file only if there is none; False if there is."""
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
        """Deletes the files of a folder, then the folder; nothing if there is none."""
        path = self._folder / folder
        if path.is_dir():
            for file in path.iterdir():
                file.unlink(missing_ok=True)
            path.rmdir()

    def sweep(self) -> None:
        """Deletes what writers that were killed left behind. No writer may be active."""
        for file in self._folder.rglob(f".*{_TEMPORARY}"):
            file.unlink(missing_ok=True)

    def _temporary(self, final: Path) -> Path:
        final.parent.mkdir(parents=True, exist_ok=True)
        return final.parent / f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}{_TEMPORARY}"


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is on disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
