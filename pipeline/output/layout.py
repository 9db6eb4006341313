"""The layout of OUT: the job, the plan's shards, the unit files, the commits.

    OUT/job.json|toml  plan.json  plan/<shard>.json  commits/<shard>.json
        work/<shard>/<unit_id>.parquet|failed
        masks|statistics|scenes|quarantine/<shard>.parquet  classes.parquet
        runs/<time>.json|toml  lock*.json (while a run is at work)

The folder is the interface: what is done is what its listings say. plan.json has the heads of the
plan's shards, or of some: their records say the same. Knows how records are named and encoded, not
what is done with them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

from pipeline.errors import UsageError
from pipeline.job import Job
from pipeline.output.commit import Commit
from pipeline.output.locks import is_lock
from pipeline.output.parquet import write_table
from pipeline.output.schemas import CLASSES
from pipeline.output.shard import Head, Shard
from pipeline.output.tables import table_of
from pipeline.storage.access import DEFAULT_ACCESS, Access
from pipeline.storage.schemes import open_store
from pipeline.storage.store import Store
from pipeline.unit import Unit

FAILED = "failed"
"""How the mark of a unit's file ends."""

TABLE_GONE = (
    "this published table is gone; put it back, or ask `swath run` with the output's job.toml,"
    " which says how to have it computed anew"
)


@dataclass(frozen=True)
class UnitFiles:
    """Ids of the units of an open shard that have their file."""

    done: set[str]
    failed: set[str]
    """Of these, whose file may tell of failures; those of the others do not."""


class Output:
    """An OUT that has its job.json."""

    def __init__(self, store: Store, job: Job) -> None:
        self.store = store
        self.job = job

    @classmethod
    def open(cls, url: str, access: Access = DEFAULT_ACCESS) -> Self:
        """Raises UsageError where there is no output of Swath."""
        store = open_store(url, access)
        if not store.exists("job.json"):
            why = "not an output of Swath (it has no job.json); name the --output of a run"
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
    def create(cls, url: str, job: Job, access: Access = DEFAULT_ACCESS) -> Self:
        """A new output. Raises UsageError where another run has created it meanwhile."""
        store = open_store(url, access)
        store.write("classes.parquet", _classes_file(job))
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
        return self.planned(self._ids("plan"))

    def planned(self, shard_ids: Sequence[str]) -> Iterator[Shard]:
        """These shards of the plan. Raises UsageError where this version cannot read one."""
        paths = [f"plan/{shard_id}.json" for shard_id in shard_ids]
        for path, data in zip(paths, self.store.read_all(paths), strict=True):
            with _of_this_version(f"{self.store.root}/{path}"):
                yield Shard.from_json(json.loads(data))

    def heads(self) -> list[Head]:
        """Of all shards of the plan."""
        return self._heads(self._indexed())

    def append(self, shards: Iterable[Shard]) -> None:
        """Adds shards to the plan, which is never rewritten. Nobody else may be planning."""
        indexed = self._indexed()
        known = dict(indexed)
        for shard in shards:
            record = json.dumps(shard.to_json(), separators=(",", ":")).encode()
            if not self.store.create(f"plan/{shard.shard_id}.json", record):
                root = self.store.root
                raise UsageError(f"{root}: another run is planning here; wait for it to end")
            known[shard.shard_id] = shard.head
        heads = self._heads(known)
        if heads != list(indexed.values()):  # also where a crash came before it was written
            self.store.write("plan.json", _encode({"shards": [head.to_json() for head in heads]}))

    def _indexed(self) -> dict[str, Head]:
        """The heads that plan.json has."""
        try:
            data = self.store.read("plan.json")
        except FileNotFoundError:
            return {}
        with _of_this_version(f"{self.store.root}/plan.json"):
            heads = [Head.from_json(fields) for fields in json.loads(data)["shards"]]
        return {head.shard_id: head for head in heads}

    def _heads(self, known: Mapping[str, Head]) -> list[Head]:
        shard_ids = self._ids("plan")
        others = self.planned([shard_id for shard_id in shard_ids if shard_id not in known])
        found = {**known, **{shard.shard_id: shard.head for shard in others}}
        return [found[shard_id] for shard_id in shard_ids]

    def committed(self) -> set[str]:
        return set(self._ids("commits"))

    def commit(self, commit: Commit) -> None:
        self.store.create(f"commits/{commit.shard_id}.json", _encode(commit.to_json()))

    def commits(self) -> Iterator[Commit]:
        paths = [f"commits/{shard_id}.json" for shard_id in self._ids("commits")]
        return map(Commit.from_json, map(json.loads, self.store.read_all(paths)))

    def open_table(self, table: str, shard_id: str) -> BinaryIO:
        """A published table's file. Raises UsageError if it is gone."""
        path = table_path(table, shard_id)
        try:
            return self.store.open(path)
        except FileNotFoundError as error:
            raise UsageError(f"{self.store.root}/{path}: {TABLE_GONE}") from error

    def _ids(self, folder: str) -> list[str]:
        return [name.removesuffix(".json") for name in self.store.list(folder)]

    def at_work(self) -> list[str]:
        """Ids of the shards some of whose units may have their file."""
        return self.store.list("work")

    def waiting(self, shard_id: str) -> UnitFiles:
        done: set[str] = set()
        failed: set[str] = set()
        for name in self.store.list(f"work/{shard_id}"):
            unit_id, _, kind = name.rpartition(".")
            (failed if kind == FAILED else done).add(unit_id)
        return UnitFiles(done, done & failed)

    def units_done(self, shard_id: str) -> set[str]:
        """Ids of the units of an open shard that have their file."""
        return self.waiting(shard_id).done

    def write_receipt(self, name: str, receipt: dict[str, Any]) -> None:
        self.store.create(f"runs/{name}.json", _encode(receipt))

    def runs(self) -> dict[str, dict[str, Any] | None]:
        """The receipts of all runs by their names, oldest first; None of those that have begun, by
        their job files, and left none."""
        names = self.store.list("runs")
        ended = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        begun = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
        read = self.store.read_all([f"runs/{name}.json" for name in ended])
        receipts = dict(zip(ended, map(json.loads, read), strict=True))
        return {name: receipts.get(name) for name in sorted({*ended, *begun})}


def _classes_file(job: Job) -> bytes:
    """The table `classes`."""
    rows = [
        {"class_id": k, "name": name, "color": color}
        for k, (name, color) in enumerate(zip(job.class_names, job.class_colors, strict=True))
    ]
    file = io.BytesIO()
    write_table(file, table_of(rows, CLASSES))
    return file.getvalue()


def unit_path(unit: Unit) -> str:
    return f"work/{unit.shard}/{unit.unit_id}.parquet"


def write_unit(store: Store, unit: Unit, data: bytes, *, failed: bool) -> None:
    """Writes the unit's file, and before it, where that tells of failures, its mark: a crash may
    leave a mark too many, never one too few."""
    if failed:
        store.write(f"work/{unit.shard}/{unit.unit_id}.{FAILED}", b"")
    store.write(unit_path(unit), data)


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
        why = (
            f"not readable by this version of Swath ({error!r}); go on with the one that wrote it,"
        )
        why += " or name a new --output"
        raise UsageError(f"{place}: {why}") from error


def _encode(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()
