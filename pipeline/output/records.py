"""Records as JSON: how they are encoded and decoded, and what is said of one that cannot be read.

Knows neither what is in a record nor where records are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import UsageError, one_line

T = TypeVar("T")

RESTORE = "put it back from a copy, or name a new --output"
"""The remedy for a damaged record that nothing else holds."""


def encode(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()


def decode(data: bytes, parse: Callable[[Any], T], place: str, remedy: str) -> T:
    """What `parse` makes of a record. Raises UsageError, with the remedy, if the record is damaged;
    and if this version of Swath cannot read it."""
    try:
        record = json.loads(data)
    except ValueError as error:  # JSON's, or UTF-8's
        why = f"{len(data)} bytes: {one_line(error)}"
        raise UsageError(f"{place}: is damaged ({why}); {remedy}") from error
    try:
        return parse(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{place}: not readable by this version of Swath ({error!r}); continue with the version"
            " that wrote it, or name a new --output"
        ) from error
