"""What a plan rests on, goes on from, and costs. Plain numbers; knows no library."""

from __future__ import annotations

from dataclasses import dataclass


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
class Earlier:
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
