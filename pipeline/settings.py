"""What a job is told. Settings decide the rows and are recorded; Execution does not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from pipeline.errors import UsageError
from pipeline.share import ALL_SHARDS, Share
from pipeline.storage.access import DEFAULT_ACCESS, Access

RESULT_VERSION = 4
"""Raised whenever the same inputs and settings would give other rows."""
MASK_TILE_PX = 512
"""Edge of a mask tile: one row of `masks`."""
ROW_GROUP_ROWS = 256
"""The largest number of rows in a row group of a table: 64 MB of masks, uncompressed, with 8-bit
classes."""
GDAL_CACHE_BYTES = 128 << 20
"""Decoded tiles that GDAL may keep per process: a row of 512-px tiles of a scene 20,000 px wide
in three bands of two bytes is 61 MB. (GDAL's default is 5 % of the machine, in every process.)"""
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """Options of `run` that decide the result. Fields are named after the options."""

    window: int = 512
    """Edge of the square the network sees, in pixels."""
    stride: int = 384
    """Step between window origins, in pixels."""
    dtype: str = "float32"
    """Arithmetic of the network."""
    batch: int | None = None
    """Windows per forward pass; None: chosen for the device, then recorded."""
    bands: tuple[int, ...] | None = None
    """1-based band of each channel; None: by colour interpretation, else the first ones."""
    scale: float | None = None
    """For scenes that are not uint8: value * scale + offset takes the place of value / 255."""
    offset: float | None = None
    nodata: float | None = None
    """Overrides the nodata value of every input."""

    def __post_init__(self) -> None:
        if self.window < 32:
            raise UsageError(f"--window {self.window}: the network needs at least 32 px")
        if not 1 <= self.stride <= self.window:
            raise UsageError(
                f"--stride {self.stride}: must lie between 1 and the window of {self.window} px,"
                " or pixels would be left out"
            )
        if self.dtype not in DTYPES:
            raise UsageError(f"--dtype {self.dtype}: choose one of {', '.join(DTYPES)}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch {self.batch}: must be at least 1")
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            given = ",".join(map(str, self.bands))
            raise UsageError(f"--bands '{given}': bands count from 1, e.g. --bands 4,3,2")
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if value is not None and not math.isfinite(value):
                raise UsageError(f"--{name} {value}: must be a finite number")
        if self.scale == 0:
            raise UsageError("--scale 0 would make every pixel the same; leave it out for uint8")
        if self.offset is not None and self.scale is None:
            raise UsageError("--offset needs --scale: value * scale + offset")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        bands = fields["bands"]
        return cls(**dict(fields, bands=None if bands is None else tuple(bands)))


@dataclass(frozen=True)
class Execution:
    """Options of `run` that do not decide the result."""

    block: int | None = None
    """Edge of a block's core in pixels, a multiple of the mask tile; None: planned."""
    replicas: int | tuple[int, int] | None = None
    """Loaded models, or the fewest and the most of a pool that grows with the work; None: two per
    GPU, or one per CPU core."""
    runner: str = "ray"
    """"ray", or "local": a plain loop in this process."""
    address: str | None = None
    """A Ray cluster to join; None: one is started on this machine."""
    unit_timeout: float = 900.0
    """Seconds after which a unit that does not get on is taken to hang; waiting for a store does
    not count."""
    max_quarantined: int | None = None
    """More inputs in quarantine stop the run; None: 100, or 1 % of the plan where that is more."""
    retry_quarantined: bool = False
    """Whether quarantined inputs that have not changed are tried again; changed ones always are."""
    shards: Share = ALL_SHARDS
    """The part of the shards that this driver computes, beside others on the same output."""
    max_hours: float | None = None
    """After which nothing more is begun; None: no limit."""
    price_per_hour: float | None = None
    """Of all machines of the run together, in any currency; None: nothing is said of cost."""
    access: Access = DEFAULT_ACCESS
    """How remote files are reached."""

    def __post_init__(self) -> None:
        if self.block is not None and (self.block < MASK_TILE_PX or self.block % MASK_TILE_PX):
            below = max(MASK_TILE_PX, self.block // MASK_TILE_PX * MASK_TILE_PX)
            raise UsageError(
                f"--block {self.block}: must be a multiple of the mask tile of {MASK_TILE_PX} px;"
                f" try {below}"
            )
        least, most = self.pool or (1, 1)
        if not 1 <= least <= most:
            raise UsageError(
                f"--replicas {format_replicas(self.replicas)}: must be at least 1, and MIN:MAX in order"
            )
        if self.unit_timeout < 1:
            raise UsageError(f"--unit-timeout {self.unit_timeout:g}: must be at least 1 s")
        if self.max_quarantined is not None and self.max_quarantined < 0:
            raise UsageError(f"--max-quarantined {self.max_quarantined}: must not be negative")
        if self.max_hours is not None and not self.max_hours > 0:
            raise UsageError(f"--max-hours {self.max_hours:g}: must be more than 0")
        price = self.price_per_hour
        if price is not None and not 0 <= price < math.inf:
            raise UsageError(f"--price-per-hour {price:g}: must be a number, 0 or more")
        if self.runner not in ("ray", "local"):
            raise UsageError(f"--runner {self.runner}: choose ray or local")
        if self.runner == "local" and (self.address or most > 1):
            raise UsageError(
                "--runner local is one replica in this process: leave --address and --replicas out"
            )

    @property
    def pool(self) -> tuple[int, int] | None:
        """The fewest replicas and the most."""
        if isinstance(self.replicas, int):
            return self.replicas, self.replicas
        return self.replicas


def format_replicas(replicas: int | tuple[int, int] | None) -> str:
    """As --replicas takes it."""
    return f"{replicas}" if isinstance(replicas, int) else ":".join(map(str, replicas or ()))


@dataclass(frozen=True)
class Trial:
    """Options of `plan` by which it computes something on this machine."""

    calibrate: bool = False
    """Whether the time of a window is measured."""
    sample: int = 0
    """Blocks that are segmented, to be looked at."""
    sample_to: str | None = None
    """The folder of their pictures."""

    def __post_init__(self) -> None:
        if self.sample < 0:
            raise UsageError(f"--sample {self.sample}: must not be negative")
        if self.sample and not self.sample_to:
            raise UsageError(
                f"--sample {self.sample}: name the folder of the pictures: --sample-to FOLDER"
            )
        if self.sample_to and not self.sample:
            raise UsageError(f"--sample-to {self.sample_to}: say how many: --sample 5")


NO_TRIAL = Trial()
