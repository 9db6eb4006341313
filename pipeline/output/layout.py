"""The layout of OUT: what is where, how records are named and encoded.

    OUT/
      job.json                       what decides the rows; there as long as the output exists
      classes.parquet                a table of the job alone
      plan.json                      the heads of the plan's shards, or of some of them
      plan/<shard>.json              a shard: its scenes and their blocks, unit by unit
      work/<shard>/<unit>.parquet    a unit's rows and outcome, until its shard is published
      work/<shard>/<unit>.failed     empty: some of the unit failed
      masks/<shard>.parquet          published, as are the next three
      statistics/<shard>.parquet
      scenes/<shard>.parquet
      quarantine/<shard>.parquet
      commits/<shard>.json           the shard is published: its counts, its failures
      runs/<time>.toml, <time>.json  the job file of each run, and its receipt
      job.toml                       the job file of the latest run
      lock*.json                     while a run is at work

The folder is the interface: what is done is what its listings say, and a head in plan.json repeats
what its shard's record says. Knows nothing of what is done with the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

from pipeline.errors import LOG, UsageError
from pipeline.job import Job
from pipeline.output.classes import classes_file
from pipeline.output.commit import Commit
from pipeline.output.locks import is_lock
from pipeline.output.records import RESTORE, decode, encode
from pipeline.output.shard import Head, Shard
from pipeline.storage.access import DEFAULT_ACCESS, Access
from pipeline.storage.schemes import open_store
from pipeline.storage.store import Store
from pipeline.unit import Unit

FAILED = "failed"
"""Suffix of the empty marker beside the file of a unit that contains failures."""
TABLE_GONE = (
    "this published table is gone; put it back, or ask `swath run` with the output's job.toml,"
    " which says how to compute it again"
)


@dataclass(frozen=True)
class UnitFiles:
    """The unit files of an open shard, by unit_id."""

    done: set[str]
    """Units that have their file."""
    failed: set[str]
    """Those of them whose file may contain failures; the other files contain none."""


class Output:
    """An OUT that has its job.json: reads and writes its records."""

    def __init__(self, store: Store, job: Job) -> None:
        self.store = store
        self.job = job

    @classmethod
    def open(cls, url: str, access: Access = DEFAULT_ACCESS) -> Self:
        """The output at a URL. Raises UsageError if there is none."""
        store = open_store(url, access)
        if not store.exists("job.json"):
            why = "not an output of Swath (it has no job.json); name the --output of a run"
            if not store.list(""):  # raises UsageError if there is no such bucket
                why = "no such folder, or an empty one; check the path"
            raise UsageError(f"{url}: {why}")
        return cls(store, _read_job(store, url))

    @classmethod
    def find(cls, url: str, access: Access) -> Self | None:
        """The output at a URL; None if OUT is new. Raises UsageError if it holds something else."""
        store = open_store(url, access)
        if store.exists("job.json"):
            return cls(store, _read_job(store, url))
        # classes.parquet alone: an earlier run was killed while it created the output.
        if any(name != "classes.parquet" and not is_lock(name) for name in store.list("")):
            raise UsageError(
                f"{url}: holds files that are not an output of Swath; name a new folder"
            )
        return None

    @classmethod
    def create(cls, url: str, job: Job, access: Access = DEFAULT_ACCESS) -> Self:
        """Create a new output. Raises UsageError if another run has created it meanwhile."""
        store = open_store(url, access)
        store.write("classes.parquet", classes_file(job))
        if not store.create("job.json", encode(job.to_json())):
            raise UsageError(f"{url}: another run has just created it; wait until that ends")
        return cls(store, job)

    def check_same(self, job: Job) -> None:
        """Raises UsageError if `job` would give other rows, naming the differences."""
        if conflict := self.job.conflict(job):
            raise UsageError(f"{self.store.root}: {conflict}")

    def shards(self) -> Iterator[Shard]:
        """All shards of the plan, in order. Raises as `read_shards`."""
        return self.read_shards(self._ids("plan"))

    def read_shards(self, shard_ids: Sequence[str]) -> Iterator[Shard]:
        """These shards of the plan. Raises UsageError if one is damaged, or this version cannot
        read it."""
        paths = [f"plan/{shard_id}.json" for shard_id in shard_ids]
        for path, data in zip(paths, self.store.read_all(paths), strict=True):
            yield decode(data, Shard.from_json, f"{self.store.root}/{path}", RESTORE)

    def heads(self) -> list[Head]:
        """The heads of all shards of the plan, in order."""
        return self._heads(self._indexed())

    def append(self, shards: Iterable[Shard]) -> None:
        """Add shards to the plan, which is never rewritten.

        Raises UsageError if another run is planning at the same time, which locks rule out.
        """
        indexed = self._indexed()
        known = dict(indexed)
        for shard in shards:
            record = json.dumps(shard.to_json(), separators=(",", ":")).encode()
            if not self.store.create(f"plan/{shard.shard_id}.json", record):
                root = self.store.root
                raise UsageError(f"{root}: another run is planning here; wait until that ends")
            known[shard.shard_id] = shard.head
        heads = self._heads(known)
        if heads != list(indexed.values()):  # also if a crash prevented it last time
            self.store.write("plan.json", encode({"shards": [head.to_json() for head in heads]}))

    def _indexed(self) -> dict[str, Head]:
        """The heads in plan.json, by shard_id: none if it is damaged, for plan/ has all of them."""
        try:
            data = self.store.read("plan.json")
        except FileNotFoundError:
            return {}
        try:
            heads = decode(data, _heads_in, f"{self.store.root}/plan.json", "plan/ is read instead")
        except UsageError as error:
            LOG.warning("%s", error)
            return {}
        return {head.shard_id: head for head in heads}

    def _heads(self, known: Mapping[str, Head]) -> list[Head]:
        shard_ids = self._ids("plan")
        others = self.read_shards([shard_id for shard_id in shard_ids if shard_id not in known])
        heads = {**known, **{shard.shard_id: shard.head for shard in others}}
        return [heads[shard_id] for shard_id in shard_ids]

    def committed(self) -> set[str]:
        """The shard_ids of the published shards."""
        return set(self._ids("commits"))

    def commit(self, commit: Commit) -> None:
        """Make a shard count as published; does nothing if it does already."""
        self.store.create(commit_path(commit.shard_id), encode(commit.to_json()))

    def commits(self) -> Iterator[Commit]:
        """The commits of all published shards. Raises UsageError as `read_shards`."""
        paths = [commit_path(shard_id) for shard_id in self._ids("commits")]
        remedy = "delete it, and `swath run` computes and publishes its shard again"
        for path, data in zip(paths, self.store.read_all(paths), strict=True):
            yield decode(data, Commit.from_json, f"{self.store.root}/{path}", remedy)

    def open_table(self, table: str, shard_id: str) -> BinaryIO:
        """A published table's file. Raises UsageError if it is gone."""
        path = table_path(table, shard_id)
        try:
            return self.store.open(path)
        except FileNotFoundError as error:
            raise UsageError(f"{self.store.root}/{path}: {TABLE_GONE}") from error

    def _ids(self, folder: str) -> list[str]:
        return [name.removesuffix(".json") for name in self.store.list(folder)]

    def shards_at_work(self) -> list[str]:
        """The shard_ids of the shards that may have unit files."""
        return self.store.list("work")

    def unit_files(self, shard_id: str) -> UnitFiles:
        """The unit files of an open shard."""
        done: set[str] = set()
        failed: set[str] = set()
        for name in self.store.list(f"work/{shard_id}"):
            unit_id, _, kind = name.rpartition(".")
            (failed if kind == FAILED else done).add(unit_id)
        return UnitFiles(done, done & failed)

    def units_done(self, shard_id: str) -> set[str]:
        """The unit_ids of the units of an open shard that have their file."""
        return self.unit_files(shard_id).done

    def write_receipt(self, name: str, receipt: dict[str, Any]) -> None:
        self.store.create(f"runs/{name}.json", encode(receipt))

    def runs(self) -> dict[str, dict[str, Any] | None]:
        """The receipts of all runs by name, oldest first; None for a run that left a job file when
        it started and no receipt, or a damaged one."""
        names = self.store.list("runs")
        ended = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        started = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
        paths = [f"runs/{name}.json" for name in ended]
        receipts = {}
        for name, path, data in zip(ended, paths, self.store.read_all(paths), strict=True):
            try:
                receipts[name] = decode(data, dict, f"{self.store.root}/{path}", "it is left out")
            except UsageError as error:
                LOG.warning("%s", error)
        return {name: receipts.get(name) for name in sorted({*ended, *started})}


def unit_path(unit: Unit) -> str:
    return f"work/{unit.shard}/{unit.unit_id}.parquet"


def write_unit(store: Store, unit: Unit, data: bytes, *, failed: bool) -> None:
    """Write a unit's file, and before it the marker if it contains failures: a crash may leave a
    marker too many, never one too few."""
    if failed:
        store.write(f"work/{unit.shard}/{unit.unit_id}.{FAILED}", b"")
    store.write(unit_path(unit), data)


def delete_unit(store: Store, unit: Unit) -> None:
    """Delete a unit's file and its marker: the unit is open again."""
    store.delete(unit_path(unit))
    store.delete(f"work/{unit.shard}/{unit.unit_id}.{FAILED}")


def commit_path(shard_id: str) -> str:
    return f"commits/{shard_id}.json"


def table_path(table: str, shard_id: str) -> str:
    return f"{table}/{shard_id}.parquet"


def _read_job(store: Store, url: str) -> Job:
    return decode(store.read("job.json"), Job.from_json, f"{url}/job.json", RESTORE)


def _heads_in(record: dict[str, Any]) -> list[Head]:
    return [Head.from_json(fields) for fields in record["shards"]]
