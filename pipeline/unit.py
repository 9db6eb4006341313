"""What a unit is between the stages: read, then segmented. Arrays and plain values, no library's
types, so that a reader's process need not load the network's library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np

from pipeline.errors import InputError
from pipeline.failure import Failure
from pipeline.scene import Rect, Scene

CONFIDENCE_SCALE = 65535
"""A probability of 1 as the integer in which confidences are summed."""


@dataclass(frozen=True, slots=True)
class Block:
    """A unit's share of one scene: the core whose mask it produces."""

    scene: Scene
    core: Rect


@dataclass(frozen=True)
class Unit:
    """What one row of the flow carries: one block of a large scene, or several small scenes."""

    shard: str
    blocks: tuple[Block, ...]

    @property
    def pixels(self) -> int:
        return sum(block.core.pixels for block in self.blocks)

    @cached_property
    def unit_id(self) -> str:
        """A hash of what the unit consists of, so that a retry overwrites itself."""
        parts = [f"{b.scene.scene_id}\0{b.scene.version}\0{b.core}" for b in self.blocks]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


ValueRange = tuple[float, float]
"""The 1st and the 99th percentile of values as the network gets them before normalisation."""


@dataclass(frozen=True)
class Pixels:
    """A rectangle of a scene, as stored."""

    values_CHW: np.ndarray
    """In the scene's dtype, one plane per band of `scene.bands`. May hold NaN at valid pixels of
    float data, where another band has a value."""
    valid_HW: np.ndarray
    """bool, True = data."""
    rect: Rect
    """Where in the scene; inside it."""


@dataclass(frozen=True)
class ReadUnit:
    """A unit with, for each of its blocks, its pixels or why there are none."""

    unit: Unit
    blocks: tuple[Pixels | Failure, ...]
    read_s: float
    retries: int = 0
    """How often something was tried again while reading."""
    brightness: ValueRange | None = None
    """Of the pixels that --scale is for; None: there are none."""


@dataclass(frozen=True)
class GpuUse:
    """What a replica's GPU says of the time in which it segmented a unit."""

    peak_bytes: int
    """Of its memory that the process held at once, since it began."""
    busy: float | None
    """Share of the time in which it computed, 0 to 1; None: NVML does not say."""


@dataclass(frozen=True)
class Stitched:
    """The blended core of a block.

    class_ids_HW: uint8, or uint16 above 255 classes; nodata where the scene has no data.
    confidence_TK, samples_TK: int64, for each mask tile of the core (row by row) and class: the sum
    of the winner's probability, as integers out of CONFIDENCE_SCALE, over the sampled pixels, and
    how many those are.
    """

    class_ids_HW: np.ndarray
    confidence_TK: np.ndarray
    samples_TK: np.ndarray


@dataclass(frozen=True)
class SegmentedUnit:
    """A unit with, for each of its blocks, its class ids or why there are none."""

    unit: Unit
    blocks: tuple[Stitched | Failure, ...]
    windows: int
    read_s: float
    segment_s: float
    retries: int
    gpu: GpuUse | None = None
    """None on a CPU."""
    brightness: ValueRange | None = None
    """As it was read."""


@dataclass(frozen=True)
class UnitOutcome:
    """What came of a unit, as the footer of its file records it."""

    failures: tuple[Failure, ...]
    """The blocks that could not be processed."""
    windows: int
    """The number of windows computed."""
    pixels_without_area: Mapping[str, int]
    """scene_id -> the number of valid pixels outside the domain of the scene's CRS."""
    area_m2: float
    """The area of all valid pixels that have a place on Earth."""
    read_s: float
    segment_s: float
    finish_s: float
    """Seconds up to the writing of the file."""
    retries: int
    gpu_bytes: int | None
    """The peak of GPU memory in bytes, as in GpuUse; None on a CPU."""
    gpu_busy: float | None
    """The GPU's utilisation, as in GpuUse."""
    brightness: ValueRange | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Keys of earlier versions that are no longer read are ignored."""
        known = {field.name: record[field.name] for field in fields(cls)}
        known["failures"] = tuple(Failure(**row) for row in record["failures"])
        brightness = record["brightness"]
        known["brightness"] = None if brightness is None else (brightness[0], brightness[1])
        return cls(**known)


def mask_dtype(num_classes: int) -> np.dtype:
    """uint8 leaves 255 for nodata, so 255 classes fit; beyond that uint16."""
    return np.dtype(np.uint8) if num_classes <= 255 else np.dtype("<u2")


def nodata_value(num_classes: int) -> int:
    return int(np.iinfo(mask_dtype(num_classes)).max)


def failure_of(error: InputError, block: Block, name: str | None = None) -> Failure:
    """The quarantine row of a block; `name` is the error's where it has no class of its own."""
    return Failure(
        scene_id=block.scene.scene_id,
        url=block.scene.url,
        stage=error.stage,
        window=str(block.core),
        error=name or type(error.__cause__ or error).__name__,
        message=error.message,
    )
