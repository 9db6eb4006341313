"""Random class ids of random scenes, finished and published: what the tables must hold."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import pipeline.planning.planner
from pipeline.driver.local import LocalPublisher
from pipeline.driver.quarantine import Quarantine
from pipeline.driver.tracker import Tracker
from pipeline.earth.area import CellAreas
from pipeline.failure import Failure, Rejected
from pipeline.grid import mask_tiles
from pipeline.job import Job
from pipeline.output.layout import Output, unit_path
from pipeline.output.outcomes import count_outcomes
from pipeline.output.shard import Shard
from pipeline.output.unit_file import unit_file
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import budget_memory
from pipeline.planning.planner import Planner
from pipeline.planning.workload import Network, Workload
from pipeline.scene import Scene, tile_transform
from pipeline.settings import Execution, Settings
from pipeline.stages import Work
from pipeline.storage.access import DEFAULT_ACCESS
from pipeline.unit import Block, SegmentedUnit, Stitched, Unit
from tests.support.outputs import ORDER, rows, stray_files

SETTINGS = Settings(window=512, stride=384, batch=1)
PLACES = {
    None: (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "EPSG:32633": (10.0, 0.0, 5e5, 0.0, -10.0, 5e6),
    "EPSG:3857": (8.0, 6.0, 1e6, 6.0, -8.0, 8e6),
    "EPSG:4326": (1e-4, 0.0, 10.0, 0.0, -1e-4, 60.0),
}


@dataclass(frozen=True)
class Archive:
    classes: int
    scenes: tuple[Scene, ...]
    shards: tuple[Shard, ...]
    seed: int

    @property
    def nodata(self) -> int:
        return 255 if self.classes <= 255 else 65535

    @property
    def units(self) -> list[Unit]:
        return [unit for shard in self.shards for unit in shard.units]


def bad(count: int) -> list[Rejected]:
    names = [f"bad{n}" for n in range(count)]
    return [Rejected("1-2", Failure(n, f"/in/{n}", "describe", None, "E", "m")) for n in names]


COST = Workload(SETTINGS, Machine("cpu", 1, 10**12, tasks=0), Network(5, 1.0, 10**8, 500))


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    sides = st.one_of(st.integers(1, 100), st.integers(513, 1200))
    scenes = []
    for number in range(draw(st.integers(1, 3))):
        crs, name = draw(st.sampled_from(list(PLACES))), f"{number}.tif"
        size = draw(sides), draw(sides)
        scenes.append(
            Scene(
                *(name, f"/in/{name}", "1-2", (), *size, (1, 2, 3), "uint8", None),
                *(crs, PLACES[crs], None, False),
            )
        )
    classes = draw(st.sampled_from([2, 7, 300]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.planning.planner, "SHARD_UNITS", draw(st.sampled_from([1, 1000])))
        planner = Planner(COST, Execution(block=draw(st.sampled_from([512, 1024, None]))))
        shards = tuple(planner.shards(scenes, bad(draw(st.integers(0, 1))), first=0))
    return Archive(classes, tuple(scenes), shards, draw(st.integers(0, 10**6)))


Maps = dict[str, np.ndarray]
Results = dict[Block, Stitched | Failure]


def random_maps(archive: Archive) -> Maps:
    """Class ids of each scene: patches of a few classes, some of them without data."""
    rng, maps = np.random.default_rng(archive.seed), {}
    for scene in archive.scenes:
        dtype = np.uint8 if archive.classes <= 255 else np.dtype("<u2")
        edge = int(rng.integers(1, 600))
        shape = scene.height // edge + 1, scene.width // edge + 1
        ids = rng.integers(0, archive.classes, shape).astype(dtype)
        ids[rng.random(shape) < rng.choice([0, 0.3, 0.9])] = archive.nodata
        whole = np.kron(ids, np.ones((edge, edge), dtype))[: scene.height, : scene.width].copy()
        whole[rng.random(whole.shape) < 0.01] = archive.classes - 1
        maps[scene.scene_id] = whole
    return maps


def random_results(archive: Archive, maps: Maps) -> Results:
    rng, results = np.random.default_rng(archive.seed), {}
    failing = rng.choice([0.0, 0.3, 0.8])
    for block in (block for unit in archive.units for block in unit.blocks):
        scene, core = block.scene, block.core
        if rng.random() < failing:
            results[block] = Failure(scene.scene_id, scene.url, "read", str(core), "E", "m")
            continue
        counts = []
        for _, _, tile in mask_tiles(core):
            ids = maps[scene.scene_id][tile.row_off : tile.row_end, tile.col_off : tile.col_end]
            counts.append(np.bincount(ids[ids != archive.nodata], minlength=archive.classes))
        samples_TK = rng.integers(0, np.array(counts) + 1)
        confidence_TK = rng.integers(0, samples_TK * 65535 + 1)
        ids_HW = maps[scene.scene_id][core.row_off : core.row_end, core.col_off : core.col_end]
        results[block] = Stitched(ids_HW, confidence_TK, samples_TK)
    return results


def publish_all(archive: Archive, results: Results, folder: Path, order: int) -> Path:
    """Finish the units in a random order, with the tracker polling now and then."""
    names = tuple(f"class {k}" for k in range(archive.classes))
    job = Job(SETTINGS, "/model", "0" * 64, "cpu", names, (None,) * archive.classes)
    out = Output.create(str(folder), job)
    out.append(archive.shards)
    quarantine = Quarantine(len(archive.scenes), 1000)
    work = Work(job, DEFAULT_ACCESS, budget_memory(COST, []), 60.0, str(folder))
    tracker = Tracker(
        out, list(archive.shards), quarantine, LocalPublisher(work), (), lambda _: None
    )
    tracker.start()
    rng, units = random.Random(order), archive.units
    rng.shuffle(units)
    for unit in units:
        blocks = tuple(results[block] for block in unit.blocks)
        segmented = SegmentedUnit(unit, blocks, 1, rng.random(), rng.random(), 0)
        out.store.write(unit_path(unit), unit_file(segmented))
        if rng.random() < 0.3:
            tracker.poll()
    tracker.poll()
    tracker.close()
    assert tracker.is_done
    assert tracker.open_units() == []
    outcomes = count_outcomes(archive.shards, out.commits())
    assert outcomes.planned == outcomes.done + outcomes.partial + outcomes.quarantined
    states = Counter(row["status"] for row in rows(folder, "scenes").to_pylist())
    assert (outcomes.done, outcomes.partial, outcomes.quarantined) == tuple(
        states[state] for state in ("done", "partial", "quarantined")
    )
    return folder


def check_masks(archive: Archive, out: Path, maps: Maps) -> None:
    """Check that the tiles make up the maps, and that a tile's columns agree with its mask."""
    masks = {name: np.full_like(ids, archive.nodata) for name, ids in maps.items()}
    scenes = {scene.scene_id: scene for scene in archive.scenes}
    for row in rows(out, "masks").to_pylist():
        scene, x, y = scenes[row["scene_id"]], row["col_off"], row["row_off"]
        assert (x, y) == (512 * row["tile_col"], 512 * row["tile_row"])
        assert row["width"] == min(512, scene.width - x)
        assert row["height"] == min(512, scene.height - y)
        assert tuple(row["transform"]) == tile_transform(scene.transform, x, y)
        assert row["nodata"] == archive.nodata
        ids_HW = np.frombuffer(row["mask"], row["mask_dtype"]).reshape(row["height"], row["width"])
        valid_HW = ids_HW != archive.nodata
        assert valid_HW.any()
        masks[scene.scene_id][y : y + row["height"], x : x + row["width"]] = ids_HW
        counts = dict(zip(*np.unique(ids_HW[valid_HW], return_counts=True), strict=True))
        assert {c["class_id"]: c["pixels"] for c in row["class_pixels"]} == counts
        assert row["valid_pixels"] == sum(counts.values())
        assert counts[row["majority_class"]] == max(counts.values())
    for name, ids in maps.items():
        assert np.array_equal(masks[name], ids), name


def check_statistics(archive: Archive, out: Path, maps: Maps, results: Results) -> None:
    """Check the statistics against counts of the maps, and against sums over the tiles."""
    statistics: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows(out, "statistics").to_pylist():
        statistics[row["scene_id"]][row["class_id"]] = row
    tiles = rows(out, "masks").to_pylist()
    for scene in archive.scenes:
        ids_HW, name = maps[scene.scene_id], scene.scene_id
        valid = int((ids_HW != archive.nodata).sum())
        present, counts = np.unique(ids_HW[ids_HW != archive.nodata], return_counts=True)
        assert {k: row["pixels"] for k, row in statistics[name].items()} == dict(
            zip(present, counts, strict=True)
        )
        assert sum(row["fraction"] for row in statistics[name].values()) == pytest.approx(
            1.0 if valid else 0.0
        )
        stitched = [
            result
            for block, result in results.items()
            if block.scene is scene and isinstance(result, Stitched)
        ]
        for k, row in statistics[name].items():
            assert row["class_name"] == f"class {k}"
            assert row["fraction"] == row["pixels"] / valid
            samples = sum(int(result.samples_TK[:, k].sum()) for result in stitched)
            confidence = sum(int(result.confidence_TK[:, k].sum()) for result in stitched)
            mean = confidence / samples / 65535 if samples else None
            assert row["mean_confidence"] == mean
            if scene.crs is None:
                assert row["area_m2"] is None
                continue
            cells = CellAreas(scene.crs, scene.transform, scene.width, scene.height)
            assert row["area_m2"] == pytest.approx(cells.of(scene.rect)[ids_HW == k].sum())
            assert row["area_m2"] == sum(
                c["area_m2"]
                for tile in tiles
                if tile["scene_id"] == name
                for c in tile["class_pixels"]
                if c["class_id"] == k
            )


def check_outcomes(archive: Archive, out: Path, maps: Maps, results: Results) -> None:
    failures = [r.failure for shard in archive.shards for r in shard.rejected]
    failures += [result for result in results.values() if isinstance(result, Failure)]
    assert sorted(rows(out, "quarantine").to_pylist(), key=str) == sorted(
        (failure.to_json() for failure in failures), key=str
    )
    expected = {r.failure.scene_id: "quarantined" for s in archive.shards for r in s.rejected}
    for scene in archive.scenes:
        kinds = {isinstance(r, Failure) for block, r in results.items() if block.scene is scene}
        status = "quarantined" if kinds == {True} else "done"
        expected[scene.scene_id] = "partial" if len(kinds) == 2 else status
    event(f"status: {expected['0.tif']}")
    table = rows(out, "scenes").to_pylist()
    assert {row["scene_id"]: row["status"] for row in table} == expected
    for row in table:
        ids = maps.get(row["scene_id"])
        assert row["valid_pixels"] == (None if ids is None else (ids != archive.nodata).sum())
    for name, key in ORDER.items():
        keys = [tuple(row.values()) for row in rows(out, name).select(key).to_pylist()]
        assert len(keys) == len(set(keys)), f"{name}: a row twice"


@settings(max_examples=30, deadline=None)
@given(archive=archives(), orders=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_tables_hold_what_was_segmented_whatever_the_order(
    archive: Archive, orders: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    maps = random_maps(archive)
    results = random_results(archive, maps)
    folder = tmp_path_factory.mktemp("tables")
    out = publish_all(archive, results, folder / "one", orders[0])
    reordered = publish_all(archive, results, folder / "other", orders[1])
    for block, result in results.items():
        if isinstance(result, Failure):  # failed blocks hold no data
            core = block.core
            window = np.s_[core.row_off : core.row_end, core.col_off : core.col_end]
            maps[block.scene.scene_id][window] = archive.nodata
    check_masks(archive, out, maps)
    check_statistics(archive, out, maps, results)
    check_outcomes(archive, out, maps, results)
    assert stray_files(out) == []
    for shard in archive.shards:
        for table in ORDER:
            name = f"{table}/{shard.shard_id}.parquet"
            assert (out / name).read_bytes() == (reordered / name).read_bytes()
