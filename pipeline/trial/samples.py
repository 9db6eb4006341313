"""Random blocks of an archive, segmented to be looked at before weeks are spent on all of it.

The same blocks each time, by the job's own stages, in this process. A band order or a scale that
is wrong shows in the pictures, in the shares of the classes and in the values.
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
from pipeline.output.unit_file import mean_confidence
from pipeline.scene import Rect, Scene
from pipeline.settings import MASK_TILE_PX
from pipeline.stages import Work
from pipeline.storage.schemes import open_store
from pipeline.trial.pictures import overlay, palette
from pipeline.unit import Block, Pixels, Stitched, Unit

EDGE_PX = 1024
_PICTURE = re.compile(r"sample-\d{3,}\.png")
_TRIES = 10
"""Blocks that are drawn for each that is shown: some hold no data."""
_ONE_CLASS = 0.99
_UNSURE, _GUESSES = 0.4, 1.2
"""A mean confidence below this, or below so many times that of a guess, is low."""


def samples(
    work: Work, scenes: Sequence[Scene], count: int, folder: str
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Segments so many blocks and writes their pictures, fewer where the archive has no more with
    data; and what there is to be noted of them.

    Raises what reading and a replica raise.
    """
    LOG.warning("segmenting samples: %d", count)
    replica = Replica(work.job, work.access, work.sharing)
    studio = _Studio(work, replica, folder)
    made: list[Sample] = []
    failed: list[Failure] = []
    for block in draw_blocks(scenes, count * _TRIES):
        if len(made) == count:
            break
        read = work.read(Unit("sample", (block,)))
        (pixels,), (result,) = read.blocks, replica.segment(read).blocks
        if isinstance(result, Failure):
            failed.append(result)
        elif isinstance(pixels, Pixels) and result.samples_TK.any():
            made.append(studio.show(block, pixels, result, len(made) + 1))
    return tuple(made), tuple(_notes(made, failed, count, len(work.job.class_names)))


def draw_blocks(scenes: Sequence[Scene], most: int) -> Iterator[Block]:
    """Different blocks of scenes by chance, large scenes more often; the same ones each time."""
    chance = random.Random(0)
    ends = list(accumulate(scene.pixels for scene in scenes))
    seen = set()
    for _ in range(most):
        (scene,) = chance.choices(scenes, cum_weights=ends)
        col, row = (
            MASK_TILE_PX * chance.randrange(max(1, -(-(size - EDGE_PX) // MASK_TILE_PX) + 1))
            for size in (scene.width, scene.height)
        )
        core = Rect(col, row, min(EDGE_PX, scene.width - col), min(EDGE_PX, scene.height - row))
        if (scene.scene_id, core) not in seen:
            seen.add((scene.scene_id, core))
            yield Block(scene, core)


class _Studio:
    """Where the pictures are made."""

    def __init__(self, work: Work, replica: Replica, folder: str) -> None:
        self._store = open_store(folder, work.access)
        self._names = work.job.class_names
        self._colors_K3 = palette(work.job.class_colors)
        self._replica = replica
        for name in filter(_PICTURE.fullmatch, self._store.list("")):
            self._store.delete(name)  # an earlier sampling's are of other blocks, or settings

    def show(self, block: Block, pixels: Pixels, result: Stitched, number: int) -> Sample:
        core, rect = block.core, pixels.rect
        top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
        here = np.s_[..., top : top + core.height, left : left + core.width]
        valid_HW = pixels.valid_HW[here]
        scale, offset = self._replica.scaling(block.scene)
        values_CHW = pixels.values_CHW[here].astype(np.float32) * scale + offset
        name = f"sample-{number:03d}.png"
        picture = overlay(values_CHW, result.class_ids_HW, valid_HW, self._colors_K3)
        self._store.write(name, picture)
        counts = np.bincount(result.class_ids_HW[valid_HW], minlength=len(self._names))
        low, high = np.nanpercentile(values_CHW[:, valid_HW], (1, 99))
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
    made: Sequence[Sample], failed: Sequence[Failure], count: int, classes: int
) -> Iterator[str]:
    """What smells."""
    if failed:
        yield f"blocks that could not be sampled: {len(failed)}; the first: {failed[0].message}"
    if len(made) < count:
        yield f"{len(made)} of {count} samples: no other block that was drawn gives data"
    if not made:
        return
    low, high = (pick(s.values[end] for s in made) for end, pick in ((0, min), (1, max)))
    if smell := range_warning("the samples'", low, high):
        yield smell
    names = {next(iter(sample.shares)) for sample in made}
    if len(names) == 1 and all(max(sample.shares.values()) > _ONE_CLASS for sample in made):
        yield (
            f"more than {_ONE_CLASS:.0%} of every sample is {names.pop()}: look at the pictures,"
            " and check --bands, --scale and the checkpoint"
        )
    weights = [sample.valid_pixels for sample in made]
    mean = np.average([sample.mean_confidence or 0.0 for sample in made], weights=weights)
    if mean < max(_UNSURE, _GUESSES / classes):
        yield (
            f"the mean confidence of the samples is only {mean:.2f}: the checkpoint may not be made"
            " for such imagery; check --bands and --scale"
        )
