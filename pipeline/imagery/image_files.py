"""The image files that an INPUT names (a file, a folder or a glob), their side-cars and versions.

Knows names, sizes and times as a store lists them, and reads no byte of any file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import has_magic
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import DeniedError, UsageError
from pipeline.imagery.input_file import InputFile
from pipeline.storage.access import Access, FileSystem
from pipeline.storage.retry import call_store

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")
"""The suffixes that a folder is searched for; a file given by name may have any."""

_Info = dict[str, Any]
"""fsspec's record of a file: name, type, size, mtime or ETag."""


def find_image_files(location: str, access: Access) -> list[InputFile]:
    """The image files that one INPUT names (a file, a folder or a glob).

    Raises UsageError for a path that does not exist, and for a folder or glob without an image.
    """

    def attempt() -> list[InputFile]:
        return _find(location, *access.filesystem(location), access.patience_s)

    return call_store(location, attempt, access.patience_s)


def version_of(url: str, sidecars: Sequence[str], access: Access) -> str:
    """The current version of a file and its side-cars, as in InputFile.

    Raises FileNotFoundError; TransientError and UsageError if the store does not say.
    """
    fs, path = access.filesystem(url)
    folder = path.rpartition("/")[0]

    def attempt() -> str:
        return _version([fs.info(path), *(fs.info(f"{folder}/{name}") for name in sidecars)])

    return call_store(url, attempt, access.patience_s)


def _find(location: str, fs: FileSystem, path: str, patience_s: float) -> list[InputFile]:
    listing: dict[str, _Info] = {}
    if has_magic(path) and not fs.exists(path):
        root = _parent_without_magic(path)
        infos = fs.glob(path, detail=True)
        names = [name for name, info in infos.items() if info["type"] == "file"]
        for folder in {name.rpartition("/")[0] for name in names}:
            listing |= {info["name"]: info for info in fs.ls(folder, detail=True)}
    elif _is_folder(fs, path):
        root = path.rstrip("/")
        listing = fs.find(path, detail=True)
        images = (name for name in listing if name.lower().endswith(IMAGE_SUFFIXES))
        names = [name for name in images if not _is_hidden(name, root)]
    elif _exists(fs, path, patience_s):
        root = path.rpartition("/")[0]
        names = [path]
        listing = _list_beside(fs, path, patience_s)
    else:
        _check_bucket(fs, path)
        raise UsageError(f"{location}: no such file or folder; check the path")
    if not names:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise UsageError(
            f"{location}: holds no raster file ({suffixes}); name another folder or glob"
        )
    by_lower_case = {name.lower(): name for name in listing}
    return [_input_file(name, root, fs, listing, by_lower_case) for name in names]


def _input_file(
    name: str, root: str, fs: FileSystem, listing: dict[str, _Info], by_lower_case: dict[str, str]
) -> InputFile:
    candidates = _sidecar_names(name.lower())
    sidecars = [by_lower_case[other] for other in candidates if other in by_lower_case]
    # A page of links tells no sizes.
    infos = [
        listing[file] if listing[file].get("size") is not None else fs.info(file)
        for file in (name, *sidecars)
    ]
    return InputFile(
        scene_id=name[len(root) :].lstrip("/"),
        url=fs.unstrip_protocol(name).removeprefix("file://"),
        version=_version(infos),
        sidecars=tuple(sidecar.rpartition("/")[2] for sidecar in sidecars),
        size_bytes=infos[0]["size"],
    )


def _sidecar_names(name: str) -> Iterator[str]:
    """The names that files beside an image may have if they decide its pixels or its place."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.rpartition(".")
    prefix = f"{folder}{slash}"
    yield from (f"{prefix}{base}.msk", f"{prefix}{base}.aux.xml")
    if stem:
        world = (f"{suffix[:1]}{suffix[-1:]}w", f"{suffix}w", "wld", "aux.xml")
        yield from (f"{prefix}{stem}.{ending}" for ending in world)


def _list_beside(fs: FileSystem, path: str, patience_s: float) -> dict[str, _Info]:
    """The file, and those in its folder whose names start as its own does."""
    if hasattr(fs, "call_s3"):  # one request lists all names with this prefix
        folder, _, name = path.rpartition("/")
        prefix = name.rpartition(".")[0] or name
        listing: dict[str, _Info] = fs.find(folder, prefix=prefix, maxdepth=1, detail=True)
        return {path: fs.info(path)} | listing
    listing = {}
    for name in (path, *_sidecar_names(path)):
        # A refused file is treated as absent; a store that fails says nothing about absence.
        with suppress(FileNotFoundError, DeniedError):
            listing[name] = _info(fs, name, patience_s)
    return listing


def _exists(fs: FileSystem, path: str, patience_s: float) -> bool:
    # Over HTTP, fsspec would take a server that fails for one that has no such file.
    if not path.startswith(("http://", "https://")):
        return bool(fs.exists(path))
    try:
        return bool(_info(fs, path, patience_s))
    except FileNotFoundError:
        return False


def _info(fs: FileSystem, path: str, patience_s: float) -> _Info:
    return call_store(path, lambda: dict(fs.info(path)), patience_s)


def _is_folder(fs: FileSystem, path: str) -> bool:
    # To answer this over HTTP, fsspec would load a whole file and look for links in it.
    if path.startswith(("http://", "https://")) and PurePosixPath(path).suffix:
        return path.endswith("/") and bool(fs.isdir(path))
    return bool(fs.isdir(path))


def _check_bucket(fs: FileSystem, path: str) -> None:
    """Let the store raise its error if it is the bucket that does not exist."""
    if hasattr(fs, "call_s3"):
        fs.call_s3("list_objects_v2", Bucket=path.partition("/")[0], MaxKeys=1)


def _is_hidden(name: str, root: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name[len(root) :]).parts)


def _parent_without_magic(path: str) -> str:
    parts = path.split("/")
    first_magic = next(i for i, part in enumerate(parts) if has_magic(part))
    return "/".join(parts[:first_magic])


def _version(infos: Sequence[_Info]) -> str:
    return " ".join(map(_version_of_one, infos))


def _version_of_one(info: _Info) -> str:
    etag = info.get("ETag") or info.get("etag")
    if etag:
        return str(etag).strip('"')
    return f"{info['size']}-{info.get('mtime') or info.get('Last-Modified', '')}"
