"""Whether pixels are as bright as the network expects, which shows a wrong --scale or --offset.

Knows pixels and their scaling; knows neither files nor the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.unit import Pixels, ValueRange

STEP_PX = 16
"""Every 16th column of every 16th row is examined: a quarter million of 64 Mpx."""
_TOLERANCE = 0.5
"""Values that lie farther outside the expected range than this part of it are scaled wrongly."""
_DARK = 0.05
"""Values that are all below this part of the range's end are scaled wrongly."""


def value_range(parts: Sequence[Pixels], scale: float, offset: float) -> ValueRange | None:
    """The range of the scaled valid values in every 16th column and row; None if there are none."""
    grid = np.s_[..., ::STEP_PX, ::STEP_PX]
    values = [np.zeros(0, np.float32)]
    for part in parts:
        values.append(part.values_CHW[grid][:, part.valid_HW[grid]].ravel().astype(np.float32))
    scaled_N = np.concatenate(values) * scale + offset
    scaled_N = scaled_N[np.isfinite(scaled_N)]
    if not scaled_N.size:
        return None
    low, high = np.percentile(scaled_N, (1, 99))
    return float(low), float(high)


def range_warning(owner: str, values: ValueRange, expected: ValueRange | None) -> str | None:
    """Why such a range of values is suspicious, or None. owner: whose values, `the pixels'`;
    expected: what the network was trained on, None: not known."""
    if expected is None:
        return None
    low, high = values
    expects = f"the network expects {expected[0]:.3g} to {expected[1]:.3g}"
    if _is_outside(values, expected):
        return (
            f"{owner} values run from {low:.3g} to {high:.3g}, but {expects}: check --scale and"
            " --offset"
        )
    if _is_dark(values, expected):
        return f"{owner} values end at {high:.2g}, but {expects}: check --scale and --nodata"
    return None


def _is_outside(values: ValueRange, expected: ValueRange) -> bool:
    margin = _TOLERANCE * (expected[1] - expected[0])
    return values[0] < expected[0] - margin or values[1] > expected[1] + margin


def _is_dark(values: ValueRange, expected: ValueRange) -> bool:
    return values[1] < _DARK * expected[1]


@dataclass
class BrightnessTally:
    """The ranges of a run's units. A few may be suspicious by nature: clouds, the sea at night."""

    expected: ValueRange | None = (0.0, 1.0)
    """The range that the network was trained on; None: not known, and nothing is suspicious."""
    units: int = 0
    outside: int = 0
    """Units whose values are far outside of it."""
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: ValueRange) -> None:
        low, high = values
        self.units += 1
        self.outside += self.expected is not None and _is_outside(values, self.expected)
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def is_out_of_range(self) -> bool:
        """Whether the values of most units are far outside the expected range."""
        return 2 * self.outside > self.units

    @property
    def warning(self) -> str | None:
        """Why the values so far are suspicious, or None."""
        values = self.low, self.high
        if self.expected is None or not self.units:
            return None
        if self.is_out_of_range or _is_dark(values, self.expected):
            return range_warning("the pixels'", values, self.expected)
        return None
