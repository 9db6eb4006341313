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
"""Values that lie farther than this below 0 or above 1 are scaled wrongly."""
_DARK = 0.05
"""Values that are all below this are scaled wrongly."""


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


def range_warning(owner: str, low: float, high: float) -> str | None:
    """Why such a range of values is suspicious, or None. owner: whose values, `the pixels'`."""
    if _is_outside(low, high):
        return (
            f"{owner} values run from {low:.3g} to {high:.3g}, but the network expects 0 to 1:"
            " check --scale and --offset"
        )
    if high < _DARK:
        return (
            f"{owner} values end at {high:.2g}, but the network expects 0 to 1: check --scale and"
            " --nodata"
        )
    return None


def _is_outside(low: float, high: float) -> bool:
    return low < -_TOLERANCE or high > 1 + _TOLERANCE


@dataclass
class BrightnessTally:
    """The ranges of a run's units. A few may be suspicious by nature: clouds, the sea at night."""

    units: int = 0
    outside: int = 0
    """Units whose values are far outside 0 to 1."""
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: ValueRange) -> None:
        low, high = values
        self.units += 1
        self.outside += _is_outside(low, high)
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def is_out_of_range(self) -> bool:
        """Whether the values of most units are far outside 0 to 1."""
        return 2 * self.outside > self.units

    @property
    def warning(self) -> str | None:
        """Why the values so far are suspicious, or None."""
        if self.units and (self.is_out_of_range or self.high < _DARK):
            return range_warning("the pixels'", self.low, self.high)
        return None
