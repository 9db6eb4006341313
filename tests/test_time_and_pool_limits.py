"""--max-hours: no unit starts once the time is up; --replicas MIN:MAX: a pool that grows."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray import is_initialized
from ray._private.state import actors

from pipeline.api import run
from pipeline.errors import UnfinishedError, UsageError
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.progress import Progress
from pipeline.settings import Execution, Settings
from pipeline.share import Share
from tests.support.archives import write_scene
from tests.support.commands import exit_code_of
from tests.support.outputs import differences, receipts, stray_files

SETTINGS = Settings(window=64, stride=48, batch=1)
SCENES = 40
GB = 10**9


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes whose units take about half a second each."""
    folder = tmp_path_factory.mktemp("archive")
    for n in range(SCENES):
        write_scene(folder / f"{n:02d}.tif", 500, 500, seed=n)
    return folder


@pytest.fixture(scope="module")
def undisturbed(archive: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("oracle") / "out"
    run([str(archive)], small_checkpoint, str(out), SETTINGS, Execution(runner="local"))
    return out


@pytest.mark.parametrize(
    ("runner", "budgets_s"),
    [
        ("local", (2, 4, 8, 16, 32)),
        pytest.param("ray", (8, 14, 20, 26, 32, 40, 48), marks=pytest.mark.ray),
    ],
)
@pytest.mark.slow
def test_a_run_that_is_out_of_time_stops_and_can_be_resumed(
    archive: Path,
    small_checkpoint: str,
    undisturbed: Path,
    tmp_path: Path,
    runner: str,
    budgets_s: tuple[int, ...],
) -> None:
    out = tmp_path / "out"
    arguments = [str(archive)], small_checkpoint, str(out), SETTINGS
    replicas = None if runner == "local" else 1
    for budget_s in budgets_s:  # a machine that is slow to start needs more than the first
        hours = budget_s / 3600
        execution = Execution(replicas=replicas, runner=runner, max_hours=hours)
        with pytest.raises(UnfinishedError, match=r"^out of time: .*command resumes the run$"):
            run(*arguments, execution)
        last = receipts(out)[-1]
        if last["units_computed"]:
            break
    assert last["ended"].startswith("out of time: ")
    assert 0 < last["units_computed"] < last["units"]
    assert last["seconds"] < budget_s + 20
    done = run(*arguments, Execution(runner="local"))
    assert done.units_computed <= done.units - last["units_computed"]
    assert differences(undisturbed, out) == []
    assert stray_files(out) == []


def test_the_command_says_that_it_is_out_of_time(
    archive: Path, small_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--checkpoint {small_checkpoint} --output {tmp_path / 'out'} --max-hours 1e-9"
    assert exit_code_of("run", str(archive), *options.split()) == 1  # before Ray is started
    *_, message = capsys.readouterr().err.splitlines()
    assert message.startswith("swath: error: out of time: the 1e-09 h of --max-hours are over")


@pytest.mark.slow
@pytest.mark.ray
def test_a_pool_grows_to_its_maximum(
    archive: Path, small_checkpoint: str, undisturbed: Path, tmp_path: Path
) -> None:
    out, sizes = tmp_path / "out", []

    def count(_: Progress) -> None:
        if is_initialized():
            replicas = [a for a in actors().values() if "Segment" in a["ActorClassName"]]
            sizes.append(sum(actor["State"] == "ALIVE" for actor in replicas))

    execution = Execution(replicas=(1, 2))
    done = run([str(archive)], small_checkpoint, str(out), SETTINGS, execution, count)
    assert done.units_computed == done.units
    assert {1, 2} <= set(sizes)
    assert max(sizes) == 2
    assert differences(undisturbed, out) == []


NEED = MemoryNeed(GB, 2 * GB, GB, GB, GB, 10**8, GB, 0, 0)


def test_a_pool_is_cut_to_the_replicas_that_fit_the_memory() -> None:
    def replicas(memory_gb: int, pool: int | None) -> int | None:
        machine = Machine("cpu", 8, memory_gb * GB, tasks=4, min_replicas=pool)
        budget = MemoryBudget.of(NEED, machine)
        return budget.machine.replicas if budget else None

    assert replicas(64, 2) == replicas(64, None) == 8
    assert replicas(16, None) is None
    fits = replicas(16, 2)
    assert fits is not None
    assert 2 <= fits < 8
    assert replicas(6, 2) is None


def test_a_cluster_must_hold_the_minimum_of_the_pool() -> None:
    nodes = (8 * GB, 8 * GB)
    for min_replicas, fits in ((2, True), (7, False)):
        machine = Machine("cuda", 64, GB, tasks=4, nodes_bytes=nodes, min_replicas=min_replicas)
        assert (MemoryBudget.of(NEED, machine) is not None) is fits


@pytest.mark.parametrize(
    ("device", "count", "nodes", "replicas", "drivers", "expected"),
    [
        ("cuda", 4, (), None, 1, (8, 8)),
        ("cuda", 4, (), (2, 64), 1, (2, 8)),  # the embedded Ray does not grow
        ("cuda", 4, (), (9, 64), 1, (9, 9)),
        ("cuda", 4, (GB,), (2, 64), 1, (2, 64)),  # a cluster might
        ("cuda", 4, (GB,), None, 2, (4, 4)),  # two drivers on it share its GPUs
        ("cpu", 8, (GB,), 9, 1, (9, 9)),
        ("cpu", 8, (GB,), 10, 1, None),  # no CPU for a read
        ("cpu", 8, (GB,), (1, 64), 1, (1, 64)),
    ],
)
def test_the_size_of_a_pool_depends_on_devices_nodes_and_drivers(
    device: str,
    count: int,
    nodes: tuple[int, ...],
    replicas: int | tuple[int, int] | None,
    drivers: int,
    expected: tuple[int, int] | None,
) -> None:
    execution = Execution(replicas=replicas, shards=Share(1, drivers))
    if expected is None:
        with pytest.raises(UsageError, match="beside a read; use --replicas 8"):
            Machine.of(device, count, nodes, execution)
        return
    machine = Machine.of(device, count, nodes, execution)
    assert (machine.required_replicas, machine.replicas) == expected
