"""The files below a local folder, links included, and where a link leads that leads to no file.

fsspec lists a link with its own time, passes over linked folders, and says nothing of folders that
it may not list.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator

from fsspec.utils import glob_translate

from pipeline.errors import LOG


def files_below(root: str, max_depth: int | None = None, hidden: bool = False) -> list[str]:
    """The paths of all files below a folder, and of links that lead nowhere, sorted.

    Linked folders are entered like others, but no folder from within itself. max_depth: 1 for the
    folder alone, None for everything below it; hidden: whether names that start with a dot count,
    too. Folders that may not be listed are left out with a warning. Raises OSError.
    """
    files: list[str] = []
    denied: list[str] = []
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(root, ())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError:
            denied.append(folder)
            continue
        except (FileNotFoundError, NotADirectoryError):
            if folder == root:
                raise
            continue  # it has gone since its parent was listed
        place = (status.st_dev, status.st_ino)
        if place in above:
            continue
        for entry in entries:
            if entry.name.startswith(".") and not hidden:
                continue
            if not _is_folder(entry):
                files.append(entry.path)
            elif max_depth is None or len(above) + 1 < max_depth:
                waiting.append((entry.path, (*above, place)))
    if denied:
        more = f" (and {len(denied) - 1:,} more)" if len(denied) > 1 else ""
        LOG.warning("%s%s: permission denied: what is in there is left out", denied[0], more)
    return sorted(files)


def matching_files(pattern: str, root: str, hidden: bool) -> tuple[list[str], list[str]]:
    """The files below `root` whose whole path matches a glob, and all files as deep as these.

    Raises ValueError for a pattern that is none, and OSError.
    """
    expression = re.compile(glob_translate(pattern))
    depth = None if "**" in pattern else pattern.count("/") - root.rstrip("/").count("/")
    files = files_below(root or "/", depth, hidden)
    return [name for name in files if expression.match(name)], files


def dead_link(path: str) -> str | None:
    """What is wrong with the first link on the way to a local path, if it leads nowhere or in a
    circle, as `it is a link to TARGET, which does not exist`; None if no link is at fault."""
    for link in _ways_to(path):
        if not os.path.islink(link):
            continue
        subject = "it" if link == path else _readable(link)
        try:
            os.stat(link)
        except FileNotFoundError:
            return (
                f"{subject} is a link to {_readable(os.path.realpath(link))}, which does not exist"
            )
        except OSError as error:
            if error.errno == errno.ELOOP:
                target = _readable(os.readlink(link))
                return f"{subject} is a link to {target}, which leads in a circle"
            return None
    return None


def _readable(path: str) -> str:
    """A path as a part of one line of UTF-8: links may lead to names that are neither."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\n", "\\n")


def is_folder(path: str) -> bool:
    """Whether there is a folder at a local path. Raises OSError if the disk does not say."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return False
        raise


def _ways_to(path: str) -> Iterator[str]:
    """The folders on the way to a path, from the root, and the path itself."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(2, len(parts) + 1))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
