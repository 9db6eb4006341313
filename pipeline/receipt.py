"""What a user is told before, during and after a run. Plain numbers; knows no library."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.estimate import Earlier, Rate, Sample
from pipeline.storage.holder import Driver


@dataclass(frozen=True)
class Failure:
    """One thing that could not be processed: a row of `quarantine`."""

    scene_id: str
    url: str
    stage: str
    """describe, read or segment."""
    window: str | None
    """The rectangle concerned, `col_off,row_off widthxheight`; None: the whole input."""
    error: str
    """The error's class; `crashed`, `timeout` or `memory` where the process ended instead."""
    message: str

    @property
    def pixels(self) -> int:
        """Of the window; 0 where the whole input failed, which was never planned."""
        if self.window is None:
            return 0
        width, height = self.window.split()[1].split("x")
        return int(width) * int(height)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """Before: what a run would do."""

    inputs: int
    """Files that the INPUTs name."""
    scenes: int
    """To segment."""
    failures: tuple[Failure, ...]
    """Of inputs whose header cannot be used: rows that will stand in `quarantine`."""
    units: int
    windows: int
    """Windows of the scenes' grids."""
    windows_computed: int
    """With those computed twice at block borders."""
    megapixels: float
    km2: float | None
    """None: no scene has a CRS."""
    read_bytes: int
    """Uncompressed pixels to be read, halos included."""
    memory_bytes: int
    """Predicted peak of one replica's process, without what is in Ray's object store."""
    hours: float
    """With these replicas, by the rate; without start-up."""
    rate: Rate
    replicas: int
    device: str
    batch: int
    notes: tuple[str, ...]
    """Warnings a user should read."""
    memory: dict[str, int] = field(default_factory=dict)
    """Predicted peaks in bytes: a process of each kind, the object store, and all together."""
    cost: float | None = None
    """Of the hours at --price-per-hour, in its currency."""
    cost_per_1000_km2: float | None = None
    samples: tuple[Sample, ...] = ()
    earlier: Earlier | None = None
    """None: there is no OUT."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """During: what has an outcome by now."""

    done_px: int
    """Segmented: what went to quarantine is counted apart."""
    total_px: int
    computed_px: int
    """Segmented by this run, without what earlier runs left."""
    elapsed_s: float
    """Since the first unit of this run began; 0 before one has an outcome."""
    done_units: int
    total_units: int
    notes: tuple[str, ...] = ()
    """What a user should read before the work is done."""
    quarantined_px: int = 0
    computed_units: int = 0
    """By this run."""
    quarantined: int = 0
    """Inputs in quarantine."""
    retries: int = 0
    """Of this run."""

    @property
    def starting(self) -> bool:
        """No unit has an outcome by this run yet, and some have none at all."""
        return self.elapsed_s == 0 and self.done_units < self.total_units

    @property
    def left_px(self) -> int:
        """Without an outcome."""
        return self.total_px - self.done_px - self.quarantined_px

    @property
    def megapixels_per_s(self) -> float:
        return self.computed_px / 1e6 / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """None while nothing has been computed yet."""
        if not self.left_px:
            return 0.0
        if not self.computed_px:
            return None
        return self.left_px * self.elapsed_s / self.computed_px


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
    at_work: tuple[Driver, ...]
    died: bool
    """Whether nobody is at work, and the latest run left no receipt."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
