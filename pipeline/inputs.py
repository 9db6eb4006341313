"""What an INPUT consists of: the raster files that files, folders and globs name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import PurePosixPath

from pipeline.access import Access, FileSystem, explained
from pipeline.errors import UsageError

RASTER_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")
"""What a folder is searched for; a file that is named is taken whatever its suffix."""


@dataclass(frozen=True)
class Found:
    """One input file."""

    scene_id: str
    url: str
    version: str
    """The ETag, or size and modification time: another version is another scene."""
    size_bytes: int | None = None
    """None: its server does not say."""


def find_inputs(inputs: Sequence[str], access: Access) -> list[Found]:
    """The raster files that the INPUTs (files, folders, globs) name, sorted by scene id.

    Raises UsageError for a path that does not exist, a folder or glob without a raster, two files
    with one scene id, and one file with two.
    """
    by_id: dict[str, Found] = {}
    by_url: dict[str, Found] = {}
    for given in inputs:
        for found in _expand(given, access):
            other = by_id.setdefault(found.scene_id, found)
            if other.url != found.url:
                raise UsageError(
                    f"{found.url} and {other.url} would both be scene {found.scene_id!r}:"
                    " give their common parent folder as the INPUT"
                )
            other = by_url.setdefault(found.url, found)
            if other.scene_id != found.scene_id:
                raise UsageError(
                    f"{found.url} is named twice, as scene {other.scene_id!r} and as"
                    f" {found.scene_id!r}: give INPUTs that do not overlap"
                )
    return [by_id[scene_id] for scene_id in sorted(by_id)]


def _expand(given: str, access: Access) -> list[Found]:
    fs, path = access.filesystem(given)
    with explained(given):
        if has_magic(path) and not fs.exists(path):
            root = _parent_without_magic(path)
            infos = fs.glob(path, detail=True)
            files = [info for info in infos.values() if info["type"] == "file"]
        elif _is_folder(fs, path):
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
            _check_bucket(fs, path)
            raise UsageError(f"{given}: no such file or folder; check the path")
        # A page of links tells no sizes.
        files = [info if info.get("size") is not None else fs.info(info["name"]) for info in files]
    if not files:
        wanted = ", ".join(RASTER_SUFFIXES)
        raise UsageError(f"{given}: holds no raster file ({wanted}); name another folder or glob")
    return [
        Found(
            scene_id=info["name"][len(root) :].lstrip("/"),
            url=fs.unstrip_protocol(info["name"]).removeprefix("file://"),
            version=_version(info),
            size_bytes=info["size"],
        )
        for info in files
    ]


def _is_folder(fs: FileSystem, path: str) -> bool:
    # Asked whether it is one, fsspec would load a whole file by HTTP and look for links in it.
    if path.startswith(("http://", "https://")) and PurePosixPath(path).suffix:
        return path.endswith("/") and bool(fs.isdir(path))
    return bool(fs.isdir(path))


def _check_bucket(fs: FileSystem, path: str) -> None:
    """Lets the store say that the bucket is what is missing."""
    if hasattr(fs, "call_s3"):
        fs.call_s3("list_objects_v2", Bucket=path.partition("/")[0], MaxKeys=1)


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
    return f"{info['size']}-{info.get('mtime') or info.get('Last-Modified', '')}"


def printable(name: str) -> str:
    """Bytes of a name that are no UTF-8 as \\xNN: tables and records are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def version_of(url: str, access: Access) -> str:
    """The identity of a file's bytes now. Raises FileNotFoundError."""
    fs, path = access.filesystem(url)
    with explained(url):
        return _version(fs.info(path))
