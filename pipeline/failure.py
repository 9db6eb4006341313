"""An input or a block that could not be processed. Plain values; knows no library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Failure:
    """An input, or a block of one, that could not be processed: a row of `quarantine`."""

    scene_id: str
    url: str
    stage: str
    """describe, read, segment, finish or publish."""
    window: str | None
    """The block's core, `col_off,row_off widthxheight`; None: the whole input."""
    error: str
    """The error's class, or `crashed`, `timeout` or `memory` if the process was lost instead."""
    message: str

    @property
    def pixels(self) -> int:
        """The number of pixels in the window; 0 if the whole input failed, which was never
        planned."""
        if self.window is None:
            return 0
        width, height = self.window.split()[1].split("x")
        return int(width) * int(height)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rejected:
    """An input whose header could not be read."""

    version: str
    """The version of its bytes, as in Scene.version."""
    failure: Failure
