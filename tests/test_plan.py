"""Properties of every plan: random archives on random machines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import pipeline.planning.planner
from pipeline.doubt import Doubt
from pipeline.failure import Failure, Rejected
from pipeline.output.shard import Shard
from pipeline.planning.machine import Machine
from pipeline.planning.planner import Planner
from pipeline.planning.workload import Network, Workload
from pipeline.scene import Rect, Scene
from pipeline.settings import MASK_TILE_PX, Execution, Settings
from pipeline.unit import Block, Unit

PLENTY = 10**18


@st.composite
def scenes(draw: st.DrawFn, max_scenes: int = 10) -> list[Scene]:
    sides = st.one_of(st.integers(1, 600), st.integers(1, 20_000))
    return [
        Scene(
            scene_id=f"{number}.tif",
            url=f"/in/{number}.tif",
            version=draw(st.sampled_from(["12-345", '"etag"'])),
            sidecars=(),
            width=draw(sides),
            height=draw(sides),
            bands=(1, 2, 3),
            dtype=draw(st.sampled_from(["uint8", "uint16", "float32"])),
            nodata=draw(st.sampled_from([None, 0.0, -9999.5])),
            crs=draw(st.sampled_from([None, "EPSG:32633"])),
            transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5e6),
            datetime=None,
            striped=draw(st.booleans()),
            storage_bytes=draw(st.sampled_from([0, 10**6, 10**9])),
            storage_px=(draw(sides), draw(sides)),
            doubts=draw(st.sampled_from([(), (Doubt("pages", "2 more pages"),)])),
        )
        for number in range(draw(st.integers(1, max_scenes)))
    ]


@st.composite
def planners(draw: st.DrawFn) -> Planner:
    window = draw(st.integers(32, 1024))
    job = Settings(window=window, stride=draw(st.integers(window // 4, window)), batch=1)
    device = draw(st.sampled_from(["cpu", "cuda"]))
    machine = Machine(device, draw(st.integers(1, 64)), PLENTY, draw(st.integers(0, 128)))
    network = Network(draw(st.integers(1, 300)), draw(st.floats(0.1, 1000)), 10**8, 500)
    blocks = st.integers(1, 20).map(lambda tiles: tiles * MASK_TILE_PX)
    execution = Execution(block=draw(st.one_of(st.none(), blocks)))
    return Planner(Workload(job, machine, network), execution)


def rejected(count: int) -> list[Rejected]:
    names = [f"bad{n}" for n in range(count)]
    return [Rejected("1-2", Failure(n, f"/in/{n}", "describe", None, "E", "m")) for n in names]


def check_cover(scene: Scene, blocks: list[Rect]) -> None:
    """Assert that every pixel and every mask tile is in exactly one block."""
    counts = np.zeros((-(-scene.height // MASK_TILE_PX), -(-scene.width // MASK_TILE_PX)), int)
    for core in blocks:
        assert core.width > 0 < core.height
        assert (core.col_off % MASK_TILE_PX, core.row_off % MASK_TILE_PX) == (0, 0)
        assert core.col_end % MASK_TILE_PX == 0 or core.col_end == scene.width
        assert core.row_end % MASK_TILE_PX == 0 or core.row_end == scene.height
        assert core.col_end <= scene.width
        assert core.row_end <= scene.height
        rows = np.s_[core.row_off // MASK_TILE_PX : -(-core.row_end // MASK_TILE_PX)]
        cols = np.s_[core.col_off // MASK_TILE_PX : -(-core.col_end // MASK_TILE_PX)]
        counts[rows, cols] += 1
    assert (counts == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    archive=scenes(),
    planner=planners(),
    bad=st.integers(0, 2),
    limits=st.sampled_from([(1, 2), (5, 3), (1000, 2000)]),
    first=st.integers(0, 10),
)
def test_every_plan_covers_every_scene_once_and_survives_json(
    archive: list[Scene], planner: Planner, bad: int, limits: tuple[int, int], first: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.planning.planner, "SHARD_UNITS", limits[0])
        patch.setattr(pipeline.planning.planner, "SHARD_SCENES", limits[1])
        shards = list(planner.shards(archive, rejected(bad), first))
    units = [unit for shard in shards for unit in shard.units]
    event(f"{min(len(shards), 3)} shards or more")

    assert [shard.shard_id for shard in shards] == [f"{first + n:06d}" for n in range(len(shards))]
    planned = [scene for shard in shards for scene in shard.scenes]
    assert [
        replace(s, doubts=s.doubts[: len(a.doubts)]) for s, a in zip(planned, archive, strict=True)
    ] == archive
    assert {doubt.kind for scene in planned for doubt in scene.doubts} <= {"pages", "storage_tiles"}
    assert sum(len(shard.rejected) for shard in shards) == bad
    ids = Counter(unit.unit_id for unit in units)
    assert set(ids.values()) == {1}
    for shard in shards:
        assert len(shard.scenes) <= limits[1]
        cores: dict[str, list[Rect]] = {scene.scene_id: [] for scene in shard.scenes}
        for unit in shard.units:
            assert unit.shard == shard.shard_id
            assert unit.blocks
            for block in unit.blocks:
                cores[block.scene.scene_id].append(block.core)  # a scene of this shard
            # Several blocks are several whole scenes: a large one never waits for a small one.
            assert len(unit.blocks) == 1 or all(b.core == b.scene.rect for b in unit.blocks)
        for scene in shard.scenes:
            check_cover(scene, cores[scene.scene_id])
            assert not planner.execution.block or all(
                max(core.width, core.height) <= planner.execution.block
                for core in cores[scene.scene_id]
            )
        retry = replace(shard, retries=dict.fromkeys(cores, ("000000", "000003")))
        record = json.dumps(retry.to_json())
        assert Shard.from_json(json.loads(record)) == retry
        assert json.dumps(Shard.from_json(json.loads(record)).to_json()) == record


@settings(max_examples=50, deadline=None)
@given(archive=scenes(max_scenes=5), planner=planners())
def test_a_unit_id_depends_only_on_the_scenes_and_blocks_of_the_unit(
    archive: list[Scene], planner: Planner
) -> None:
    """Neither its place in the plan nor the way its inputs are reached changes the id."""
    for shard in planner.shards(archive, [], first=0):
        for unit in shard.units[:20]:
            moved = [
                Block(replace(b.scene, url="s3://b/k", crs="EPSG:4326", bands=(3,)), b.core)
                for b in unit.blocks
            ]
            assert Unit("000009", tuple(moved)).unit_id == unit.unit_id
            first, *others = unit.blocks
            core = first.core
            for other in (
                Block(replace(first.scene, scene_id="other"), core),
                Block(replace(first.scene, version="other"), core),
                Block(first.scene, replace(core, col_off=core.col_off + MASK_TILE_PX)),
                Block(first.scene, replace(core, height=core.height + 1)),
            ):
                assert Unit(unit.shard, (other, *others)).unit_id != unit.unit_id
            assert Unit(unit.shard, (*unit.blocks, first)).unit_id != unit.unit_id


@pytest.mark.parametrize("replicas", [1, 2, 4, 8])
@pytest.mark.parametrize("side", [8192, 10_980, 20_000])
def test_the_block_size_balances_halos_against_waiting_for_the_last_unit(
    side: int, replicas: int
) -> None:
    """For one scene, no other square block that gives each replica a few units is much faster."""
    fields = dict.fromkeys(Scene.__dataclass_fields__)
    sized = {"scene_id": "a.tif", "bands": (1, 2, 3), "dtype": "uint8", "striped": False}
    sized |= {"storage_px": (256, 256), "storage_bytes": 256 * 256 * 3}
    scene = Scene(**{**fields, **sized, "width": side, "height": side})  # type: ignore[arg-type]
    network = Network(classes=5, gflop_per_window=8.2, weights_bytes=10**7, bytes_per_px=300)
    machine = Machine("cpu", replicas, PLENTY, tasks=2)
    workload = Workload(Settings(window=512, stride=384, batch=1), machine, network)

    def makespan(block: int | None) -> int:
        """The number of windows computed in sequence until the last replica finishes."""
        shards = Planner(workload, Execution(block=block)).shards([scene], [], first=0)
        units = [unit for shard in shards for unit in shard.units]
        if len(units) < 2 * replicas:
            return PLENTY
        busy = [0] * replicas
        for unit in units:
            busy[busy.index(min(busy))] += workload.windows(unit.blocks[0])
        return max(busy)

    assert makespan(None) < 1.3 * min(makespan(n * MASK_TILE_PX) for n in range(1, 20))


def test_unit_ids_never_change() -> None:
    """Files in the outputs of earlier versions are named after them."""
    fields = dict.fromkeys(Scene.__dataclass_fields__)
    scene = Scene(**{**fields, "scene_id": "sub/a.tif", "version": "12-345"})  # type: ignore[arg-type]
    blocks = (Block(scene, Rect(0, 512, 100, 200)), Block(scene, Rect(0, 712, 100, 200)))
    assert Unit("000000", blocks).unit_id == "8f7ea96d16acfb57042dcd8f"
