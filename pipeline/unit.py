"""A unit of work, and its forms between the stages: planned, read, segmented, done.

Arrays and plain values, no library's types, so that a process that reads need not load the
network's library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from pipeline.errors import InputError
from pipeline.failure import Failure
from pipeline.scene import Rect, Scene

CONFIDENCE_SCALE = 65535
"""Confidences are summed as integers: this stands for a probability of 1."""


@dataclass(frozen=True, slots=True)
class Block:
    """The part of one scene that a unit produces the mask of."""

    scene: Scene
    """The scene, whose grid the windows are laid over."""
    core: Rect
    """The pixels of the mask; they are read with a halo (WindowGrid.read_rect)."""


@dataclass(frozen=True)
class Unit:
    """The unit of work, of output and of resume: a block of a large scene, or several small
    scenes."""

    shard: str
    """The id of the shard that the unit belongs to."""
    blocks: tuple[Block, ...]
    """One block, or one for each of the small scenes."""

    @property
    def pixels(self) -> int:
        """The number of pixels in the cores."""
        return sum(block.core.pixels for block in self.blocks)

    @cached_property
    def unit_id(self) -> str:
        """A hash of the unit's blocks and their versions, so that a second run of the unit
        overwrites the file of the first."""
        parts = [f"{b.scene.scene_id}\0{b.scene.version}\0{b.core}" for b in self.blocks]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


ValueRange = tuple[float, float]
"""The 1st and the 99th percentile of values as the network gets them before normalization."""


@dataclass(frozen=True)
class Pixels:
    """A rectangle of a scene."""

    values_CHW: np.ndarray
    """In the scene's `values_dtype`, one plane per band of `scene.bands`. May hold NaN at valid
    pixels of float data if another band has a value."""
    valid_HW: np.ndarray
    """bool, True = data."""
    rect: Rect
    """The rectangle, inside the scene."""


@dataclass(frozen=True)
class ReadUnit:
    """A unit after reading."""

    unit: Unit
    blocks: tuple[Pixels | Failure, ...]
    """The pixels of each block, or why there are none."""
    read_s: float
    """Seconds of reading."""
    retries: int = 0
    """Retries while reading."""
    brightness: ValueRange | None = None
    """The range of the pixels that --scale applies to; None: there are none."""

    def pieces(self) -> Iterator[ReadUnit]:
        """A unit for each block, with its pixels or Failure."""
        for block, pixels in zip(self.unit.blocks, self.blocks, strict=True):
            yield ReadUnit(Unit(self.unit.shard, (block,)), (pixels,), read_s=0.0)


@dataclass(frozen=True)
class GpuUse:
    """The use of a replica's GPU while the replica segmented a unit."""

    peak_bytes: int
    """The peak of GPU memory held by the process since it started."""
    busy: float | None
    """The fraction of the time that the GPU computed, 0 to 1; None: NVML does not say."""


@dataclass(frozen=True)
class Stitched:
    """The result of a block: the blended core. T is the mask tiles of the core, row by row; K the
    classes."""

    class_ids_HW: np.ndarray
    """uint8, or uint16 above 255 classes; nodata where the scene has no data."""
    confidence_TK: np.ndarray
    """int64: the sum of the winner's probability over the sampled pixels of each tile and winning
    class, in units of 1 / CONFIDENCE_SCALE."""
    samples_TK: np.ndarray
    """int64: the number of those pixels."""


@dataclass(frozen=True)
class SegmentedUnit:
    """A unit after segmentation."""

    unit: Unit
    blocks: tuple[Stitched | Failure, ...]
    """The result of each block, or why there is none."""
    windows: int
    """The number of windows computed."""
    read_s: float
    """Seconds of reading."""
    segment_s: float
    """Seconds of segmenting."""
    retries: int
    """Retries so far."""
    gpu: GpuUse | None = None
    """None on a CPU."""
    brightness: ValueRange | None = None
    """As in ReadUnit."""

    @classmethod
    def failed(cls, unit: Unit, failure: Failure) -> Self:
        """A unit of one block, which failed."""
        return cls(unit, (failure,), windows=0, read_s=0.0, segment_s=0.0, retries=0)

    @classmethod
    def joined(cls, unit: Unit, pieces: Sequence[SegmentedUnit]) -> Self:
        """The unit from one piece for each of its blocks."""
        return cls(
            unit,
            tuple(piece.blocks[0] for piece in pieces),
            windows=sum(piece.windows for piece in pieces),
            read_s=sum(piece.read_s for piece in pieces),
            segment_s=sum(piece.segment_s for piece in pieces),
            retries=sum(piece.retries for piece in pieces),
            gpu=next((piece.gpu for piece in reversed(pieces) if piece.gpu), None),
        )

    def pieces(self) -> Iterator[SegmentedUnit]:
        """A unit for each block, with its result alone."""
        for block, result in zip(self.unit.blocks, self.blocks, strict=True):
            piece = Unit(self.unit.shard, (block,))
            yield replace(self, unit=piece, blocks=(result,))


@dataclass(frozen=True)
class UnitOutcome:
    """The outcome of a unit, as the footer of its file records it."""

    failures: tuple[Failure, ...]
    """The blocks that could not be processed."""
    windows: int
    """The number of windows computed."""
    pixels_without_area: Mapping[str, int]
    """scene_id -> the number of valid pixels outside the domain of the scene's CRS."""
    area_m2: float
    """The area of all valid pixels that have a place on Earth."""
    read_s: float
    """Seconds of reading."""
    segment_s: float
    """Seconds of segmenting."""
    finish_s: float
    """Seconds of finishing, up to the writing of the file."""
    retries: int
    """Retries of all stages."""
    gpu_bytes: int | None
    """The peak of GPU memory in bytes, as in GpuUse; None on a CPU."""
    gpu_busy: float | None
    """The GPU's utilization, as in GpuUse."""
    brightness: ValueRange | None
    """As in ReadUnit."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The outcome in a record; keys of earlier versions that are no longer read are ignored."""
        known = {field.name: record[field.name] for field in fields(cls)}
        known["failures"] = tuple(Failure(**row) for row in record["failures"])
        brightness = record["brightness"]
        known["brightness"] = None if brightness is None else (brightness[0], brightness[1])
        return cls(**known)


def mask_dtype(num_classes: int) -> np.dtype:
    """The dtype of class ids: uint8 for up to 255 classes, since 255 is nodata; beyond that
    uint16, little-endian."""
    return np.dtype(np.uint8) if num_classes <= 255 else np.dtype("<u2")


def nodata_value(num_classes: int) -> int:
    """The class id of pixels without data: the largest of the dtype."""
    return int(np.iinfo(mask_dtype(num_classes)).max)


def failure_of(error: InputError, block: Block, name: str | None = None) -> Failure:
    """The quarantine row of a block. `name` replaces the name of the error's class."""
    return Failure(
        scene_id=block.scene.scene_id,
        url=block.scene.url,
        stage=error.stage,
        window=str(block.core),
        error=name or type(error.__cause__ or error).__name__,
        message=error.message,
    )
