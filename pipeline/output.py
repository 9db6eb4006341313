"""The layout of OUT: the job, the plan's shards, the unit files, the commits.

    OUT/job.json|toml  plan/<shard>.json  work/<shard>/<unit_id>.parquet  commits/<shard>.json
        masks|statistics|scenes|quarantine/<shard>.parquet  classes.parquet
        runs/<time>.json|toml  lock*.json (while a run is at work)

The folder is the interface: what is done is what its listings say. Knows how records are named and
encoded, not what is done with them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from typing import Any, Self

from pipeline.access import PLAIN, Access
from pipeline.errors import UsageError
from pipeline.receipt import Failure
from pipeline.scene import Block, Rect, Scene, Unit
from pipeline.settings import RESULT_VERSION, Settings
from pipeline.store import Store
from pipeline.stores import open_store
from pipeline.tables import CLASSES, table_of, write_table
from pipeline.turns import is_lock


@dataclass(frozen=True)
class Job:
    """What decides the rows of an output; immutable once job.json is written."""

    settings: Settings
    """With the batch settled."""
    checkpoint: str
    checkpoint_sha256: str
    device: str
    """cpu or cuda: rows are bit-equal per kind of device."""
    class_names: tuple[str, ...]
    class_colors: tuple[str | None, ...]
    result_version: int = RESULT_VERSION

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self._deciding(), sort_keys=True).encode()).hexdigest()

    def _deciding(self) -> dict[str, Any]:
        return {
            **self.settings.to_json(),
            "checkpoint_sha256": self.checkpoint_sha256,
            "device": self.device,
            "result_version": self.result_version,
        }

    def differences(self, other: Job) -> list[str]:
        """What `other` would decide differently, in words."""
        mine, theirs = self._deciding(), other._deciding()
        return [
            f"{name}: {mine[name]} here, {theirs[name]} asked for"
            for name in mine
            if json.dumps(mine[name]) != json.dumps(theirs[name])  # nan is the same as nan
        ]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        known = {name: fields[name] for name in cls.__dataclass_fields__}
        known["settings"] = Settings.from_json(fields["settings"])
        known["class_names"] = tuple(fields["class_names"])
        known["class_colors"] = tuple(fields["class_colors"])
        return cls(**known)


@dataclass(frozen=True)
class Rejected:
    """An input whose header could not be read, in the version that could not be read."""

    version: str
    failure: Failure


@dataclass(frozen=True)
class Shard:
    """Whole scenes and the units that cover them: what is published and committed at once."""

    shard_id: str
    scenes: tuple[Scene, ...]
    units: tuple[Unit, ...]
    rejected: tuple[Rejected, ...]
    retries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """scene_id -> the shards of its earlier tries, whose rows this one replaces."""

    @cached_property
    def scene_ids(self) -> frozenset[str]:
        """Of its inputs, those that could not be described too."""
        rejected = (rejected.failure.scene_id for rejected in self.rejected)
        return frozenset([*(scene.scene_id for scene in self.scenes), *rejected])

    @property
    def pixels(self) -> int:
        return sum(unit.pixels for unit in self.units)

    def to_json(self) -> dict[str, Any]:
        index = {scene.scene_id: i for i, scene in enumerate(self.scenes)}
        return {
            "shard": self.shard_id,
            "scenes": [scene.to_json() for scene in self.scenes],
            "units": [
                [[index[b.scene.scene_id], *astuple(b.core)] for b in unit.blocks]
                for unit in self.units
            ],
            "rejected": [
                {"version": r.version, "failure": r.failure.to_json()} for r in self.rejected
            ],
            "retries": dict(self.retries),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        scenes = tuple(Scene.from_json(scene) for scene in fields["scenes"])
        units = tuple(
            Unit(fields["shard"], tuple(Block(scenes[i], Rect(*rect)) for i, *rect in blocks))
            for blocks in fields["units"]
        )
        rejected = tuple(
            Rejected(r["version"], Failure(**r["failure"])) for r in fields["rejected"]
        )
        retries = {scene_id: tuple(earlier) for scene_id, earlier in fields["retries"].items()}
        return cls(fields["shard"], scenes, units, rejected, retries)


class Output:
    """An OUT that has its job.json."""

    def __init__(self, store: Store, job: Job) -> None:
        self.store = store
        self.job = job

    @classmethod
    def open(cls, url: str, access: Access = PLAIN) -> Self:
        """Raises UsageError where there is no output of Swath."""
        store = open_store(url, access)
        if not store.exists("job.json"):
            why = "not an output of Swath (it has no job.json)"
            if not store.list(""):  # which raises UsageError where there is no such bucket
                why = "no such folder, or an empty one; check the path"
            raise UsageError(f"{url}: {why}")
        return cls(store, _read_job(store, url))

    @classmethod
    def find(cls, url: str, access: Access) -> Self | None:
        """None where OUT is new. Raises UsageError where it holds something else."""
        store = open_store(url, access)
        if store.exists("job.json"):
            return cls(store, _read_job(store, url))
        # classes.parquet alone: an earlier run was killed while it created the output.
        if any(name != "classes.parquet" and not is_lock(name) for name in store.list("")):
            raise UsageError(f"{url}: holds files that are no output of Swath; name a new folder")
        return None

    @classmethod
    def create(cls, url: str, job: Job, access: Access = PLAIN) -> Self:
        """A new output. Raises UsageError where another run has created it meanwhile."""
        store = open_store(url, access)
        store.write("classes.parquet", _classes(job))
        if not store.create("job.json", _encode(job.to_json())):
            raise UsageError(f"{url}: another run has just created it; wait for it to end")
        return cls(store, job)

    def check_same(self, job: Job) -> None:
        """Raises UsageError where `job` would give other rows, naming the differences."""
        if differences := self.job.differences(job):
            raise UsageError(
                f"{self.store.root}: belongs to a job with other settings"
                f" ({'; '.join(differences)}); use the recorded ones or a new --output"
            )

    def shards(self) -> Iterator[Shard]:
        for name in self.store.list("plan"):
            with _of_this_version(f"{self.store.root}/plan/{name}"):
                yield Shard.from_json(json.loads(self.store.read(f"plan/{name}")))

    def append(self, shard: Shard) -> None:
        """Adds a shard to the plan, which is never rewritten."""
        if not self.store.create(f"plan/{shard.shard_id}.json", _encode(shard.to_json())):
            raise UsageError(f"{self.store.root}: another run is planning here; wait for it to end")

    def committed(self) -> set[str]:
        return {name.removesuffix(".json") for name in self.store.list("commits")}

    def commit(self, shard_id: str, record: dict[str, Any]) -> None:
        self.store.create(f"commits/{shard_id}.json", _encode(record))

    def commit_records(self) -> Iterator[dict[str, Any]]:
        for name in self.store.list("commits"):
            yield json.loads(self.store.read(f"commits/{name}"))

    def units_done(self, shard_id: str) -> set[str]:
        """Ids of the units of an open shard that have their file."""
        return {name.removesuffix(".parquet") for name in self.store.list(f"work/{shard_id}")}

    def write_receipt(self, name: str, receipt: dict[str, Any]) -> None:
        self.store.create(f"runs/{name}.json", _encode(receipt))

    def receipts(self) -> Iterator[dict[str, Any]]:
        for name in self.store.list("runs"):
            if name.endswith(".json"):  # job files stand beside them
                yield json.loads(self.store.read(f"runs/{name}"))


def unit_path(unit: Unit) -> str:
    return f"work/{unit.shard}/{unit.unit_id}.parquet"


def table_path(table: str, shard_id: str) -> str:
    return f"{table}/{shard_id}.parquet"


def _read_job(store: Store, url: str) -> Job:
    with _of_this_version(f"{url}/job.json"):
        return Job.from_json(json.loads(store.read("job.json")))


@contextmanager
def _of_this_version(place: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        why = f"not readable by this version of Swath ({error!r}); name a new --output"
        raise UsageError(f"{place}: {why}") from error


def _classes(job: Job) -> bytes:
    rows = [
        {"class_id": k, "name": name, "color": color}
        for k, (name, color) in enumerate(zip(job.class_names, job.class_colors, strict=True))
    ]
    file = io.BytesIO()
    write_table(file, table_of(rows, CLASSES))
    return file.getvalue()


def _encode(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()
