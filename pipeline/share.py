"""A part of the work on an output, for one of several drivers.

Knows how shares are named and divided, not what is in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from pipeline.errors import UsageError

_FORM = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Share:
    """The I-th of N parts, counted from 1: the shards whose number % N is I - 1."""

    number: int = 1
    """I."""
    of: int = 1
    """N."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(f"--shards {self}: I counts from 1 to N, as in 1/4 to 4/4")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The share that `I/N` names. Raises UsageError for other text."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(f"--shards {text}: write I/N, as in 1/4: the first of four drivers")
        return cls(int(match[1]), int(match[2]))

    @property
    def whole(self) -> bool:
        """Whether there is only one share."""
        return self.of == 1

    def takes(self, shard_number: int, retries: bool) -> bool:
        """Whether the share includes a shard.

        retries: whether the shard takes rows out of other shards' tables. One driver does that for
        all, because two that rewrite one table would undo each other's work.
        """
        return self.number == 1 if retries else shard_number % self.of == self.number - 1


ALL_SHARDS = Share()
"""The whole work, for a single driver."""
