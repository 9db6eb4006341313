"""A unit's file: the rows of its blocks, and the unit's outcome in the footer. Knows neither the
network nor where files are."""

from __future__ import annotations

import io
import time
from collections import Counter

from pipeline.failure import Failure
from pipeline.output.class_sums import SumClasses, plain_sums
from pipeline.output.mask_rows import MaskRow, mask_rows, unit_columns
from pipeline.output.parquet import write_table
from pipeline.output.schemas import UNIT
from pipeline.output.tables import table_of_columns
from pipeline.unit import SegmentedUnit, UnitOutcome


def unit_file(segmented: SegmentedUnit) -> bytes:
    """The unit's Parquet file: one row per mask tile with data, and the UnitOutcome in its footer.

    A unit all of whose blocks failed has no rows, but has an outcome.
    """
    started, gpu = time.perf_counter(), segmented.gpu
    sum_classes = _choose_sums(has_gpu=gpu is not None)
    rows: list[MaskRow] = []
    failures: list[Failure] = []
    without_area: Counter[str] = Counter()
    for block, result in zip(segmented.unit.blocks, segmented.blocks, strict=True):
        if isinstance(result, Failure):
            failures.append(result)
            continue
        block_rows, pixels = mask_rows(block, result, sum_classes)
        rows += block_rows
        if pixels:
            without_area[block.scene.scene_id] += pixels
    area_m2 = sum(m2 for row in rows for m2 in row["classes"]["area_m2"].tolist())
    table = table_of_columns(unit_columns(rows), UNIT)
    del rows  # the masks are in the table now
    outcome = UnitOutcome(
        failures=tuple(failures),
        windows=segmented.windows,
        pixels_without_area=dict(without_area),  # asdict cannot copy a Counter
        area_m2=area_m2,
        read_s=segmented.read_s,
        segment_s=segmented.segment_s,
        finish_s=time.perf_counter() - started,
        retries=segmented.retries,
        gpu_bytes=gpu.peak_bytes if gpu else None,
        gpu_busy=gpu.busy if gpu else None,
        brightness=segmented.brightness,
    )
    file = io.BytesIO()
    write_table(file, table, outcome.to_json())
    return file.getvalue()


def _choose_sums(has_gpu: bool) -> SumClasses:
    """The compiled loop if there is a GPU, which would have to wait for anything slower. On a CPU
    the loop does not make up for numba, which takes 0.4 s and 115 MB in each process."""
    if has_gpu:
        from pipeline.output.class_sums_compiled import compiled_sums  # noqa: PLC0415

        return compiled_sums
    return plain_sums
