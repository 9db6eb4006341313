"""Predicted memory is an upper bound; a job that does not fit is refused with a working remedy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.promises import memory as bench
from pipeline import api
from pipeline.engine.blend_cpu import CHUNK_BYTES, CompiledBlend, column_chunks
from pipeline.engine.blend_cpu_tables import Chunk
from pipeline.engine.stitcher import Stitcher
from pipeline.errors import UsageError
from pipeline.planning import machine as machine_module
from pipeline.planning import memory_need
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import USABLE, MemoryBudget, budget_memory
from pipeline.planning.memory_need import MemoryNeed
from pipeline.planning.planner import Planner
from pipeline.planning.workload import Network, Workload
from pipeline.processes.host import available_cores, available_memory_bytes
from pipeline.scene import IDENTITY, Scene
from pipeline.settings import Execution, Settings
from pipeline.unit import Block, Unit
from segformer import mit_config
from tests.support.archives import write_scene
from tests.support.checkpoints import random_checkpoint, save_checkpoint
from tests.support.outputs import differences

# Only the process that waits for a child learns its peak.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "count", "window", "stride"),
    [(1600, 1500, 1, 512, 512), (24, 20, 15, 512, 512), (4096, 130, 1, 65, 8)],
)
def test_the_peak_of_a_run_is_below_its_prediction(
    tmp_path: Path, width: int, height: int, count: int, window: int, stride: int
) -> None:
    save_checkpoint(random_checkpoint(mit_config("b0", 150), seed=0), tmp_path / "model")
    for n in range(count):
        write_scene(tmp_path / "in" / f"{n}.tif", width, height, seed=n)
    swath = [sys.executable, "-m", "jobs.cli"]
    command = [str(tmp_path / "in"), "--checkpoint", str(tmp_path / "model"), "--runner", "local"]
    command += ["--window", str(window), "--stride", str(stride), "--block", "4096"]
    plan = subprocess.run(
        [*swath, "plan", *command, "--format", "json"], capture_output=True, text=True, check=True
    )
    predicted = json.loads(plan.stdout)["memory_bytes"]
    run = [*swath, "run", *command, "--output", str(tmp_path / "out")]
    peak = subprocess.run(
        [sys.executable, "-c", PEAK, *run], capture_output=True, text=True, check=True
    )
    assert int(peak.stdout) < predicted


@pytest.mark.ray
@pytest.mark.slow
def test_every_process_of_a_run_stays_below_its_prediction(
    tmp_path: Path, small_checkpoint: str
) -> None:
    """The short version of bench/promises/memory.py."""
    write_scene(tmp_path / "in" / "a.tif", 4096, 2048)
    command = [str(tmp_path / "in"), "--checkpoint", small_checkpoint, "--replicas", "1"]
    case = bench.measured(
        [*command, "--window", "1024", "--stride", "1024", "--block", "2048"], tmp_path / "out"
    )
    assert "reader" in "+".join(case["processes"])
    assert bench.ok(case), bench.table(case)


@pytest.mark.slow
@pytest.mark.ray
def test_the_smallest_memory_that_is_accepted_lets_ray_schedule_every_stage(
    tmp_path: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas that hold all of Ray's memory would leave none for reads, and the run would hang."""
    write_scene(tmp_path / "in" / "a.tif", 1024, 1024)
    settings = Settings(window=64, stride=64)
    execution = Execution(replicas=2, block=512)
    inputs, calm, tight = [str(tmp_path / "in")], tmp_path / "calm", tmp_path / "tight"

    def accepted(memory_bytes: int) -> bool:
        monkeypatch.setattr(machine_module, "available_memory_bytes", lambda: memory_bytes)
        try:
            api.plan(inputs, small_checkpoint, settings, execution)
        except UsageError:
            return False
        return True

    enough, too_little = 32_000_000_000, 1_000_000_000
    assert accepted(enough)
    assert not accepted(too_little)
    while enough - too_little > 10_000_000:
        middle = (enough + too_little) // 2
        enough, too_little = (middle, too_little) if accepted(middle) else (enough, middle)
    assert accepted(enough)
    api.run(inputs, small_checkpoint, str(tight), settings, execution)
    monkeypatch.undo()
    api.run(inputs, small_checkpoint, str(calm), settings, Execution(runner="local", block=512))
    assert not differences(calm, tight)


def scene(width: int, height: int, *, striped: bool = False) -> Scene:
    return Scene(
        scene_id="a", url="a.tif", version="1", sidecars=(), width=width, height=height,
        bands=(1, 2, 3), dtype="uint8", nodata=None, crs=None, transform=IDENTITY, datetime=None,
        striped=striped,
    )  # fmt: skip


def planner(
    memory_gb: float, execution: Execution, *, nodes_gb: tuple[float, ...] = (), classes: int = 19
) -> Planner:
    replicas = execution.replicas or 1
    nodes = tuple(int(node * 1e9) for node in nodes_gb)
    machine = Machine("cpu", replicas, int(memory_gb * 1e9), tasks=4, nodes_bytes=nodes)
    network = Network.of(mit_config("b2", classes), 110_000_000, 512)
    return Planner(Workload(Settings(batch=1), machine, network), execution)


def accept(planner: Planner, scenes: list[Scene]) -> MemoryBudget:
    """The memory budget of a plan. Raises UsageError if the plan is refused."""
    units = [unit for shard in planner.shards(scenes, (), 0) for unit in shard.units]
    budget = MemoryBudget.of(MemoryNeed.of(planner.workload, units), planner.workload.machine)
    assert budget is not None
    return budget


@pytest.mark.parametrize("memory_gb", [6, 7, 8, 12])
@pytest.mark.parametrize("striped", [False, True])
def test_the_block_size_that_a_refusal_names_is_the_largest_that_fits(
    memory_gb: int, striped: bool
) -> None:
    scenes = [scene(30_000, 30_000, striped=striped), scene(3000, 2000)]
    with pytest.raises(UsageError) as refusal:
        accept(planner(memory_gb, Execution(block=29_696)), scenes)
    message = str(refusal.value)
    assert "; the largest unit is block 0,0 29696x29696 of a.tif; " in message
    (block,) = re.findall(r"use --block (\d+)$", message)
    budget = accept(planner(memory_gb, Execution(block=int(block))), scenes)
    assert budget.total_bytes <= USABLE * memory_gb * 1e9
    with pytest.raises(UsageError):
        accept(planner(memory_gb, Execution(block=int(block) + 512)), scenes)


def test_a_refusal_names_the_replicas_that_fit_if_no_block_helps() -> None:
    scenes = [scene(6000, 6000)]
    with pytest.raises(UsageError) as refusal:
        accept(planner(8, Execution(block=512, replicas=12)), scenes)
    (replicas,) = re.findall(r"use --replicas (\d+)$", str(refusal.value))
    accept(planner(8, Execution(block=512, replicas=int(replicas))), scenes)
    with pytest.raises(UsageError):
        accept(planner(8, Execution(block=512, replicas=int(replicas) + 1)), scenes)


def test_a_job_that_no_option_can_fit_needs_a_larger_machine() -> None:
    with pytest.raises(UsageError, match="a machine with more memory"):
        accept(planner(1, Execution()), [scene(6000, 6000)])


def test_a_plan_of_nothing_fits_anywhere() -> None:
    small = planner(0.1, Execution())
    assert list(small.shards([], (), 0)) == []
    assert budget_memory(small.workload, []).total_bytes == 0


@pytest.mark.parametrize(
    ("nodes_gb", "fits"),
    [
        ((2.0, 2.0), False),
        ((2.0, 2.0, 2.0), True),
        ((6.0,), True),
        ((0.5,) * 20, False),
    ],
)
def test_a_joined_cluster_must_have_room_for_every_replica_and_a_task(
    nodes_gb: tuple[float, ...], fits: bool
) -> None:
    """The room must not depend on where Ray puts the replicas: too small a node does not count."""
    cluster_planner = planner(0.1, Execution(replicas=2), nodes_gb=nodes_gb)
    if fits:
        accept(cluster_planner, [scene(3000, 3000)])
    else:
        with pytest.raises(UsageError, match="do not fit on the cluster's nodes"):
            accept(cluster_planner, [scene(3000, 3000)])


@pytest.mark.parametrize("replicas", [1, 2, 7, 64])
@pytest.mark.parametrize("row_bytes", [10_000, 10**8, 10**10])
def test_rays_memory_has_room_for_every_stage(replicas: int, row_bytes: int) -> None:
    """Ray Data reserves an eighth each for reads and for writes: four operators share half."""
    need = MemoryNeed(10**9, 10**9, 3 * 10**8 + 2 * row_bytes, 10**9, 10**9, row_bytes, 0, 0, 0)
    budget = MemoryBudget.of(need, Machine("cpu", replicas, 10**15, tasks=4))
    assert budget is not None
    whole = budget.schedulable_bytes
    held = replicas * need.replica_bytes
    assert held + 2 * need.task_bytes <= whole
    assert held + 2 * (whole // 8) <= whole


def test_a_joined_cluster_leaves_room_for_the_memory_that_ray_reserves() -> None:
    need = MemoryNeed(10**9, 10**10, 10**9, 10**9, 10**9, 10**8, 0, 0, 0)
    nodes = 11 * (11 * 10**9,)
    assert MemoryBudget.of(need, Machine("cpu", 10, 0, tasks=4, nodes_bytes=nodes)) is None
    assert MemoryBudget.of(need, Machine("cpu", 9, 0, tasks=4, nodes_bytes=nodes)) is not None


def test_more_memory_never_means_fewer_reads() -> None:
    need = MemoryNeed(10**9, 10**9, 10**9, 10**9, 10**9, 10**8, 0, 0, 0)
    tasks = []
    for gigabytes in range(4, 20):
        budget = MemoryBudget.of(need, Machine("cpu", 2, gigabytes * 10**9, tasks=4))
        tasks.append(budget.tasks if budget else 0)
    assert tasks == sorted(tasks)
    assert {0, 2, 4} <= set(tasks)


@pytest.mark.parametrize(
    ("window", "stride"),
    [
        (512, 384),
        (512, 50),
        (513, 384),
        (513, 64),
        (510, 128),
        (255, 32),
        (65, 8),
        pytest.param(33, 2, marks=pytest.mark.slow),
    ],
)
def test_the_memory_of_a_blend_is_below_its_estimate(window: int, stride: int) -> None:
    """Windows of these edges share no positions: each overlap has its own sums."""
    settings, large = Settings(window=window, stride=stride, batch=1), scene(9000, 1100)
    workload = Workload(
        settings, Machine("cpu", 1, 0, 0), Network.of(mit_config("b0", 150), 0, window)
    )
    block = Block(large, large.rect)
    grid, valid_HW = workload.grid(large), np.ones((1100, 9000), bool)
    stitcher = Stitcher(grid, block.core, valid_HW, 150, CompiledBlend)
    stitcher._begin(-(-window // 4))
    region = stitcher._region(-(-window // 4))
    tallest = max(stitcher._strips, key=lambda strip: len(strip.groups))
    tables_bytes, scratch_bytes = 0, 0
    for part in column_chunks(region):
        chunk = Chunk(region, part)
        scratch = chunk.scratch(tallest)
        assert len(part) == 1 or scratch.sums.nbytes <= CHUNK_BYTES
        tables_bytes += sum(table.nbytes for table in chunk.columns)
        scratch_bytes = max(scratch_bytes, sum(array.nbytes for array in scratch))
    assert tables_bytes + scratch_bytes < memory_need._blending_bytes(workload, block)


def test_bands_that_are_used_twice_are_counted_twice() -> None:
    """A grey image for a network of three channels is passed on as three bands."""
    workload = planner(20, Execution()).workload
    grey = replace(scene(2000, 1000), bands=(1, 1, 1))
    (shard,) = planner(20, Execution()).shards([grey], (), 0)
    assert workload.row_bytes(shard.units[0]) == 2000 * 1000 * 4


def test_stored_values_count_while_they_are_decoded() -> None:
    workload = planner(20, Execution()).workload
    plain, pixels = scene(2000, 1000), 2_000_000

    def need(**changes: object) -> tuple[int, int, int]:
        """Bytes to read per pixel, those handed on, and those of reading beside GDAL's cache."""
        changed = replace(plain, **changes)
        unit = Unit("0", (Block(changed, changed.rect),))
        reading = memory_need.reading_bytes(workload, unit)
        sizes = workload.stored_bytes(unit), workload.row_bytes(unit), reading
        return tuple(size // pixels for size in sizes)

    assert need() == (3, 4, 8)
    three = (0.1,) * 3
    assert need(dtype="float64", scales=three, offsets=three) == (24, 13, 37)
    assert need(dtype="uint16", scales=three, offsets=three) == (6, 13, 26)
    assert need(dtype="uint16", palette=True) == (2, 4, 8)
    assert need(dtype="int32", palette=True, bands=(1,)) == (4, 2, 6)


def write_control_group(root: Path, line: str, limits: dict[str, str]) -> Path:
    """Write /proc/self/cgroup and the limits of a system below `root`; returns `root`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line)
    for name, limit in limits.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    return root


@pytest.mark.parametrize(
    ("line", "limits", "memory_bytes"),
    [
        ("0::/\n", {"memory.max": "3000000"}, 3_000_000),
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/a/b\n", {"a/memory.max": "5000000", "a/b/memory.max": "max"}, 5_000_000),
        ("0::/a/b\n", {"a/memory.max": "5000000", "a/b/memory.max": "4000000"}, 4_000_000),
        ("4:memory:/docker/x\n", {"memory/memory.limit_in_bytes": "6000000"}, 6_000_000),
        ("3:cpu,memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "7000000"}, 7_000_000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("4:cpu:/\n", {"memory/memory.limit_in_bytes": "1000"}, None),
    ],
)
def test_the_memory_limit_of_a_container_applies(
    tmp_path: Path, line: str, limits: dict[str, str], memory_bytes: int | None
) -> None:
    physical = available_memory_bytes(tmp_path / "nothing")
    assert physical > 10**9
    assert available_memory_bytes(write_control_group(tmp_path, line, limits)) == (
        memory_bytes or physical
    )


@pytest.mark.parametrize(
    ("line", "limits", "cores"),
    [
        ("0::/\n", {"cpu.max": "350000 100000"}, 3),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000"}, 8),
        (
            "3:cpu,cpuacct:/x\n0::/\n",
            {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "50000"},
            5,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_the_cpu_quota_of_a_container_applies(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    limits: dict[str, str],
    cores: int,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert available_cores(tmp_path / "nothing") == 8
    assert available_cores(write_control_group(tmp_path, line, limits)) == cores
