"""Random blocks of an archive, segmented to be looked at before weeks are spent on all of it.

The same blocks each time, by the job's own stages, in this process. A wrong band order or scale
shows in the pictures, in the shares of the classes and in the values.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from pipeline.engine.replica import Replica
from pipeline.errors import LOG
from pipeline.estimate import Sample
from pipeline.failure import Failure
from pipeline.imagery.brightness import range_warning
from pipeline.job import Job
from pipeline.output.mask_rows import mean_confidence
from pipeline.scene import Rect, Scene
from pipeline.settings import MASK_TILE_PX
from pipeline.stages import Segmentation
from pipeline.storage.schemes import open_store
from pipeline.trial.pictures import overlay, palette
from pipeline.unit import Block, Pixels, Stitched, Unit

EDGE_PX = 1024
"""Edge of a sample's block."""
_PICTURE = re.compile(r"sample-\d{3,}\.png")
_DRAWS = 10
"""Blocks drawn for each one shown: some have no valid pixel."""
_ONE_CLASS = 0.99
"""A class that covers more of every sample than this is suspicious."""
_UNSURE = 0.4
"""A mean confidence below this is low."""
_GUESSES = 1.2
"""A mean confidence below this multiple of a guess's is low."""


def segment_samples(
    segmentation: Segmentation, scenes: Sequence[Scene], count: int, folder: str
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Segment this number of blocks and write their pictures; fewer if the archive has no more with
    valid pixels. Returns the samples and notes on them.

    Raises what reading and a replica raise.
    """
    LOG.warning("segmenting samples: %d", count)
    job = segmentation.job
    replica = Replica(job, segmentation.access, segmentation.sharing)
    album = _Album(segmentation, replica, folder)
    samples: list[Sample] = []
    failures: list[Failure] = []
    for block in draw_blocks(scenes, count * _DRAWS):
        if len(samples) == count:
            break
        read = segmentation.read(Unit("sample", (block,)))
        (pixels,) = read.blocks
        (result,) = segmentation.segment(replica.segment, read).blocks
        if isinstance(result, Failure):
            failures.append(result)
        elif isinstance(pixels, Pixels) and result.samples_TK.any():
            samples.append(album.add(block, pixels, result, len(samples) + 1))
    notes = _notes(samples, failures, count, job)
    return tuple(samples), tuple(notes)


def draw_blocks(scenes: Sequence[Scene], draws: int, edge_px: int = EDGE_PX) -> Iterator[Block]:
    """Different blocks of random scenes, of large scenes more often; the same ones each time.

    draws: the number of draws, some of which give a block that was drawn before. edge_px: of the
    blocks; those at the far edges of a scene may be smaller."""
    chance = random.Random(0)
    ends = list(accumulate(scene.pixels for scene in scenes))
    seen = set()
    for _ in range(draws):
        (scene,) = chance.choices(scenes, cum_weights=ends)
        col, row = (
            MASK_TILE_PX * chance.randrange(max(1, -(-(size - edge_px) // MASK_TILE_PX) + 1))
            for size in (scene.width, scene.height)
        )
        core = Rect(col, row, min(edge_px, scene.width - col), min(edge_px, scene.height - row))
        if (scene.scene_id, core) not in seen:
            seen.add((scene.scene_id, core))
            yield Block(scene, core)


class _Album:
    """The folder of the pictures."""

    def __init__(self, segmentation: Segmentation, replica: Replica, folder: str) -> None:
        """Deletes the pictures of an earlier sampling: its blocks or settings were others."""
        self._store = open_store(folder, segmentation.access)
        self._names = segmentation.job.class_names
        self._colors_K3 = palette(segmentation.job.class_colors)
        self._replica = replica
        value_range = segmentation.job.value_range
        self._white = value_range[1] if value_range else None
        """The value that is shown as white; None: that of each block."""
        for name in filter(_PICTURE.fullmatch, self._store.list("")):
            self._store.delete(name)

    def add(self, block: Block, pixels: Pixels, result: Stitched, number: int) -> Sample:
        """Write the picture of a segmented block, and summarize it."""
        core, rect = block.core, pixels.rect
        top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
        core_slices = np.s_[..., top : top + core.height, left : left + core.width]
        valid_HW = pixels.valid_HW[core_slices]
        scale, offset = self._replica.scaling(block.scene)
        values_CHW = pixels.values_CHW[core_slices].astype(np.float32) * scale + offset
        name = f"sample-{number:03d}.png"
        counts = np.bincount(result.class_ids_HW[valid_HW], minlength=len(self._names))
        low, high = np.nanpercentile(values_CHW[:, valid_HW], (1, 99))
        white = self._white or high or 1.0
        picture = overlay(values_CHW / white, result.class_ids_HW, valid_HW, self._colors_K3)
        self._store.write(name, picture)
        total, confidence = int(counts.sum()), int(result.confidence_TK.sum())
        return Sample(
            scene_id=block.scene.scene_id,
            window=str(core),
            picture=f"{self._store.root}/{name}",
            valid_pixels=total,
            shares={
                self._names[k]: float(counts[k] / total) for k in np.argsort(-counts) if counts[k]
            },
            mean_confidence=mean_confidence(confidence, int(result.samples_TK.sum())),
            values=(float(low), float(high)),
        )


def _notes(
    samples: Sequence[Sample], failures: Sequence[Failure], count: int, job: Job
) -> Iterator[str]:
    """Notes on samples that look wrong. count: of the samples asked for."""
    if failures:
        first = failures[0].message
        yield f"blocks that could not be sampled: {len(failures)}; the first: {first}"
    if len(samples) < count:
        yield f"{len(samples)} of {count} samples: no other block that was drawn has valid pixels"
    if not samples:
        return
    values = min(s.values[0] for s in samples), max(s.values[1] for s in samples)
    if warning := range_warning("the samples'", values, job.value_range):
        yield warning
    largest = {next(iter(sample.shares)) for sample in samples}
    if len(largest) == 1 and all(max(s.shares.values()) > _ONE_CLASS for s in samples):
        yield (
            f"more than {_ONE_CLASS:.0%} of every sample is {largest.pop()}: look at the pictures,"
            " and check --bands, --scale and the checkpoint"
        )
    weights = [sample.valid_pixels for sample in samples]
    mean = np.average([sample.mean_confidence or 0.0 for sample in samples], weights=weights)
    if mean < max(_UNSURE, _GUESSES / len(job.class_names)):
        yield (
            f"the mean confidence of the samples is only {mean:.2f}: the checkpoint may not be made"
            " for such imagery; check --bands and --scale"
        )
