"""The headers of many files, read in separate processes: a file that crashes GDAL must not end the
run. A store that does not deliver a file is distinguished from a fault of the file.

Knows neither what an INPUT is nor what is planned already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.errors import SwathError, TransientError, one_line
from pipeline.failure import Failure, Rejected
from pipeline.imagery.input_file import InputFile, escape_non_utf8
from pipeline.processes.host import available_cores
from pipeline.processes.sandbox import Died, Limits, Outcome, Returned, run_in_sandbox
from pipeline.scene import Scene
from pipeline.storage.retry import retries_so_far

_PROCESSES = 8
"""The largest number of processes: a driver may have many cores, and each process is a copy of GDAL
of some 100 MB."""
_THREADS = 8
"""Threads per process: headers wait for the disk or the network, not for the CPU."""
_HEADER_S = 60.0
"""The longest that a header may take; it takes milliseconds. Waiting for a store does not count."""
_MAX_UNAVAILABLE = 8
"""A store that delivers other files may fail to deliver this many; more are the store's fault."""
_HEADER_BYTES = 1_000_000_000
"""Memory that the headers under way in one process may allocate. The largest honest ones, tile
indices of scenes of 10^12 px, take some 10 MB."""

OnDescribed = Callable[[int, int], None]
"""Called with the number of headers read so far and the number of all of them."""
RunItems = Callable[
    [Callable[[Any], Any], Sequence[Any], Limits], Generator[tuple[int, Outcome[Any]], None, None]
]
"""A function like `run_in_sandbox`."""


@dataclass(frozen=True)
class Described:
    """The result of describing some files."""

    results: tuple[Scene | Rejected, ...]
    """Scenes, and files without a usable one."""
    unavailable: tuple[tuple[InputFile, TransientError], ...]
    """Files that their store did not deliver however often it was asked."""
    retries: int
    """Retries in the processes that read the headers."""


@dataclass(frozen=True)
class _Counted:
    """A described file, and the retries of the process that described it."""

    result: Scene | Failure
    process: int
    """The process id."""
    retries: int
    """Retries of the whole process so far: those of its threads cannot be told apart."""


@dataclass(frozen=True)
class HeaderPool:
    """Processes that read headers, and who is told how far they are."""

    on_described: OnDescribed | None = None
    """None: nobody is told."""
    run_items: RunItems | None = None
    """What takes the place of `run_in_sandbox`; None: nothing."""

    def read(
        self, files: Sequence[InputFile], describe: Callable[[InputFile], Scene | Failure]
    ) -> Described:
        """Describe the files in parallel processes.

        `describe` can be imported by its name, or is a functools.partial of such a function. Raises
        the store's TransientError if more than a few files are unavailable: a transient failure is
        no file's fault, and retrying each of them takes minutes.
        """
        limits = Limits(
            processes=min(available_cores(), _PROCESSES),
            threads=_THREADS,
            item_s=_HEADER_S,
            memory_bytes=_HEADER_BYTES,
        )
        run_items = self.run_items or run_in_sandbox
        results: dict[int, Scene | Rejected] = {}
        unavailable: dict[int, TransientError] = {}
        retries: dict[int, int] = {}
        with closing(run_items(partial(_describe_counted, describe), files, limits)) as outcomes:
            for index, outcome in outcomes:
                if isinstance(outcome, Returned):
                    process, count = outcome.value.process, outcome.value.retries
                    retries[process] = max(count, retries.get(process, 0))
                try:
                    results[index] = _result(files[index], outcome)
                except TransientError as error:
                    unavailable[index] = error
                    if len(unavailable) > _MAX_UNAVAILABLE:
                        raise
                if self.on_described:
                    self.on_described(len(results) + len(unavailable), len(files))
        retries.pop(os.getpid(), None)  # this process's own are counted already
        return Described(
            tuple(results[index] for index in sorted(results)),
            tuple((files[index], unavailable[index]) for index in sorted(unavailable)),
            sum(retries.values()),
        )


def _describe_counted(
    describe: Callable[[InputFile], Scene | Failure], file: InputFile
) -> _Counted:
    result = describe(file)
    return _Counted(result, os.getpid(), retries_so_far())


def _result(file: InputFile, outcome: Outcome[_Counted]) -> Scene | Rejected:
    """Raises errors that concern more than this file: those of its store."""
    if isinstance(outcome, Returned):
        result = outcome.value.result
        return result if isinstance(result, Scene) else Rejected(file.version, result)
    if isinstance(outcome, Died):
        return _rejected(file, outcome.reason, outcome.how)
    if isinstance(outcome.error, SwathError):
        raise outcome.error
    return _rejected(file, type(outcome.error).__name__, str(outcome.error))


def _rejected(file: InputFile, error: str, reason: str) -> Rejected:
    url = escape_non_utf8(file.url)
    failure = Failure(
        scene_id=escape_non_utf8(file.scene_id),
        url=url,
        stage="describe",
        window=None,
        error=error,
        message=f"{url}: its header cannot be read: {one_line(reason, '')}; replace the file or"
        " leave it out",
    )
    return Rejected(file.version, failure)
