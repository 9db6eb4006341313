"""What an INPUT consists of: the raster files that files, folders and globs name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import has_magic
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import DeniedError, UsageError
from pipeline.storage.access import Access, FileSystem
from pipeline.storage.retry import explained, patiently

RASTER_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")
"""What a folder is searched for; a file that is named is taken whatever its suffix."""


@dataclass(frozen=True)
class Found:
    """One input file."""

    scene_id: str
    url: str
    version: str
    """The ETag, or size and modification time, of the file and of its side-cars: another version
    is another scene."""
    sidecars: tuple[str, ...] = ()
    """Names of files in the same folder that say more of it: a mask, a place."""
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
    def once() -> list[Found]:
        with explained(given):
            return _found(given, *access.filesystem(given), access.patience_s)

    return patiently(once, access.patience_s)


def _found(given: str, fs: FileSystem, path: str, patience_s: float) -> list[Found]:
    near: dict[str, dict[str, Any]] = {}
    if has_magic(path) and not fs.exists(path):
        root = _parent_without_magic(path)
        infos = fs.glob(path, detail=True)
        files = [name for name, info in infos.items() if info["type"] == "file"]
        for folder in {name.rpartition("/")[0] for name in files}:
            near |= {info["name"]: info for info in fs.ls(folder, detail=True)}
    elif _is_folder(fs, path):
        root = path.rstrip("/")
        near = fs.find(path, detail=True)
        rasters = (name for name in near if name.lower().endswith(RASTER_SUFFIXES))
        files = [name for name in rasters if not _hidden(name, root)]
    elif _exists(fs, path, patience_s):
        root = path.rpartition("/")[0]
        files = [path]
        near = _beside(fs, path, patience_s)
    else:
        _check_bucket(fs, path)
        raise UsageError(f"{given}: no such file or folder; check the path")
    if not files:
        wanted = ", ".join(RASTER_SUFFIXES)
        raise UsageError(f"{given}: holds no raster file ({wanted}); name another folder or glob")
    lower = {name.lower(): name for name in near}
    found = []
    for name in files:
        beside = [lower[other] for other in _sidecars(name.lower()) if other in lower]
        # A page of links tells no sizes.
        infos = [
            near[one] if near[one].get("size") is not None else fs.info(one)
            for one in (name, *beside)
        ]
        found.append(
            Found(
                scene_id=name[len(root) :].lstrip("/"),
                url=fs.unstrip_protocol(name).removeprefix("file://"),
                version=_version(infos),
                sidecars=tuple(one.rpartition("/")[2] for one in beside),
                size_bytes=infos[0]["size"],
            )
        )
    return found


def _sidecars(name: str) -> Iterator[str]:
    """What may stand beside an image file and decide its pixels or its place."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.rpartition(".")
    at = f"{folder}{slash}"
    yield from (f"{at}{base}.msk", f"{at}{base}.aux.xml")
    if stem:
        world = (f"{suffix[:1]}{suffix[-1:]}w", f"{suffix}w", "wld", "aux.xml")
        yield from (f"{at}{stem}.{one}" for one in world)


def _beside(fs: FileSystem, path: str, patience_s: float) -> dict[str, dict[str, Any]]:
    """The file and those beside it whose names begin as its own does."""
    if hasattr(fs, "call_s3"):  # a listing of the names that begin so, in one request
        folder, _, name = path.rpartition("/")
        prefix = name.rpartition(".")[0] or name
        near: dict[str, dict[str, Any]] = fs.find(folder, prefix=prefix, maxdepth=1, detail=True)
        return {path: fs.info(path)} | near
    near = {}
    for name in (path, *_sidecars(path)):
        # What is refused is as if it were not there; a store that fails says nothing.
        with suppress(FileNotFoundError, DeniedError):
            near[name] = _info(fs, name, patience_s)
    return near


def _exists(fs: FileSystem, path: str, patience_s: float) -> bool:
    # By HTTP fsspec would take a server that fails for one that has no such file.
    if not path.startswith(("http://", "https://")):
        return bool(fs.exists(path))
    try:
        return bool(_info(fs, path, patience_s))
    except FileNotFoundError:
        return False


def _info(fs: FileSystem, path: str, patience_s: float) -> dict[str, Any]:
    def once() -> dict[str, Any]:
        with explained(path):
            return dict(fs.info(path))

    return patiently(once, patience_s)


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


def _version(infos: Sequence[dict[str, Any]]) -> str:
    return " ".join(map(_version_of_one, infos))


def _version_of_one(info: dict[str, Any]) -> str:
    etag = info.get("ETag") or info.get("etag")
    if etag:
        return str(etag).strip('"')
    return f"{info['size']}-{info.get('mtime') or info.get('Last-Modified', '')}"


def printable(name: str) -> str:
    """Bytes of a name that are no UTF-8 as \\xNN: tables and records are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def version_of(url: str, sidecars: Sequence[str], access: Access) -> str:
    """The identity of a file's bytes now. Raises FileNotFoundError; TransientError and UsageError
    where the store does not say."""
    fs, path = access.filesystem(url)
    folder = path.rpartition("/")[0]

    def once() -> str:
        with explained(url):
            return _version([fs.info(path), *(fs.info(f"{folder}/{name}") for name in sidecars)])

    return patiently(once, access.patience_s)
