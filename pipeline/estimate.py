"""The estimate of a plan: work, time, memory and cost, and what they are based on. Plain values;
knows no library."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.failure import Failure


@dataclass(frozen=True)
class Rate:
    """The speed of a replica."""

    window_s: float
    """Seconds per window and replica."""
    measured: bool = False
    """False: derived from the network's GFLOP at a nominal rate for the device."""
    replicas: int = 0
    """Replicas measured at the same time on this machine; 0: none."""
    windows: int = 0
    """Windows that each of them computed meanwhile."""


@dataclass(frozen=True)
class Sample:
    """A block that was segmented for somebody to look at."""

    scene_id: str
    """The block's scene."""
    window: str
    """The block's core, `col_off,row_off widthxheight`."""
    picture: str
    """The URL of its PNG: pixels on the left, classes on the right."""
    valid_pixels: int
    """The number of pixels with data."""
    shares: dict[str, float]
    """Fraction of the valid pixels by class, the largest first, without classes that do not
    occur."""
    mean_confidence: float | None
    """The mean probability of the winning classes; None: no valid pixels."""
    values: tuple[float, float]
    """The 1st and 99th percentile of the valid pixels as the network gets them, before
    normalization: within 0 to 1 if bands and scale are right."""


@dataclass(frozen=True)
class EarlierRuns:
    """The results of earlier runs in an output."""

    megapixels_done: float
    """Megapixels segmented, published or not."""
    megapixels_quarantined: float
    """Megapixels in quarantine."""
    scenes_quarantined: int
    """Scenes in quarantine, wholly or partly, except those that will be retried."""


def cost_of(hours: float, price_per_hour: float | None) -> float | None:
    """Cost in the price's currency; None without a price."""
    return None if price_per_hour is None else hours * price_per_hour


def per_1000_km2(cost: float | None, km2: float | None) -> float | None:
    """Cost per 1,000 km2; None without a cost or an area."""
    return cost / km2 * 1000 if cost is not None and km2 else None


@dataclass(frozen=True)
class Estimate:
    """The work, time, memory and cost of a run that has not started."""

    inputs: int
    """Files that the INPUTs name."""
    scenes: int
    """Scenes to segment."""
    failures: tuple[Failure, ...]
    """Inputs whose header cannot be used: future rows of `quarantine`."""
    units: int
    """Units to compute."""
    windows: int
    """Windows of the scenes' grids."""
    windows_computed: int
    """The same, with those computed twice at block borders."""
    megapixels: float
    """Megapixels to segment."""
    km2: float | None
    """Area of the scenes; None: no scene has a CRS."""
    read_bytes: int
    """Size of the pixels to read, uncompressed, halos included."""
    memory_bytes: int
    """Predicted peak of one replica's process, without what is in Ray's object store."""
    hours: float
    """Estimated time with these replicas at this rate, without start-up."""
    rate: Rate
    """The speed of a replica."""
    replicas: int
    """The number of replicas."""
    device: str
    """`cpu` or `cuda`."""
    batch: int
    """Windows per forward pass."""
    notes: tuple[str, ...]
    """Warnings that a user should read."""
    memory: dict[str, int] = field(default_factory=dict)
    """Predicted peaks in bytes: a process of each kind, the object store, and all together."""
    cost: float | None = None
    """Cost of these hours at --price-per-hour, in its currency; None: no price."""
    cost_per_1000_km2: float | None = None
    """The same per 1,000 km2; None: no price, or no area."""
    samples: tuple[Sample, ...] = ()
    """The blocks that --sample asked for."""
    earlier: EarlierRuns | None = None
    """The results of earlier runs; None: there is no OUT."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
