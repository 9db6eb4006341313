"""Notes of `swath plan` on what a run with the same arguments would meet. Words only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pipeline.driver.batch import is_tried
from pipeline.driver.preparation import Preparation
from pipeline.driver.quarantine import remedy
from pipeline.estimate import EarlierRuns
from pipeline.output.shard import Shard


def batch_note(preparation: Preparation) -> Iterator[str]:
    """A note if a run would try the batch first."""
    if is_tried(preparation):
        batch = preparation.job.settings.batch
        yield f"whether a batch of {batch} windows fits is tried when a run starts"


def stop_note(preparation: Preparation, open_shards: Sequence[Shard]) -> Iterator[str]:
    """A note if a run would stop because too many inputs have failed."""
    if preparation.stop_reason and open_shards:
        recorded = preparation.output is not None
        yield f"the run will stop: {preparation.stop_reason}. {remedy(recorded)}"


def output_note(
    preparation: Preparation,
    output: str | None,
    open_shards: Sequence[Shard],
    earlier: EarlierRuns | None,
) -> Iterator[str]:
    """A note if OUT does not exist, or if all numbers are zero, which would be a riddle."""
    if preparation.output is None:
        if output:
            yield f"{output}: there is no output yet, so all is counted"
        return
    if any(shard.units for shard in open_shards):
        return
    if open_shards:
        count = len(open_shards)
        yield f"nothing is left to compute, but shards are to be published: {count:,}"
        return
    share = preparation.request.execution.shards
    inputs = "every input" if share.whole else f"every input of --shards {share}"
    note = f"nothing is left to do: {preparation.output.store.root} has {inputs}"
    if earlier and earlier.scenes_quarantined:
        note += (
            f", {earlier.scenes_quarantined:,} of them in quarantine: --retry-quarantined tries"
            " these again"
        )
    yield note


def runs_note(hours: float, max_hours: float | None) -> Iterator[str]:
    """A note if one run will not do."""
    if max_hours is not None and hours > max_hours:
        runs = math.ceil(hours / max_hours)
        yield f"about {runs:,} runs of --max-hours {max_hours:g}, by the same command"
