"""Numbers and values formatted for people and for scripts. Knows no command."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def aligned(lines: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    lines = list(lines)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with their cells aligned in columns."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in line).rstrip() for line in lines)


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def megapixels(number: float) -> str:
    return f"{number:,.1f} Mpx" if number >= 10 or number == 0 else f"{number:.3g} Mpx"


def pixels(done: float, quarantined: float, total: float) -> str:
    """Megapixels and their share of the work: 0.5 Mpx of 1.5 Mpx (1 Mpx quarantined), 100%."""
    apart = f" ({megapixels(quarantined)} quarantined)" if quarantined else ""
    share = (done + quarantined) / total if total else 1.0
    return f"{megapixels(done)} of {megapixels(total)}{apart}, {share:.0%}"


def significant(number: float) -> str:
    """A number with two significant digits, and all digits before the point: 0.0012, 1,234."""
    digits = 1 - math.floor(math.log10(abs(number))) if number and math.isfinite(number) else 0
    return f"{number:,.{max(0, digits)}f}"


def cost(number: float, per_1000_km2: float | None) -> str:
    """A price in the currency of --price-per-hour, and that of 1,000 km2."""
    each = "" if per_1000_km2 is None else f", {_price(per_1000_km2)} per 1,000 km2"
    return f"{_price(number)}{each}"


def _price(number: float) -> str:
    """A price with cents; below one cent, with two significant digits."""
    return f"{number:,.2f}" if number >= 0.01 or not number else significant(number)


def rate(megapixels_per_s: float) -> str:
    """A rate with two significant digits: 0.0012 Mpx/s, 1,234 Mpx/s."""
    return f"{significant(megapixels_per_s)} Mpx/s"


def size(number_bytes: float) -> str:
    """A size in powers of 1000: 1.2 GB."""
    power = 0
    while abs(number_bytes) >= 999.5 and power < len(SIZES) - 1:
        number_bytes, power = number_bytes / 1000, power + 1
    return f"{number_bytes:.3g} {SIZES[power]}"


def duration(seconds: float) -> str:
    """A duration in at most two units: 3 h 20 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24:,} d {hours % 24} h"


def to_json(value: Any) -> str:
    """One JSON document on one line: see `plain`."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON can express it.

    NaN and infinities: null. bytes: lower-case hex, as PostGIS and shapely read WKB. Dates and
    times: ISO 8601. Durations: seconds. Whole decimals: integers.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> bool | int | float | str | None:
    result: bool | int | float | str | None
    match value:
        case None | bool() | int() | str():
            result = value
        case float():
            result = value if math.isfinite(value) else None
        case Decimal():
            result = int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            result = value.hex()
        case datetime() | date() | time():
            result = value.isoformat()
        case timedelta():
            result = value.total_seconds()
        case _:
            result = str(value)
    return result
