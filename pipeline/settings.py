"""The options of a job, and the constants that several rooms share.

Settings decide the rows and are recorded; Execution and Trial do not. Knows what values are
possible, not what is done with them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from pipeline.errors import CheckpointError, UsageError
from pipeline.share import ALL_SHARDS, Share
from pipeline.storage.access import DEFAULT_ACCESS, Access
from segformer.checkpoints.variants import WEIGHTS
from segformer.normalisation_options import NormalisationOptions

RESULT_VERSION = 5
"""The version of the rows: raise it whenever the same inputs and settings would give other rows."""
MASK_TILE_PX = 512
"""Edge of a mask tile: one row of `masks`."""
ROW_GROUP_ROWS = 256
"""The largest number of rows in a row group of a table: 64 MB of masks, uncompressed, with 8-bit
classes."""
GDAL_CACHE_BYTES = 128 << 20
"""Decoded tiles that GDAL may keep per process: a row of 512-px tiles of a scene 20,000 px wide
in three bands of two bytes is 61 MB. (GDAL's default is 5 % of the machine, in every process.)"""
DTYPES = ("float32", "bfloat16", "float16")
"""The network's arithmetic, by numpy's and torch's names."""
FILE: Literal["file"] = "file"
"""`--scale file`: each file's own scale and offset."""
AUTO, RAY, LOCAL = "auto", "ray", "local"
"""What --runner can be."""
ALPHA = ("band", "data")
"""What --alpha can say of a band that GDAL calls alpha."""


@dataclass(frozen=True)
class Settings:
    """The options of `run` that decide the rows. Fields are named after the options."""

    window: int = 512
    """Edge of the square that the network sees, in pixels."""
    stride: int = 384
    """Step between window origins, in pixels."""
    dtype: str = "float32"
    """Arithmetic of the network."""
    batch: int | None = None
    """Windows per forward pass; None: chosen for the device, then recorded."""
    bands: tuple[int, ...] | None = None
    """The 1-based band of each channel; None: by color interpretation, else the first ones."""
    alpha: str | None = None
    """Whether a band that GDAL calls alpha is an alpha band or data, such as near infrared: ALPHA;
    None: a fourth band of 8 bits is judged by its values, any other is alpha."""
    scale: float | Literal["file"] | None = None
    """For scenes that are not uint8: value * scale + offset replaces value / 255. FILE: each file's
    own scale and offset are applied, to uint8 as well."""
    offset: float | None = None
    """See `scale`; None: 0."""
    nodata: float | None = None
    """Overrides the nodata value of every input."""
    mean: tuple[float, ...] | None = None
    """Per channel, of values after `rescale` or `scale`; None: the checkpoint's."""
    std: tuple[float, ...] | None = None
    """Per channel, in the same unit; None: the checkpoint's."""
    rescale: float | None = None
    """Factor for scenes that are uint8; None: the checkpoint's, mostly 1 / 255."""
    weights: str | None = None
    """The weights that are run of a checkpoint that holds both: WEIGHTS, as they were trained or an
    average of them; None: raw ones, but an average that its program keeps as the weights."""

    def __post_init__(self) -> None:
        if self.window < 32:
            raise UsageError(f"--window {self.window}: the network needs at least 32 px")
        if not 1 <= self.stride <= self.window:
            raise UsageError(
                f"--stride {self.stride}: must be between 1 and the window of {self.window} px,"
                " or pixels would be skipped"
            )
        if self.dtype not in DTYPES:
            raise UsageError(f"--dtype {self.dtype}: choose one of {', '.join(DTYPES)}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch {self.batch}: must be at least 1")
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            bands = ",".join(map(str, self.bands))
            raise UsageError(f"--bands '{bands}': bands count from 1, e.g. --bands 4,3,2")
        self._check_values()
        for name, choices in (("alpha", ALPHA), ("weights", WEIGHTS)):
            value = getattr(self, name)
            if value not in (None, *choices):
                raise UsageError(f"--{name} {value}: choose {' or '.join(choices)}")

    def _check_values(self) -> None:
        """Raises UsageError for numbers that make no network input of stored values."""
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"--{name} {value}: must be a finite number")
        if self.scale == 0:
            raise UsageError("--scale 0 would make every pixel the same; leave it out for uint8")
        if isinstance(self.scale, str) and self.scale != FILE:
            raise UsageError(f"--scale {self.scale}: must be a number, or {FILE}")
        if self.offset is not None and self.scale is None:
            raise UsageError("--offset needs --scale: value * scale + offset")
        if self.offset is not None and self.scale == FILE:
            raise UsageError(f"--scale {FILE} takes the offset from each file, too: omit --offset")
        try:
            _ = self.reading
        except CheckpointError as error:
            raise UsageError(str(error)) from error

    @property
    def reading(self) -> dict[str, Any]:
        """How the checkpoint is read: what `segformer.read_checkpoint` is given with its place."""
        normalisation = NormalisationOptions(self.rescale, self.mean, self.std)
        return {"weights": self.weights, "normalisation": normalisation}

    def to_json(self) -> dict[str, Any]:
        """The record. Numbers that may be fractions are floats, as the command line makes them."""
        record = asdict(self)
        for name in ("scale", "offset", "nodata", "rescale"):
            if isinstance(record[name], int):
                record[name] = float(record[name])
        for name in ("mean", "std"):
            record[name] = record[name] and tuple(map(float, record[name]))
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """The recorded settings; options that are younger than the record have their defaults."""
        lists = {name: record.get(name) for name in ("bands", "mean", "std")}
        return cls(**record | {n: None if v is None else tuple(v) for n, v in lists.items()})


@dataclass(frozen=True)
class Execution:
    """The options of `run` that do not decide the rows. Fields are named after the options."""

    block: int | None = None
    """Edge of a block's core in pixels, a multiple of the mask tile; None: planned."""
    replicas: int | tuple[int, int] | None = None
    """The number of loaded models, or the minimum and maximum of a pool that grows with the work;
    None: two per GPU, or one per CPU core."""
    runner: str = AUTO
    """RAY; LOCAL: a plain loop in this process; AUTO: for small jobs a plain loop in a process of
    its own, from which Ray takes over if it dies; else Ray."""
    address: str | None = None
    """A Ray cluster to join; None: one is started on this machine."""
    unit_timeout: float = 900.0
    """Seconds without progress after which a unit is considered hung; waiting for a store does not
    count."""
    max_quarantined: int | None = None
    """The number of inputs in quarantine beyond which the run stops; None: 100, or 1 % of the plan
    if that is more."""
    retry_quarantined: bool = False
    """Whether quarantined inputs that have not changed are retried; changed ones always are."""
    shards: Share = ALL_SHARDS
    """The part of the shards that this driver computes, beside other drivers of the same output."""
    max_hours: float | None = None
    """Hours after which no new unit is started; None: no limit."""
    price_per_hour: float | None = None
    """The price of all machines of the run together, in any currency; None: costs are not
    estimated."""
    access: Access = DEFAULT_ACCESS
    """How remote files are reached: --storage-options."""

    def __post_init__(self) -> None:
        if self.block is not None and (self.block < MASK_TILE_PX or self.block % MASK_TILE_PX):
            below = max(MASK_TILE_PX, self.block // MASK_TILE_PX * MASK_TILE_PX)
            raise UsageError(
                f"--block {self.block}: must be a multiple of the mask tile of {MASK_TILE_PX} px;"
                f" try {below}"
            )
        fewest, most = self.pool or (1, 1)
        if not 1 <= fewest <= most:
            raise UsageError(
                f"--replicas {format_replicas(self.replicas)}: must be at least 1, and MIN:MAX in"
                " order"
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
        if self.runner not in (AUTO, RAY, LOCAL):
            raise UsageError(f"--runner {self.runner}: choose auto, ray or local")
        if self.runner == LOCAL and (self.address or most > 1):
            raise UsageError(
                "--runner local is one replica in this process: omit --address and --replicas"
            )

    @property
    def pool(self) -> tuple[int, int] | None:
        """The minimum and the maximum number of replicas; None: chosen for the machine."""
        if isinstance(self.replicas, int):
            return self.replicas, self.replicas
        return self.replicas


def format_replicas(replicas: int | tuple[int, int] | None) -> str:
    """The value of --replicas on the command line: `4`, or `2:8` for a pool."""
    return f"{replicas}" if isinstance(replicas, int) else ":".join(map(str, replicas or ()))


@dataclass(frozen=True)
class Trial:
    """The options of `plan` that make it compute something on this machine. Fields are named after
    the options."""

    calibrate: bool = False
    """Whether to measure the time of a window."""
    sample: int = 0
    """The number of blocks to segment, for somebody to look at."""
    sample_to: str | None = None
    """The folder for their pictures."""

    def __post_init__(self) -> None:
        if self.sample < 0:
            raise UsageError(f"--sample {self.sample}: must not be negative")
        if self.sample and not self.sample_to:
            raise UsageError(
                f"--sample {self.sample}: name a folder for the pictures: --sample-to FOLDER"
            )
        if self.sample_to and not self.sample:
            raise UsageError(f"--sample-to {self.sample_to}: say how many: --sample 5")


NO_TRIAL = Trial()
"""A plan from headers alone."""
