"""Processes that end, and machines that lose power, just before any single change of an output.

A dead process changes nothing any more, not even in a `finally`: what is left is what SIGKILL
leaves. A death after a change is a death before the next one.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest

import pipeline.storage.lock_holder

Undo = Callable[[], object]


class Crash(BaseException):
    """The end of a process, as far as it can see its own."""


class Life:
    """Counts the changes that a process makes, and ends it just before change number `end`."""

    def __init__(self, end: int | None) -> None:
        self.changes = 0
        self._end = end
        self._dead = False

    def change(self) -> None:
        """Count a change that is about to be made. Raises Crash if the process is dead by then."""
        if self._dead or self.changes == self._end:
            self._dead = True
            raise Crash
        self.changes += 1


class Disk:
    """A folder, and the part of it that would survive a power cut: as little as POSIX promises.

    The content of a file lasts once the file is synced; the entries of a folder, subfolders
    included, once that folder is synced.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: set[int] = set()
        """Inodes of files whose content does not last yet."""
        self._passing: list[tuple[Path, Undo]] = []
        """Folders with changes that do not last until the folder is synced, oldest first."""

    @contextmanager
    def life(self, end: int | None) -> Iterator[Life]:
        """A process whose changes below the root are counted. Nothing is really synced."""
        life = Life(end)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "rmdir", "unlink", "link", "replace"):
                patch.setattr(os, name, self._counted(life, name))
            patch.setattr(io, "open", self._opened(life))
            patch.setattr(os, "fsync", lambda descriptor: self._sync(life, descriptor))
            yield life

    def lose_power(self, seed: int) -> None:
        """Undo each change that need not last, or not, at random."""
        rng = random.Random(seed)
        for _, undo in reversed(self._passing):
            if rng.random() < 0.5:
                with suppress(OSError):  # its file went with another change
                    undo()
        for path in self._root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self._written:
                os.truncate(path, 0)
        self._written, self._passing = set(), []

    def _counted(self, life: Life, name: str) -> Callable[..., None]:
        real = getattr(os, name)

        def change(path: Any, *arguments: Any, **options: Any) -> None:
            target = Path(arguments[0] if name in ("link", "replace") else path)
            if self._root not in target.parents or (name == "mkdir" and target.exists()):
                return real(path, *arguments, **options)
            life.change()
            undo = _undo(name, target)
            real(path, *arguments, **options)
            self._passing.append((target.parent, undo))

        return change

    def _opened(self, life: Life) -> Callable[..., IO[Any]]:
        real = io.open

        def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> IO[Any]:
            if "r" in mode or isinstance(path, int) or self._root not in Path(path).parents:
                return real(path, mode, *arguments, **options)
            if Path(path).is_dir():  # a file without a name (O_TMPFILE), which leaves nothing
                return real(path, mode, *arguments, **options)
            life.change()
            undo = _undo("open", Path(path))
            file = real(path, mode, *arguments, **options)
            self._written.add(os.fstat(file.fileno()).st_ino)
            self._passing.append((Path(path).parent, undo))
            return file

        return opened

    def _sync(self, life: Life, descriptor: int) -> None:
        life.change()
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self._passing = [passing for passing in self._passing if passing[0] != path]
        else:
            self._written.discard(os.fstat(descriptor).st_ino)


def _undo(name: str, target: Path) -> Undo:
    """The function that undoes a change, before the change is made."""
    if name == "mkdir":
        return lambda: shutil.rmtree(target)
    if name == "rmdir":
        return lambda: target.mkdir(parents=True)
    before = target.read_bytes() if target.exists() else None
    if before is None:
        return target.unlink

    def restore() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(before)

    return restore


_LIVES = itertools.count()


@contextmanager
def life_on_bucket(fs: Any, end: int | None) -> Iterator[Life]:
    """A process whose changes by this file system are counted, with another identity than earlier
    ones. Of several objects deleted at once, half may be gone."""
    life, started = Life(end), f"{next(_LIVES)}"
    identity, delete = pipeline.storage.lock_holder.process_identity, fs.rm

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **options: Any) -> Any:
            life.change()
            return real(*arguments, **options)

        return change

    def rm(paths: list[str]) -> None:
        half = len(paths) // 2
        for part in filter(None, (paths[:half], paths[half:])):
            life.change()
            delete(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "rm", rm)
        for name in ("pipe_file", "put_file"):
            patch.setattr(fs, name, counted(getattr(fs, name)))
        patch.setattr(
            pipeline.storage.lock_holder,
            "process_identity",
            lambda pid: identity(pid) | {"started": started},
        )
        yield life
