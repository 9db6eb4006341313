"""Counts what a run has computed, from the outcomes of its units. Knows no files."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.imagery.brightness import BrightnessTally
from pipeline.planning.workload import grid_windows
from pipeline.settings import Settings
from pipeline.unit import Unit, UnitOutcome


@dataclass
class Tally:
    """Sums over the units that this run computed."""

    units: int = 0
    pixels: int = 0
    """Segmented pixels; those of failed blocks do not count."""
    windows: int = 0
    """Computed windows, including those computed twice at block borders."""
    grid_windows: float = 0.0
    """Windows of the scenes' grids, each counted once."""
    read_s: float = 0.0
    segment_s: float = 0.0
    finish_s: float = 0.0
    publish_s: float = 0.0
    """Seconds of publishing, summed over shards."""
    retries: int = 0
    """Retries recorded in units' outcomes, and those of other processes that write or publish."""
    area_m2: float = 0.0
    """Area of the valid pixels that have a place on Earth."""
    gpu_bytes: int | None = None
    """The most memory that a replica used on its GPU; None: no GPU."""
    gpu_busy_s: float = 0.0
    """The part of `gpu_s` in which the GPU computed."""
    gpu_s: float = 0.0
    """Seconds of segmenting for which a GPU reported its utilization."""
    replica_s: float = 0.0
    """Seconds of all replicas, each counted from when its model was loaded; 0: not measured."""
    brightness: BrightnessTally = field(default_factory=BrightnessTally)

    def add(self, unit: Unit, outcome: UnitOutcome, settings: Settings) -> None:
        """Count a unit that was computed with these settings."""
        failed = {(failure.scene_id, failure.window) for failure in outcome.failures}
        segmented = [b for b in unit.blocks if (b.scene.scene_id, str(b.core)) not in failed]
        self.units += 1
        self.pixels += sum(block.core.pixels for block in segmented)
        self.windows += outcome.windows
        self.grid_windows += sum(grid_windows(block, settings) for block in segmented)
        self.read_s += outcome.read_s
        self.segment_s += outcome.segment_s
        self.finish_s += outcome.finish_s
        self.retries += outcome.retries
        self.area_m2 += outcome.area_m2
        if outcome.brightness is not None:
            self.brightness.add(outcome.brightness)
        if outcome.gpu_bytes is not None:
            self.gpu_bytes = max(self.gpu_bytes or 0, outcome.gpu_bytes)
        if outcome.gpu_busy is not None:
            self.gpu_s += outcome.segment_s
            self.gpu_busy_s += outcome.segment_s * outcome.gpu_busy
