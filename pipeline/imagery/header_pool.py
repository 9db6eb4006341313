"""The headers of many files, read in processes of their own, for one that crashes GDAL must not end
the run. What a store does not give is told apart from what is wrong with a file.

Knows neither what an INPUT is nor what is planned already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from pipeline.errors import SwathError, TransientError
from pipeline.failure import Failure, Rejected
from pipeline.imagery.counted import Counted, counted, retries_of
from pipeline.imagery.inputs import Found, printable
from pipeline.processes.host import cores_here
from pipeline.processes.sandbox import Died, Limits, Outcome, Returned, sandboxed
from pipeline.scene import Scene

_PROCESSES = 8
"""At most: a driver may have many cores, and each process is a copy of GDAL of some 100 MB."""
_THREADS = 8
"""Headers wait for the disk or the network, not for the CPU."""
_HEADER_S = 60.0
"""A header takes milliseconds. To wait for a store does not count."""
_FEW = 8
"""So many files may be withheld by a store that gives others; more are the store's matter."""
_HEADER_BYTES = 1_000_000_000
"""What the headers under way in one process may allocate. The largest honest ones, tile indices of
scenes of 10^12 px, take some 10 MB."""

OnDescribed = Callable[[int, int], None]


@dataclass(frozen=True)
class Described:
    """What came of the files, in their order."""

    results: tuple[Scene | Rejected, ...]
    withheld: tuple[tuple[Found, TransientError], ...]
    """Files that their store did not give for as long as it is waited for."""
    retries: int
    """Of the processes, until they ended."""


def all_described(
    files: Sequence[Found],
    work: Callable[[Found], Scene | Failure],
    on_described: OnDescribed,
) -> Described:
    """on_described is told how many of how many. Raises the store's error where more than a few
    files are withheld: what may pass is nobody's fault, and waiting for each takes minutes."""
    limits = Limits(
        processes=min(cores_here(), _PROCESSES),
        threads=_THREADS,
        item_s=_HEADER_S,
        memory_bytes=_HEADER_BYTES,
    )
    results: dict[int, Scene | Rejected] = {}
    withheld: dict[int, TransientError] = {}
    came: list[Counted[Scene | Failure]] = []
    with closing(sandboxed(partial(counted, work), files, limits)) as outcomes:
        for index, outcome in outcomes:
            if isinstance(outcome, Returned):
                came.append(outcome.value)
            try:
                results[index] = _described(files[index], outcome)
            except TransientError as error:
                withheld[index] = error
                if len(withheld) > _FEW:
                    raise
            on_described(len(results) + len(withheld), len(files))
    return Described(
        tuple(results[index] for index in sorted(results)),
        tuple((files[index], withheld[index]) for index in sorted(withheld)),
        retries_of(came),
    )


def _described(file: Found, outcome: Outcome[Counted[Scene | Failure]]) -> Scene | Rejected:
    """Raises what concerns more than this file: a store that does not answer."""
    if isinstance(outcome, Returned):
        found = outcome.value.value
        return found if isinstance(found, Scene) else Rejected(file.version, found)
    if isinstance(outcome, Died):
        return _rejected(file, outcome.reason, outcome.how)
    if isinstance(outcome.error, SwathError):
        raise outcome.error
    return _rejected(file, type(outcome.error).__name__, str(outcome.error))


def _rejected(file: Found, error: str, why: str) -> Rejected:
    url = printable(file.url)
    why = " ".join(why.split())
    failure = Failure(
        scene_id=printable(file.scene_id),
        url=url,
        stage="describe",
        window=None,
        error=error,
        message=f"{url}: its header cannot be read: {why}; replace the file or leave it out",
    )
    return Rejected(file.version, failure)
