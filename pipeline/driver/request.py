"""What a command asks for, and the loop that is opened to carry it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.driver.loop_process import OpenLoop, open_loop
from pipeline.imagery.header_pool import OnDescribed
from pipeline.settings import Execution, Settings


@dataclass(frozen=True)
class Request:
    """What a command asks for."""

    inputs: Sequence[str]
    checkpoint: str
    settings: Settings
    execution: Execution
    on_described: OnDescribed | None = None
    loop: OpenLoop | None = None
    """What reads the checkpoint, and computes if no Ray is needed; None: `opened` opens it."""

    @contextmanager
    def opened(self) -> Iterator[OpenedRequest]:
        """The request with a loop, which ends with the block unless the request had one."""
        if self.loop:
            yield OpenedRequest(**vars(self))
            return
        with open_loop(self.checkpoint, self.settings, self.execution) as loop:
            yield OpenedRequest(**{**vars(self), "loop": loop})


@dataclass(frozen=True, kw_only=True)
class OpenedRequest(Request):
    """A request that can be carried out."""

    loop: OpenLoop
