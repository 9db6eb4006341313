"""The first directory of a classic little-endian TIFF, read and written entry by entry."""

from __future__ import annotations

import struct
from typing import NamedTuple

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, FLOAT, DOUBLE = 1, 2, 3, 4, 5, 7, 11, 12
SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1, FLOAT: 4, DOUBLE: 8}
"""Type -> bytes of a value."""


class Entry(NamedTuple):
    """A tag as it stands in a directory, right or wrong."""

    tag: int
    type: int
    number: int
    """The number of values."""
    value: bytes
    """The values, as they are stored."""


def directory_of(data: bytes) -> list[Entry]:
    """The entries of the first directory."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = []
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from("<HHI", data, place)
        size = SIZES[kind] * values
        (start,) = struct.unpack_from("<I", data, place + 8) if size > 4 else (place + 8,)
        entries.append(Entry(tag, kind, values, data[start : start + size]))
    return entries


def with_entry(data: bytes, entry: Entry) -> bytes:
    """The TIFF with this entry in its first directory, which moves to the end of the file, before
    the same next directory."""
    others = [other for other in directory_of(data) if other.tag != entry.tag]
    entries = sorted([*others, entry])
    body = data + b"\0" * (len(data) % 2)
    directory = struct.pack("<H", len(entries))
    values_at = len(body) + 2 + 12 * len(entries) + 4
    values = b""
    for tag, kind, count, value in entries:
        stored = value.ljust(4, b"\0")
        if len(stored) > 4:
            stored = struct.pack("<I", values_at + len(values))
            values += value + b"\0" * (len(value) % 2)
        directory += struct.pack("<HHI", tag, kind, count) + stored
    directory += _next_directory(data)
    return body[:4] + struct.pack("<I", len(body)) + body[8:] + directory + values


def _next_directory(data: bytes) -> bytes:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    end = at + 2 + 12 * count
    return data[end : end + 4]
