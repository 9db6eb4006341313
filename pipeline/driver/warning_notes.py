"""What is said as a warning while a run works, as notes for its receipt. Knows no warning."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import LOG


class WarningNotes(logging.Filter):
    """Listens to the log of warnings; all of them pass."""

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[tuple[str, int], str] = {}
        """The first warning of each kind, which is a line of code that warns."""
        self._count: Counter[tuple[str, int]] = Counter()

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Take note of all warnings inside the block."""
        LOG.addFilter(self)
        try:
            yield
        finally:
            LOG.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            kind = record.pathname, record.lineno
            self._first.setdefault(kind, record.getMessage())
            self._count[kind] += 1
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """The first warning of each kind, and how many there were."""
        return tuple(
            text if self._count[kind] == 1 else f"{text} (the first of {self._count[kind]:,} such)"
            for kind, text in self._first.items()
        )
