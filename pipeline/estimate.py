"""What a plan rests on, goes on from, and costs. Plain numbers; knows no library."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.failure import Failure


@dataclass(frozen=True)
class Rate:
    """How fast a replica is."""

    window_s: float
    """Seconds of a replica for a window."""
    measured: bool = False
    """False: from the network's GFLOP at a nominal rate for the device."""
    replicas: int = 0
    """That were measured at once on this machine."""
    windows: int = 0
    """That each of them computed meanwhile."""


@dataclass(frozen=True)
class Sample:
    """A block that was segmented to be looked at."""

    scene_id: str
    window: str
    """The block's core, `col_off,row_off widthxheight`."""
    picture: str
    """Where its PNG lies: the pixels on the left, the classes on the right."""
    valid_pixels: int
    shares: dict[str, float]
    """Of the valid pixels, by class, the largest first; classes that do not occur are left out."""
    mean_confidence: float | None
    values: tuple[float, float]
    """Their 1st and 99th percentile as the network gets them before normalisation, 0 to 1 where
    bands and scale are right."""


@dataclass(frozen=True)
class EarlierRuns:
    """What earlier runs have left in an output."""

    megapixels_done: float
    """Segmented, published or not."""
    megapixels_quarantined: float
    scenes_quarantined: int
    """Wholly or partly, but those that will be tried again."""


def cost_of(hours: float, price_per_hour: float | None) -> float | None:
    return None if price_per_hour is None else hours * price_per_hour


def per_1000_km2(cost: float | None, km2: float | None) -> float | None:
    return cost / km2 * 1000 if cost is not None and km2 else None


@dataclass(frozen=True)
class Estimate:
    """Before: what a run would do."""

    inputs: int
    """Files that the INPUTs name."""
    scenes: int
    """To segment."""
    failures: tuple[Failure, ...]
    """Of inputs whose header cannot be used: rows that will stand in `quarantine`."""
    units: int
    windows: int
    """Windows of the scenes' grids."""
    windows_computed: int
    """With those computed twice at block borders."""
    megapixels: float
    km2: float | None
    """None: no scene has a CRS."""
    read_bytes: int
    """Uncompressed pixels to be read, halos included."""
    memory_bytes: int
    """Predicted peak of one replica's process, without what is in Ray's object store."""
    hours: float
    """With these replicas, by the rate; without start-up."""
    rate: Rate
    replicas: int
    device: str
    batch: int
    notes: tuple[str, ...]
    """Warnings a user should read."""
    memory: dict[str, int] = field(default_factory=dict)
    """Predicted peaks in bytes: a process of each kind, the object store, and all together."""
    cost: float | None = None
    """Of the hours at --price-per-hour, in its currency."""
    cost_per_1000_km2: float | None = None
    samples: tuple[Sample, ...] = ()
    earlier: EarlierRuns | None = None
    """None: there is no OUT."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
