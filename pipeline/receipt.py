"""The receipt of a run and the status of an output, as recorded and printed. Plain values; knows no
library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.failure import Failure
from pipeline.storage.lock_holder import LockHolder

DONE = "done"
"""`Receipt.ended` of a run that finished."""
START_UP = "start-up"
"""`Receipt.bounded_by` of a run that spent most of its time starting."""


@dataclass(frozen=True)
class Receipt:
    """The record of one run, even if it stopped early. Written to runs/<time>.json."""

    started: str
    """UTC, ISO 8601."""
    seconds: float
    """The run's whole time."""
    startup_s: float
    """The part of `seconds` before the first unit started."""
    startup: dict[str, float]
    """Part of the start -> its seconds: checkpoint (waiting for it), headers, plan, ray (until it
    runs), replicas (until the first unit starts)."""
    ended: str
    """DONE, or why the run stopped before that."""
    output: str
    """The OUT folder."""
    runner: str
    """`ray` or `local`."""
    device: str
    """`cpu` or `cuda`."""
    replicas: int
    """The number of replicas, the largest at any time if the pool grows; 0: every unit had an
    outcome already."""
    units: int
    """Units of the whole plan, or of this driver's share of it, as are all numbers below."""
    units_computed: int
    """Units that this run computed; the others had an outcome already."""
    scenes_planned: int
    scenes_done: int
    """Scenes of which every block was segmented."""
    scenes_partial: int
    """Scenes of which some blocks are in quarantine."""
    scenes_quarantined: int
    """Scenes that are in quarantine as a whole."""
    failures: tuple[Failure, ...]
    """Every row of `quarantine`."""
    megapixels: float
    """Megapixels segmented by this run, without those in quarantine."""
    megapixels_per_s: float
    """Megapixels per second and replica, over the run's whole time."""
    windows: int
    """Windows of the grids over what this run segmented."""
    windows_computed: int
    """The same, with those computed twice at block borders."""
    read_s: float
    """Seconds of reading, summed over the units of this run."""
    segment_s: float
    """Seconds of segmenting, summed over the units of this run."""
    finish_s: float
    """Seconds of writing units' files, summed over the units of this run."""
    publish_s: float
    """Seconds of publishing, summed over the shards that this run published."""
    retries: int
    """Reads, writes and listings that this run retried because a store did not answer."""
    bounded_by: str | None
    """The stage with the busiest workers: read, segment, finish, publish or driver; START_UP if
    that took longer than any of them was busy; None: there was nothing to do."""
    relief: str | None
    """The setting that would relieve that stage; None: there was nothing to do."""
    megapixels_per_s_steady: float
    """Megapixels per second and replica, without start-up."""
    busy: float | None
    """Share of the replicas' time after start-up that they spent segmenting, 0 to 1; None: nothing
    was segmented."""
    gpu_utilisation: float | None
    """The GPU's utilization while the replicas segmented, according to NVML, 0 to 1; None: no
    GPU, or NVML does not say."""
    gpu_memory_bytes: int | None
    """The peak GPU memory of any replica; None: no GPU."""
    driver_s: float
    """CPU time of the process that hands out the units, without start-up; 0 with the plain loop."""
    km2: float | None
    """Area of the valid pixels that this run segmented; None: none has a place on Earth."""
    cost: float | None
    """Cost of the run's whole time at --price-per-hour, in its currency; None: no price."""
    cost_per_1000_km2: float | None
    """The same per 1,000 km2; None: no price, or no area."""
    pixels_without_area: int
    """Valid pixels outside their CRS's domain: no `area_m2` includes them."""
    notes: tuple[str, ...]
    """Warnings that a user should read."""

    @property
    def outcomes(self) -> int:
        """The number of scenes that have an outcome."""
        return self.scenes_done + self.scenes_partial + self.scenes_quarantined

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Status:
    """The state of an output according to its own records, read without a cluster."""

    output: str
    """The OUT folder."""
    units: int
    """Planned units."""
    units_done: int
    """Units with an outcome, published or not."""
    shards: int
    """Planned shards."""
    shards_published: int
    """Shards whose tables are written and committed."""
    scenes: int
    """Planned scenes."""
    scenes_published: int
    """Scenes of the published shards."""
    quarantined: int
    """Rows of `quarantine` in published shards, except those of inputs that are being retried."""
    quarantined_waiting: int
    """Rows that unpublished shards will add, as far as is known."""
    megapixels: float
    """Planned megapixels: done + quarantined + open."""
    megapixels_done: float
    """Megapixels segmented, published or not."""
    megapixels_quarantined: float
    """Megapixels in quarantine."""
    megapixels_open: float
    """Megapixels without an outcome yet."""
    finished: bool
    """Whether all that is planned is published; an input that its store did not give is not planned
    yet."""
    settings: dict[str, Any]
    """The Settings that the output was computed with."""
    runs: tuple[dict[str, Any], ...]
    """The receipts, oldest first."""
    runs_without_receipt: int
    """Runs that are still at work, were killed, or could no longer write."""
    at_work: tuple[LockHolder, ...]
    """The drivers that are at work."""
    died: bool
    """Whether no driver is at work, and the latest run left no receipt."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
