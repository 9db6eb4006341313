"""The image files that an INPUT names (a file, a folder or a glob), with their side-cars.

Knows names; what the bytes of a file are is for `pipeline.imagery.identity` to say.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import has_magic
from pathlib import PurePosixPath

from pipeline.errors import UsageError
from pipeline.imagery.identity import Files, Info
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.other_formats import hint_at_others
from pipeline.imagery.sidecars import (
    has_sidecar_name,
    is_aux,
    is_erdas_aux,
    sidecar_names,
    usual_sidecar_names,
)
from pipeline.storage.access import Access
from pipeline.storage.local_tree import dead_link, files_below, is_folder, matching_files
from pipeline.storage.retry import call_store
from pipeline.storage.store import THREADS

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")
"""The suffixes that a folder is searched for; a file given by name may have any."""

_Listing = dict[str, Info | None]
"""Files by their paths; None: known by name alone."""


def find_image_files(location: str, access: Access) -> list[InputFile]:
    """The image files that one INPUT names (a file, a folder or a glob).

    Links are followed, those to folders, too; a link that leads nowhere is found like the image
    that it names. Files and folders whose names start with a dot are left out unless INPUT itself
    names them. Raises UsageError for a path that does not exist, and for a folder or glob without
    an image.
    """
    files = Files.of(location, access)
    return call_store(location, lambda: _find(location, files), files.patience_s)


def _find(location: str, files: Files) -> list[InputFile]:
    path = files.path
    root = path.rstrip("/")
    if has_magic(path) and not files.fs.exists(path):
        root = _parent_without_magic(path)
        names, listing = _matches(location, files, root)
    elif _is_folder(files, path):
        listing = _tree(files, path)
        names = [n for n in listing if _is_image(files, n) and not _is_hidden(n, root)]
    elif listing := _single_file(files, path):
        root, names = path.rpartition("/")[0], [path]
    else:
        _check_bucket(files, path)
        raise UsageError(f"{location}: {_why_missing(files)}")
    if not names:
        raise UsageError(f"{location}: {_why_nothing(location, listing)}")
    return _input_files(files, names, root, listing)


def _matches(location: str, files: Files, root: str) -> tuple[list[str], _Listing]:
    """The files that a glob matches, and those beside them. Hidden ones match a glob that asks for
    them, side-cars one that matches nothing else."""
    pattern = files.path
    hidden = _is_hidden(pattern, root)
    try:
        names, listing = (
            _local_matches(files, root, hidden) if files.is_local else _remote_matches(files)
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{location}: there is no folder {root}; check the path") from error
    except ValueError as error:  # fsspec's, of a pattern
        raise UsageError(f"{location}: {error}") from error
    names = [name for name in names if hidden or not _is_hidden(name, root)]
    return [name for name in names if not has_sidecar_name(name)] or names, listing


def _local_matches(files: Files, root: str, hidden: bool) -> tuple[list[str], _Listing]:
    if why := dead_link(root):
        raise UsageError(f"{files.path}: {why}; check the path, and that its disk is mounted")
    names, listing = matching_files(files.path, root, hidden)
    return names, dict.fromkeys(listing)


def _remote_matches(files: Files) -> tuple[list[str], _Listing]:
    infos = files.fs.glob(files.path, detail=True)
    names = [name for name, info in infos.items() if info["type"] == "file"]
    listing: _Listing = {}
    for folder in {name.rpartition("/")[0] for name in names}:
        listing |= {info["name"]: info for info in files.fs.ls(folder, detail=True)}
    return names, listing


def _tree(files: Files, path: str) -> _Listing:
    """All files below a folder, on local disk without hidden ones."""
    if files.is_local:
        return dict.fromkeys(files_below(path.rstrip("/") or "/"))
    listing: _Listing = files.fs.find(path, detail=True)
    return listing


def _is_image(files: Files, name: str) -> bool:
    """Whether a folder's file is taken for an image by its name. So is a link that leads nowhere
    and may have led to a folder of images: one without a suffix, or with a number for one."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    may_be_folder = not suffix or suffix[1:].isdigit()
    return may_be_folder and files.is_local and os.path.islink(name) and not os.path.exists(name)


def _single_file(files: Files, path: str) -> _Listing:
    """The file, and those beside it that may add to it; empty if there is none."""
    if files.is_local:
        return files.beside([path, *sidecar_names(path)]) if os.path.exists(path) else {}
    if files.is_web:  # fsspec's `exists` takes a server that fails for one without such a file
        try:
            info = files.info(path)
        except FileNotFoundError:
            return {}
        return {path: info, **files.beside(usual_sidecar_names(path))}
    if not files.fs.exists(path):
        return {}
    if not hasattr(files.fs, "call_s3"):
        return {path: files.info(path), **files.beside(usual_sidecar_names(path))}
    folder, _, name = path.rpartition("/")
    prefix = name.rpartition(".")[0] or name
    # One request lists all names with this prefix.
    listing: _Listing = files.fs.find(folder, prefix=prefix, maxdepth=1, detail=True)
    return {path: files.info(path)} | listing


def _input_files(
    files: Files, names: Sequence[str], root: str, listing: _Listing
) -> list[InputFile]:
    def input_file(name: str) -> InputFile:
        identity = files.identity(name, listing)
        return InputFile(
            scene_id=name[len(root) :].lstrip("/"),
            url=files.fs.unstrip_protocol(name).removeprefix("file://"),
            version=identity.version,
            sidecars=identity.sidecars,
            size_bytes=identity.size_bytes,
            doubts=identity.doubts,
        )

    if files.is_local or not any(is_aux(name) or is_erdas_aux(name) for name in listing):
        return [input_file(name) for name in names]
    with ThreadPoolExecutor(THREADS) as pool:  # each `.aux.xml` and `.aux` is a request
        return list(pool.map(input_file, names))


def _why_missing(files: Files) -> str:
    """Why there is neither a file nor a folder at a path, and what to do about it."""
    if not files.is_local:
        return "no such file or folder; check the path"
    why = dead_link(files.path) or "no such file or folder"
    return f"{why}; check the path, and that its disk is mounted"


def _why_nothing(location: str, listing: _Listing) -> str:
    """Why a folder or glob names no image, and what to do about it."""
    if has_magic(location):
        return "matches no file; name another folder or glob"
    if not listing:
        return "holds no file; name another folder or glob, or see that its disk is mounted"
    hint = hint_at_others(listing, location) or "name another folder or glob"
    return f"holds no raster file ({', '.join(IMAGE_SUFFIXES)}); {hint}"


def _is_folder(files: Files, path: str) -> bool:
    if files.is_local:
        return is_folder(path)
    # To answer this over HTTP, fsspec would load a whole file and look for links in it.
    if files.is_web and PurePosixPath(path).suffix:
        return path.endswith("/") and bool(files.fs.isdir(path))
    return bool(files.fs.isdir(path))


def _check_bucket(files: Files, path: str) -> None:
    """Let the store raise its error if it is the bucket that does not exist."""
    if hasattr(files.fs, "call_s3"):
        files.fs.call_s3("list_objects_v2", Bucket=path.partition("/")[0], MaxKeys=1)


def _is_hidden(name: str, root: str) -> bool:
    """Whether a part of a path below `root` starts with a dot."""
    return any(part.startswith(".") for part in name[len(root) :].split("/"))


def _parent_without_magic(path: str) -> str:
    parts = path.split("/")
    first_magic = next(i for i, part in enumerate(parts) if has_magic(part))
    return "/".join(parts[:first_magic])
