"""Whether pixels are as bright as a network expects: there a wrong --scale shows.

Knows pixels and their scaling; knows neither files nor the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.unit import Pixels, Range

EVERY_PX = 16
"""One pixel in 256 is looked at: a quarter million of 64."""
_OUTSIDE, _DARK = 0.5, 0.05
"""Values that lie so far beyond 0 and 1, or all below this, are scaled wrongly."""


def brightness(parts: Sequence[Pixels], scale: float, offset: float) -> Range | None:
    """Of the valid values in every 16th column and row; None: there are none."""
    every = np.s_[..., ::EVERY_PX, ::EVERY_PX]
    values = [np.zeros(0, np.float32)]
    for part in parts:
        values.append(part.values_CHW[every][:, part.valid_HW[every]].ravel().astype(np.float32))
    found_N = np.concatenate(values) * scale + offset
    found_N = found_N[np.isfinite(found_N)]
    if not found_N.size:
        return None
    low, high = np.percentile(found_N, (1, 99))
    return float(low), float(high)


def doubt(whose: str, low: float, high: float) -> str | None:
    """What such values smell of; None: nothing. whose: `the pixels'`."""
    if _is_outside(low, high):
        return (
            f"{whose} values run from {low:.3g} to {high:.3g}, but the network expects 0 to 1:"
            " check --scale and --offset"
        )
    if high < _DARK:
        return (
            f"{whose} values end at {high:.2g}, but the network expects 0 to 1: check --scale and"
            " --nodata"
        )
    return None


def _is_outside(low: float, high: float) -> bool:
    return low < -_OUTSIDE or high > 1 + _OUTSIDE


@dataclass
class Seen:
    """What the units of a run show. A few of them may be clouds, or the sea at night."""

    units: int = 0
    outside: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, found: Range) -> None:
        self.units += 1
        self.outside += _is_outside(*found)
        self.low, self.high = min(self.low, found[0]), max(self.high, found[1])

    @property
    def too_bright(self) -> bool:
        """Or too dark: most units lie outside."""
        return 2 * self.outside > self.units

    @property
    def doubt(self) -> str | None:
        if self.units and (self.too_bright or self.high < _DARK):
            return doubt("the pixels'", self.low, self.high)
        return None
