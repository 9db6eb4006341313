"""What a user is told before, during and after a run. Plain numbers; knows no library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.failure import Failure
from pipeline.storage.lock_holder import LockHolder

DONE = "done"
START_UP = "start-up"


@dataclass(frozen=True)
class Receipt:
    """After: what one run did, also one that ended early. Written to runs/<time>.json."""

    started: str
    """UTC, ISO 8601."""
    seconds: float
    startup_s: float
    """Of these, until the first unit began: headers, Ray, the checkpoint."""
    ended: str
    """DONE, or why the run ended before that."""
    output: str
    runner: str
    device: str
    replicas: int
    """At most at once, where the pool grows; 0: every unit had an outcome already."""
    units: int
    """Units of the whole plan, or of this driver's share of it, as everything below."""
    units_computed: int
    """Units this run computed; the others had an outcome already."""
    scenes_planned: int
    scenes_done: int
    scenes_partial: int
    scenes_quarantined: int
    failures: tuple[Failure, ...]
    """Every row of `quarantine`."""
    megapixels: float
    """Segmented by this run: what went to quarantine is not in it."""
    megapixels_per_s: float
    """Per replica, over the run's whole time."""
    windows: int
    """Windows of the grids of what this run segmented."""
    windows_computed: int
    """With those computed twice at block borders."""
    read_s: float
    """Summed over the units of this run, as are the next two."""
    segment_s: float
    finish_s: float
    publish_s: float
    """Summed over the shards that this run published."""
    retries: int
    """Reads, writes and listings that this run tried again because a store did not answer."""
    bounded_by: str | None
    """The stage whose workers were the busiest, read, segment, finish, publish or driver; START_UP
    where that took longer than any of them was busy; None: there was nothing to do."""
    relief: str | None
    """The setting that would relieve it; None: there was nothing to do."""
    megapixels_per_s_steady: float
    """Per replica, without start-up."""
    busy: float | None
    """Share of the replicas' time after start-up in which they segmented; None: nothing was."""
    gpu_utilisation: float | None
    """As NVML says, while they did, 0 to 1; None: no GPU, or nothing said."""
    gpu_memory_bytes: int | None
    """The most that a replica held at once; None: no GPU."""
    driver_s: float
    """CPU time of the process that hands out the units, without start-up; 0 with the plain loop."""
    km2: float | None
    """Of the valid pixels that this run segmented; None: none has a place on Earth."""
    cost: float | None
    """Of the run's whole time at --price-per-hour, in its currency."""
    cost_per_1000_km2: float | None
    pixels_without_area: int
    """Valid pixels outside their CRS's domain: they are in no `area_m2`."""
    notes: tuple[str, ...]

    @property
    def outcomes(self) -> int:
        """Scenes that have one."""
        return self.scenes_done + self.scenes_partial + self.scenes_quarantined

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Status:
    """What an output's own records say, without a cluster."""

    output: str
    units: int
    units_done: int
    """With an outcome, published or not."""
    shards: int
    shards_published: int
    scenes: int
    scenes_published: int
    quarantined: int
    """Rows of `quarantine` in published shards, but those of inputs that are being tried again."""
    quarantined_waiting: int
    """Rows that will come with the shards that are not published yet, as far as is known."""
    megapixels: float
    megapixels_done: float
    """Segmented, published or not."""
    megapixels_quarantined: float
    megapixels_open: float
    """Without an outcome: they, what is done and what is quarantined are all."""
    finished: bool
    """Of what is planned; an input that its store withheld is not planned yet."""
    settings: dict[str, Any]
    runs: tuple[dict[str, Any], ...]
    """The receipts, oldest first."""
    runs_without_receipt: int
    """At work still, killed, or unable to write any more."""
    at_work: tuple[LockHolder, ...]
    died: bool
    """Whether nobody is at work, and the latest run left no receipt."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
