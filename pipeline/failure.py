"""A thing that could not be processed. Plain values; knows no library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Failure:
    """One thing that could not be processed: a row of `quarantine`."""

    scene_id: str
    url: str
    stage: str
    """describe, read or segment."""
    window: str | None
    """The rectangle concerned, `col_off,row_off widthxheight`; None: the whole input."""
    error: str
    """The error's class; `crashed`, `timeout` or `memory` where the process ended instead."""
    message: str

    @property
    def pixels(self) -> int:
        """Of the window; 0 where the whole input failed, which was never planned."""
        if self.window is None:
            return 0
        width, height = self.window.split()[1].split("x")
        return int(width) * int(height)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rejected:
    """An input whose header could not be read, in the version that could not be read."""

    version: str
    failure: Failure
