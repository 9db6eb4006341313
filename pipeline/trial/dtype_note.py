"""A note if the network would be faster on this machine in another type, and how many pixels would
keep their class. Changes no setting: the type decides the rows, and is a user's choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.engine.replica import Replica
from pipeline.errors import SwathError
from pipeline.estimate import Rate
from pipeline.processes.fresh_process import run_in_fresh_process
from pipeline.processes.sandbox import Limits
from pipeline.processes.worker_process import ADDRESS_SPACE_BYTES
from pipeline.scene import Scene
from pipeline.settings import MASK_TILE_PX
from pipeline.stages import Segmentation
from pipeline.trial.calibration import with_dtype
from pipeline.trial.samples import draw_blocks
from pipeline.unit import Block, Stitched, Unit, nodata_value

WORTH_A_NOTE = 0.9
"""The largest part of the time for which another type is named: below it, it is not chance."""
COMPARED = 3
"""Blocks of one mask tile that are segmented in both types: some twenty windows."""
_DRAWS = 10
"""Blocks drawn for each one compared: some have no valid pixel."""


@dataclass(frozen=True)
class Agreement:
    """Blocks segmented in two types."""

    blocks: int
    pixels: int
    """Their valid pixels."""
    same: int
    """Those that got the same class in both."""

    def with_block(self, ids_N: np.ndarray, other_ids_N: np.ndarray) -> Agreement:
        """One more block, with the class ids of its valid pixels in each type."""
        same = int((ids_N == other_ids_N).sum())
        return Agreement(self.blocks + 1, self.pixels + ids_N.size, self.same + same)


def dtype_note(
    segmentation: Segmentation, scenes: Sequence[Scene], rates: Mapping[str, Rate]
) -> Iterator[str]:
    """A note if the fastest of the rates, by type, is not that of the job's own type. Segments
    random blocks of the scenes to say how the classes agree, unless that type is the exact one."""
    own = segmentation.job.settings.dtype
    fastest = min(rates, key=lambda dtype: rates[dtype].window_s)
    part = rates[fastest].window_s / rates[own].window_s
    if part > WORTH_A_NOTE:
        return
    note = f"--dtype {fastest} would take {part:.2f} of the time here, in a new OUT"
    if fastest == "float32":
        yield f"{note}; it also keeps the promise of exact masks"
        return
    try:
        agreement = _agreement_in_process(segmentation, scenes, fastest)
    except SwathError as error:  # no reason to do without the estimate
        yield f"{note}; how many pixels would keep their class is unknown: {error}"
        return
    yield f"{note}; {_in_words(agreement)}; only float32 keeps the promise of exact masks"


def _in_words(agreement: Agreement) -> str:
    if not agreement.pixels:
        return "no block that was drawn has valid pixels to compare the classes"
    share = agreement.same / agreement.pixels
    return (
        f"{agreement.same:,} of {agreement.pixels:,} pixels ({share:.3%}) of"
        f" {agreement.blocks} random blocks keep their class"
    )


def _agreement_in_process(
    segmentation: Segmentation, scenes: Sequence[Scene], dtype: str
) -> Agreement:
    """See `_agreement`; in a process of its own, for a damaged file may crash GDAL."""
    blocks = tuple(draw_blocks(scenes, COMPARED * _DRAWS, MASK_TILE_PX))
    item_s = segmentation.unit_timeout_s
    limits = Limits(1, 1, item_s=item_s, memory_bytes=ADDRESS_SPACE_BYTES)
    compare = partial(_agreement, segmentation, dtype)
    return run_in_fresh_process(compare, blocks, limits, "they could not be compared")


def _agreement(segmentation: Segmentation, dtype: str, blocks: Sequence[Block]) -> Agreement:
    """Segment the first blocks with valid pixels in the job's type and in another one."""
    nodata = nodata_value(len(segmentation.job.class_names))
    replicas = [
        Replica(each.job, each.access, each.sharing)
        for each in (segmentation, with_dtype(segmentation, dtype))
    ]
    agreement = Agreement(0, 0, 0)
    for block in blocks:
        read = segmentation.read(Unit("agreement", (block,)))
        results = [segmentation.segment(replica.segment, read).blocks[0] for replica in replicas]
        ids = [result.class_ids_HW for result in results if isinstance(result, Stitched)]
        if len(ids) == len(results) and (valid_HW := ids[0] != nodata).any():
            agreement = agreement.with_block(ids[0][valid_HW], ids[1][valid_HW])
        if agreement.blocks == COMPARED:
            break
    return agreement
