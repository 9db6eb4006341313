"""Prometheus metrics from Ray's endpoint while a run is at work, and the receipt after it."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import ray
import torch

from pipeline.api import run
from pipeline.cluster.callbacks import PoolMeter
from pipeline.cluster.metrics import (
    COUNTERS,
    GAUGES,
    GPU_MEMORY,
    WAITING_UNITS,
    GpuMemoryGauge,
    Metrics,
)
from pipeline.driver.bottleneck import Bottleneck
from pipeline.driver.tally import Tally
from pipeline.engine.device import SAMPLE_S, GpuMonitor
from pipeline.output.status import status
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.progress import Progress
from pipeline.settings import Execution, Settings
from pipeline.unit import GpuUse
from tests.support.archives import write_scene

SETTINGS = Settings(window=128, stride=96, batch=2)
SAMPLE = re.compile(r"^ray_(swath_\w+)\{(.*)\} (\S+)$")


class Scraper(threading.Thread):
    """Scrapes the endpoint of the only node again and again, as Prometheus does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.scrapes: list[dict[str, float]] = []
        self.outputs: set[str] = set()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            if ray.is_initialized():
                # The cluster may end between any two of these steps.
                with suppress(OSError, ValueError, RuntimeError, IndexError, KeyError):
                    self.scrapes.append(dict(self._scrape()))

    def _scrape(self) -> Iterator[tuple[str, float]]:
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        for line in text.splitlines():
            if match := SAMPLE.match(line):
                self.outputs |= set(re.findall(r'output="([^"]*)"', match[2]))
                yield match[1], float(match[3])

    def close(self) -> list[dict[str, float]]:
        self._ended.set()
        self.join()
        return [scrape for scrape in self.scrapes if scrape]


@pytest.mark.ray
@pytest.mark.slow
def test_prometheus_and_the_receipt_show_the_progress_of_a_run(
    b0_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    meter = PoolMeter()
    monkeypatch.setattr("pipeline.driver.ray_runner.PoolMeter", lambda: meter)
    for n in range(4):
        write_scene(tmp_path / "in" / f"{n}.tif", 1500, 1400, seed=n)
    (tmp_path / "in" / "bad.tif").write_bytes(b"no image")
    out, scraper = tmp_path / "out", Scraper()
    scraper.start()
    execution = Execution(replicas=1, price_per_hour=7.2)
    receipt = run([str(tmp_path / "in")], b0_checkpoint, str(out), SETTINGS, execution)
    scrapes = scraper.close()
    assert scraper.outputs == {str(out)}
    last = scrapes[-1]
    assert set(last) >= {*GAUGES, WAITING_UNITS, "swath_units_total", "swath_pixels_total"}
    assert last["swath_planned_units"] == receipt.units
    assert last["swath_planned_pixels"] == 4 * 1500 * 1400
    assert last["swath_quarantined_inputs"] == 1
    done = [scrape["swath_segmented_pixels"] for scrape in scrapes]
    assert done == sorted(done)
    assert 0 < max(scrape.get("swath_units_total", 0) for scrape in scrapes) <= receipt.units
    for (
        scrape
    ) in scrapes:  # none of it is another run's; the two are not exported at the same moment
        assert scrape.get("swath_pixels_total", 0) <= 4 * 1500 * 1400
    assert max(scrape["swath_waiting_units"] for scrape in scrapes) > 0
    assert last["swath_pixels_per_second"] > 0

    assert receipt.km2 == pytest.approx(4 * 1500 * 1400 / 1e4, rel=0.01)
    assert receipt.cost == pytest.approx(receipt.seconds * 0.002)
    assert receipt.cost_per_1000_km2 == pytest.approx(1000 * receipt.cost / receipt.km2)
    steady_s = receipt.seconds - receipt.startup_s
    assert receipt.busy == pytest.approx(min(1, receipt.segment_s / steady_s))
    assert 0.2 < receipt.busy <= 1
    assert receipt.megapixels_per_s_steady == pytest.approx(receipt.megapixels / steady_s)
    assert (
        0.3 * steady_s < meter.replica_s < receipt.seconds
    )  # as the receipt of a growing pool uses it
    assert meter.waiting_units == 0
    assert 0 < receipt.driver_s < receipt.seconds * 2
    assert (receipt.gpu_utilisation, receipt.gpu_memory_bytes) == (None, None)
    (recorded,) = status(str(out)).runs
    assert recorded == {
        **receipt.to_json(),
        "failures": recorded["failures"],
        "notes": [*receipt.notes],
    }


def test_without_a_cluster_nothing_is_exported() -> None:
    passed_on: list[Progress] = []
    progress = Progress(1, 2, 1, 1.0, 1, 2)
    Metrics("out", PoolMeter(), passed_on.append)(progress)
    assert passed_on == [progress]
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.ray
def test_the_memory_of_a_gpu_is_exported_by_its_replica() -> None:
    """Only the export is tested: a machine without a GPU has no values from NVML and CUDA."""
    from pipeline.cluster.session import connected  # noqa: PLC0415

    scraper = Scraper()
    with connected(None, 3, 1_000_000_000, 100_000_000):
        memory = GpuMemoryGauge("s3://bucket/out")
        memory.record(None)
        memory.record(GpuUse(peak_bytes=123_456_789, busy=None))
        scraper.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any(GPU_MEMORY in s for s in scraper.scrapes):
            time.sleep(0.5)
        scrapes = scraper.close()
    assert scrapes[-1][GPU_MEMORY] == 123_456_789
    assert scraper.outputs == {"s3://bucket/out"}


def test_metric_names_follow_the_rules_of_prometheus() -> None:
    for name in [*GAUGES, WAITING_UNITS, *COUNTERS, GPU_MEMORY]:
        assert re.fullmatch(r"swath_[a-z_]+", name)
        assert name.endswith("_total") == (name in COUNTERS)


def test_the_utilisation_of_a_gpu_is_the_mean_of_its_samples() -> None:
    answers = iter([40, 60])
    gpu = GpuMonitor(peak_bytes=lambda: 5, percent=lambda: next(answers))
    gpu.sample()
    assert gpu.use() == GpuUse(5, None)  # too early for the first sample
    for _ in range(2):
        gpu._next = time.monotonic()
        gpu.sample()
    gpu.sample()
    assert gpu.use() == GpuUse(5, 0.5)
    assert gpu.use() == GpuUse(5, None)
    assert gpu._next <= time.monotonic() + SAMPLE_S


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_without_utilisation_does_not_end_a_run() -> None:
    gpu = GpuMonitor(peak_bytes=lambda: 5)  # torch needs a package, or a driver, that is missing
    gpu._next = time.monotonic()
    gpu.sample()
    assert gpu.use() == GpuUse(5, None)


READ, SEGMENT, FINISH = Tally(read_s=90), Tally(segment_s=40), Tally(finish_s=90)
PUBLISH = Tally(segment_s=40, publish_s=30)
NOTHING = MemoryNeed(*[0] * 9)


@pytest.mark.parametrize(
    ("tally", "machine", "startup_s", "driver_s", "stage", "relief"),
    [
        (
            READ,
            Machine("cpu", 2, 1, tasks=4),
            3,
            9,
            "read",
            "more CPU cores or a cluster (--address)",
        ),
        (READ, Machine("cpu", 1, 1, tasks=0), 3, 0, "read", "--runner ray, which uses every core"),
        (SEGMENT, Machine("cpu", 1, 1, tasks=0), 3, 0, "segment", "ray, which uses every core"),
        (SEGMENT, Machine("cuda", 1, 1, tasks=0), 3, 0, "segment", "ray, which uses every GPU"),
        (SEGMENT, Machine("cpu", 2, 1, tasks=4), 3, 9, "segment", "more CPU cores"),
        (SEGMENT, Machine("cuda", 2, 1, tasks=4), 3, 9, "segment", "more GPUs; or --dtype float16"),
        (FINISH, Machine("cpu", 2, 1, tasks=4), 3, 9, "finish", "an --output on a disk"),
        (
            PUBLISH,
            Machine("cpu", 2, 1, tasks=4),
            3,
            9,
            "publish",
            "or a cluster (--address): as many shards",
        ),
        (PUBLISH, Machine("cpu", 2, 1, tasks=4, nodes_bytes=(1, 1)), 3, 9, "segment", "CPU cores"),
        (PUBLISH, Machine("cpu", 1, 1, tasks=0), 3, 0, "segment", "ray, which uses every core"),
        (SEGMENT, Machine("cpu", 2, 1, tasks=4), 3, 21, "driver", "a larger --block"),
        (SEGMENT, Machine("cpu", 2, 1, tasks=4), 21, 9, "start-up", "more images in one run"),
    ],
)
def test_what_bounds_a_run_and_what_relieves_it(
    tally: Tally, machine: Machine, startup_s: float, driver_s: float, stage: str, relief: str
) -> None:
    budget = MemoryBudget(NOTHING, machine, machine.tasks)
    bound = Bottleneck(tally, budget, machine.replicas, startup_s, driver_s, joined=False)
    assert bound.stage == stage
    assert relief in bound.relief


def test_a_joined_cluster_is_relieved_by_more_nodes() -> None:
    budget = MemoryBudget(NOTHING, Machine("cuda", 2, 1, tasks=4), 4)
    bound = Bottleneck(READ, budget, 2, 3, 9, joined=True)
    assert bound.relief.startswith("more CPU nodes in the cluster")


@pytest.mark.parametrize(("at_work", "stage"), [(2, "segment"), (8, "read")])
def test_a_pool_that_grew_late_counts_its_average_replicas(at_work: int, stage: str) -> None:
    tally, machine = Tally(read_s=40, segment_s=40), Machine("cpu", 8, 1, tasks=4, min_replicas=1)
    budget = MemoryBudget(NOTHING, machine, 4)
    assert Bottleneck(tally, budget, at_work, 3, 3, joined=True).stage == stage
