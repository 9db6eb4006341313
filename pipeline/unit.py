"""What a unit is between the stages: read, then segmented. Arrays and plain values, no library's
types, so that a reader's process need not load the network's library."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import InputError
from pipeline.imagery.brightness import Range
from pipeline.imagery.raster import Pixels
from pipeline.receipt import Failure
from pipeline.scene import Block, Unit

CONFIDENCE_SCALE = 65535
"""A probability of 1 as the integer in which confidences are summed."""


@dataclass(frozen=True)
class ReadUnit:
    """A unit with, for each of its blocks, its pixels or why there are none."""

    unit: Unit
    blocks: tuple[Pixels | Failure, ...]
    read_s: float
    retries: int = 0
    """How often something was tried again while reading."""
    brightness: Range | None = None
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
    brightness: Range | None = None
    """As it was read."""


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
