"""The headers of many files, read in processes of their own, for one that crashes GDAL must not end
the run; and whether a file that could not be had is at fault or its store.

Knows neither what an INPUT is nor what is planned already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from urllib.parse import urlsplit

from pipeline.errors import SwathError, TransientError, UnfinishedError
from pipeline.inputs import Found, printable
from pipeline.output import Rejected
from pipeline.receipt import Failure
from pipeline.sandbox import Died, Limits, Outcome, Returned, sandboxed
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


def all_described(
    files: Sequence[Found],
    earlier: Sequence[Found],
    work: Callable[[Found], Scene | Failure],
    hurried: Callable[[Found], Scene | Failure],
    on_described: OnDescribed,
) -> list[Scene | Rejected]:
    """In the order of the files; on_described is told how many of how many.

    What a store does not give it may give to `hurried`, which is tried once more when all others
    have come. If it does not, but gives another file right after, the file is at fault. Raises the
    store's error where it gives no other, or withholds more than a few.

    earlier: other files, which could be described before this run.
    """
    limits = Limits(
        processes=min(os.cpu_count() or 1, _PROCESSES),
        threads=_THREADS,
        item_s=_HEADER_S,
        memory_bytes=_HEADER_BYTES,
    )
    results: dict[int, Scene | Rejected] = {}
    withheld: list[int] = []
    with closing(sandboxed(work, files, limits)) as outcomes:
        for index, outcome in outcomes:
            try:
                results[index] = _described(files[index], outcome)
            except UnfinishedError:
                withheld.append(index)
                if len(withheld) > _FEW:
                    raise
            else:
                on_described(len(results), len(files))
    came = [files[index] for index, result in results.items() if isinstance(result, Scene)]
    for index in withheld:
        results[index] = _once_more(files[index], [*earlier, *came], hurried, limits)
        on_described(len(results), len(files))
    return [results[index] for index in range(len(files))]


def _once_more(
    file: Found,
    others: Sequence[Found],
    hurried: Callable[[Found], Scene | Failure],
    limits: Limits,
) -> Scene | Rejected:
    """others: files that came."""
    store = _store_of(file.url)
    witness = next((other for other in reversed(others) if _store_of(other.url) == store), None)
    try:
        return _tried(file, hurried, limits)
    except UnfinishedError as error:
        if witness is None or not isinstance(_tried(witness, hurried, limits), Scene):
            raise
        why = error.cause if isinstance(error, TransientError) else str(error)
        why = f"{why.removeprefix(f'{file.url}: ')}, though other files come"
        # Without a version, for nothing of it has been seen: the next run tries it again.
        return replace(_rejected(file, type(error).__name__, why), version="")


def _tried(
    file: Found, work: Callable[[Found], Scene | Failure], limits: Limits
) -> Scene | Rejected:
    with closing(sandboxed(work, [file], limits)) as outcomes:
        return next(_described(file, outcome) for _, outcome in outcomes)


def _store_of(url: str) -> str:
    """On disk the folder: others may lie on other drives."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if "://" in url else os.path.dirname(url)


def _described(file: Found, outcome: Outcome[Scene | Failure]) -> Scene | Rejected:
    """Raises what concerns more than this file: a store that does not answer."""
    if isinstance(outcome, Returned):
        if isinstance(outcome.value, Scene):
            return outcome.value
        return Rejected(file.version, outcome.value)
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
