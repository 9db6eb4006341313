"""The live line of a command. Knows how to rewrite a line of a terminal, not what is computed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Self, TextIO

from jobs import text
from pipeline.progress import Progress

TERMINAL_S = 0.2
"""Seconds between two updates of the line on a terminal."""
LOG_S = 10.0
"""Seconds between two lines if stderr is a file."""
QUIET_S = 1.0
"""Seconds that headers may take before they get a line."""
CLEAR = "\r\x1b[K"


class ProgressLine:
    """Shows each Progress that it is called with: on a terminal as one line that is rewritten,
    elsewhere as a line every LOG_S seconds."""

    def __init__(
        self,
        stream: TextIO,
        starting: str = "starting ...",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """starting: the message while no unit has an outcome, shown once."""
        self._stream = stream
        self._starting = starting
        self._clock = clock
        self._terminal = stream.isatty()
        self._pause_s = TERMINAL_S if self._terminal else LOG_S
        self._next_s = 0.0
        self._next_headers_s: float | None = None
        self._written = False
        self._last: Progress | None = None
        self._shown: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last Progress and end the line."""
        if self._last is not None and self._last != self._shown and not self._last.starting:
            self._show(self._last)
        if self._terminal and self._written:
            self._stream.write("\n")
            self._stream.flush()

    def reading(self) -> None:
        """Say that the checkpoint and headers are being read."""
        self._write("reading the checkpoint and the headers of the inputs ...")

    def described(self, done: int, total: int) -> None:
        """Show how many headers of the total have been read."""
        now_s = self._clock()
        if self._next_headers_s is None:
            self._next_headers_s = now_s + QUIET_S
        if now_s >= self._next_headers_s:
            self._next_headers_s = now_s + self._pause_s
            self._write(f"described {done:,} of {total:,} headers")

    def __call__(self, progress: Progress) -> None:
        if self._last is None:
            if progress.notes and self._terminal and self._written:
                self._stream.write(CLEAR)
            self._stream.writelines(f"note: {note}\n" for note in progress.notes)
        self._last = progress
        now_s = self._clock()
        if progress.starting:
            if self._shown is None:
                self._write(self._starting)
                self._shown = progress
        elif self._shown is None or self._shown.starting or now_s >= self._next_s:
            self._next_s = now_s + self._pause_s
            self._show(progress)

    def _show(self, progress: Progress) -> None:
        self._write(render(progress))
        self._shown = progress

    def _write(self, line: str) -> None:
        if self._terminal:
            # One column less than the terminal has, else the cursor wraps to the next line.
            line = CLEAR + line[: shutil.get_terminal_size().columns - 1]
        else:
            line += "\n"
        self._stream.write(line)
        self._stream.flush()
        self._written = True


def render(progress: Progress) -> str:
    """A line such as `120.0 Mpx of 480.0 Mpx, 25%, 3.1 Mpx/s, 1 min 56 s left`."""
    px = (progress.done_px, progress.quarantined_px, progress.total_px)
    left_s = progress.left_s
    return ", ".join(
        [
            text.pixels(*(number / 1e6 for number in px)),
            text.rate(progress.megapixels_per_s),
            "time left unknown" if left_s is None else f"{text.duration(left_s)} left",
        ]
    )
