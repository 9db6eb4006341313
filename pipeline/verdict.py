"""The verdict on an error of a library: the one place where any error is caught.

What one input makes a library raise is that input's fault, in whatever stage: it becomes a Failure
of its blocks, and the others continue. Our own errors have their verdict already, and a shortage of
memory may be another unit's doing: both are raised. Knows no stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import LOG, InputError, SwathError, UnfinishedError, one_line
from pipeline.failure import Failure
from pipeline.unit import Block, failure_of

T = TypeVar("T")


@dataclass(frozen=True)
class Foreign:
    """An error of a library, in words: the error itself would keep the arrays of its frames."""

    name: str
    """The error's class."""
    text: str
    """What it says, on one line."""

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"

    def failure(self, block: Block, stage: str) -> Failure:
        """The quarantine row of a block whose input is at fault."""
        url = block.scene.url
        message = (
            f"{url}: window {block.core}: {stage} failed with {self}; replace the file or leave it"
            " out"
        )
        return failure_of(InputError(message, url=url, stage=stage), block, self.name)


def attempt(work: Callable[[], T]) -> T | Foreign:
    """The work's result, or the error of a library that ended it. Raises SwathError and
    MemoryError."""
    try:
        return work()
    except (SwathError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001
        LOG.debug("an error of a library", exc_info=True)
        return Foreign(type(error).__name__, one_line(error))


def try_block(block: Block, stage: str, work: Callable[[], T]) -> T | Failure:
    """The work's result, or the block's Failure if its input is at fault. Raises as `attempt`,
    except for InputError."""
    try:
        result = attempt(work)
    except InputError as error:
        return failure_of(error, block)
    return result.failure(block, stage) if isinstance(result, Foreign) else result


def insist(what: str, work: Callable[[], T]) -> T:
    """The work's result, where no input can be at fault. Raises UnfinishedError, which says `what`
    failed, for an error of a library and for a shortage of memory."""
    try:
        return insist_unless_short(what, work)
    except MemoryError as error:
        raise _unfinished(what, Foreign(type(error).__name__, one_line(error))) from error


def insist_unless_short(what: str, work: Callable[[], T]) -> T:
    """As `insist`, but raises MemoryError for a shortage of memory."""
    result = attempt(work)
    if isinstance(result, Foreign):
        raise _unfinished(what, result)
    return result


def _unfinished(what: str, error: Foreign) -> UnfinishedError:
    return UnfinishedError(
        f"{what} ({error}); what is done is kept, the same command resumes the run"
    )
