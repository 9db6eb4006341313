"""Printed text: tables, progress, estimates, receipts, status, and numbers with their units."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pyarrow as pa
import pytest

from jobs import plan, run, status, text
from jobs.progress import ProgressLine, render
from jobs.query import write_csv, write_json, write_table
from pipeline.estimate import EarlierRuns
from pipeline.progress import Progress
from pipeline.receipt import Receipt, Status
from pipeline.storage.lock_holder import LockHolder
from tests.support.estimates import estimate

VALUES = pa.table(
    {
        "f": [1.5, float("nan")],
        "b": [b"\x00\xff", None],
        "t": pa.array([0, None], pa.timestamp("us", "UTC")),
        "s": [{"x": [1, 2]}, None],
        "d": pa.array([None, 12], pa.decimal128(38, 0)),
    }
)


def test_every_type_of_value_is_written_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    write_json(VALUES)
    assert json.loads(capsys.readouterr().out) == [
        {"f": 1.5, "b": "00ff", "t": "1970-01-01T00:00:00+00:00", "s": {"x": [1, 2]}, "d": None},
        {"f": None, "b": None, "t": None, "s": None, "d": 12},
    ]
    write_json(VALUES.slice(0, 0))
    assert json.loads(capsys.readouterr().out) == []


def test_every_type_of_value_is_written_as_csv(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(VALUES)
    assert capsys.readouterr().out == (
        "f,b,t,s,d\n"
        '1.5,00ff,1970-01-01T00:00:00+00:00,"{""x"": [1, 2]}",\n'
        "nan,,,,12\n"
    )  # fmt: skip


def test_a_printed_table_is_cut_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(pa.table({"n": range(51), "text": ["[bold]" + "x" * 999] * 51, "b": [b"12"] * 51}))
    out = capsys.readouterr().out
    assert "(51 rows, the first 50 shown; --format csv or json prints all)" in out
    assert "[bold]" + "x" * 293 + "…" in out
    assert "<2 B>" in out
    assert max(len(line) for line in out.splitlines()) < 330


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def progress(done: int, elapsed_s: float) -> Progress:
    return Progress(done * 10**6, 100 * 10**6, done * 10**6, elapsed_s, done, 100)


@pytest.mark.parametrize(("terminal", "lines"), [(True, 31), (False, 5)])
def test_progress_is_one_live_line_on_a_terminal_and_a_few_lines_elsewhere(
    terminal: bool, lines: int
) -> None:
    screen, now = Screen(terminal), [0.0]
    with ProgressLine(screen, "starting Ray ...", clock=lambda: now[0]) as line:
        for second in range(31):
            now[0] = float(second)
            line(progress(second, second))
        line(progress(31, 31.0))
    output = screen.getvalue()
    assert output.endswith("\n")
    if terminal:
        assert output.count("\n") == 1
        assert output.count("\r") == lines + 1
    else:
        assert "\r" not in output
        assert output.count("\n") == lines
    assert output.count("starting Ray ...") == 1
    assert "31.0 Mpx of 100.0 Mpx, 31%, 1.0 Mpx/s, 1 min 9 s left" in output.splitlines()[-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_start_is_announced_once(terminal: bool) -> None:
    screen, now = Screen(terminal), [0.0]
    with ProgressLine(screen, "starting Ray ...", clock=lambda: now[0]) as line:
        for second in range(100):
            now[0] = float(second)
            line(progress(0, 0.0))
        line(progress(2, 1.0))  # the rate excludes the start
    lines = screen.getvalue().replace("\r\x1b[K", "\n").strip().splitlines()
    assert lines == ["starting Ray ...", "2 Mpx of 100.0 Mpx, 2%, 2.0 Mpx/s, 49 s left"]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0, "0"), (0.00123, "0.0012"), (0.25, "0.25"), (1.04, "1.0"), (12.3, "12"), (1234, "1,234")],
)
def test_rates_have_two_significant_digits_or_all_integer_digits(
    rate: float, expected: str
) -> None:
    assert text.rate(rate) == f"{expected} Mpx/s"


def test_describing_is_shown_only_if_it_takes_long() -> None:
    screen, now = Screen(terminal=False), [0.0]
    with ProgressLine(screen, clock=lambda: now[0]) as line:
        for done in range(1, 2001):
            now[0] = done / 100
            line.described(done, 2000)
    assert screen.getvalue() == "described 101 of 2,000 headers\ndescribed 1,101 of 2,000 headers\n"


def test_describing_a_small_job_prints_nothing() -> None:
    screen = Screen(terminal=True)
    with ProgressLine(screen, clock=lambda: 0.0) as line:
        line.described(1, 1)
    assert screen.getvalue() == ""


def test_progress_says_that_the_time_left_is_unknown() -> None:
    assert render(progress(0, 0.0)).endswith("time left unknown")
    with ProgressLine(Screen(terminal=True)) as line:
        pass
    assert line is not None


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3600, "1 h 0 min"),
     (86400 * 3, "3 d 0 h")],
)  # fmt: skip
def test_durations_have_at_most_two_units(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1.234e9, "1.23 GB")]
)
def test_sizes_have_decimal_prefixes_and_three_digits(number: float, expected: str) -> None:
    assert text.size(number) == expected


def test_an_estimate_is_printed_with_units_notes_and_failures() -> None:
    lines = plan.render(estimate()).splitlines()
    assert "windows  100 (computed: 125, x1.25)" in lines
    assert "time     30 min 0 s with 3 replicas on cpu, without start-up" in lines
    assert "rate     0.020 s per window and replica, nominal; --calibrate measures it" in lines
    assert "area     unknown: no CRS" in lines
    assert "note: small scenes" in lines
    assert "would be quarantined: b.tif: not an image (describe, InputError)" in lines
    assert "scenes   2 to segment, 1 would be quarantined" in lines
    resumed = plan.render(replace(estimate(), earlier=EarlierRuns(250.0, 1.5, 1))).splitlines()
    assert "done         250.0 Mpx by earlier runs" in resumed
    assert "quarantined  1.5 Mpx, 1 scene by earlier runs" in resumed


def receipt() -> Receipt:
    return Receipt(
        started="2026-01-01T00:00:00Z", seconds=65, startup_s=4, ended="done",
        startup={"checkpoint": 1, "headers": 1, "plan": 0.5, "replicas": 1.5},
        output="OUT", runner="local", device="cpu", replicas=1, units=4, units_computed=1,
        scenes_planned=4, scenes_done=2, scenes_partial=1, scenes_quarantined=1,
        failures=estimate().failures, megapixels=12.0,
        megapixels_per_s=0.25, windows=100, windows_computed=125, read_s=1, segment_s=60,
        finish_s=2, publish_s=1, retries=3, bounded_by="segment", pixels_without_area=7,
        notes=("a note",),
        relief="more GPUs", megapixels_per_s_steady=0.28, busy=0.984, gpu_utilisation=0.8,
        gpu_memory_bytes=3 * 10**9, driver_s=0, km2=1234.5, cost=7.5, cost_per_1000_km2=6.075,
    )  # fmt: skip


def test_a_receipt_is_printed_with_units_rates_and_cost() -> None:
    out = run.render(receipt())
    assert "100 of the grid, 125 computed" in out
    assert "4 planned: 2 done, 1 partial, 1 quarantined" in out
    assert "1 computed, 3 done by earlier runs" in out
    assert "0.25 Mpx/s per replica, without start-up 0.28 Mpx/s" in out
    assert "bound by    segment; faster with more GPUs" in out
    assert "1 replica on cpu, runner local, busy 98% of the time after start-up," in out
    assert "GPU utilization 80%, 3 GB of GPU memory" in out
    assert "area        1,234.5 km2" in out
    assert "cost        7.50, 6.08 per 1,000 km2" in out
    assert "1 min 5 s, of which start-up 4.0 s" in out
    assert "read 1.0 s, segment 1 min 0 s, finish 2.0 s, publish 1.0 s, summed" in out
    assert "7 px outside the domain of their CRS" in out


def test_the_receipt_of_a_run_with_nothing_to_do_omits_replicas_and_bottleneck() -> None:
    idle = replace(
        receipt(), units_computed=0, replicas=0, bounded_by=None, relief=None, busy=None, km2=None
    )
    out = run.render(idle)
    assert "0 computed, 4 done by earlier runs" in out
    assert "time        1 min 5 s; there was nothing to do" in out
    assert "replica" not in out
    assert "bound by" not in out


def report() -> Status:
    return Status(
        output="OUT", units=40, units_done=10, shards=2, shards_published=0, scenes=3,
        scenes_published=0, quarantined=1, quarantined_waiting=2, megapixels=1000.0,
        megapixels_done=249.0, megapixels_quarantined=1.0, megapixels_open=750.0, finished=False,
        settings={
            "settings": {"window": 512, "batch": None, "bands": [4, 3, 2]},
            "checkpoint": "C", "device": "cpu",
        },
        runs=(), runs_without_receipt=0, at_work=(), died=False,
    )  # fmt: skip


def test_a_status_is_printed_with_shares_and_drivers() -> None:
    lines = status.render(report()).splitlines()
    assert "state        unfinished: the same `swath run` resumes" in lines
    assert "done         249.0 Mpx, 25%" in lines
    assert "open         750.0 Mpx, 75%, 30 units" in lines
    assert "quarantined  1 Mpx, 1%, 1 row, 2 more to come" in lines
    assert "units        10 of 40 have an outcome" in lines
    assert "scenes       0 of 3 published" in lines
    assert "settings     window 512, bands 4,3,2" in lines
    assert lines[-1] == "runs         0"
    assert "at work      nobody" in lines
    killed = status.render(replace(report(), runs_without_receipt=1, died=True)).splitlines()
    assert killed[-1] == "runs         1, 1 ended without a receipt"
    expected = "nobody; the latest run left no receipt: it was killed, or its store was gone"
    assert f"at work      {expected}" in killed
    holder = LockHolder("node-7", 4711, "2026-01-01T00:00:00+00:00", "1/2")
    busy = replace(report(), at_work=(holder, LockHolder(None, None, None)), runs_without_receipt=3)
    lines = status.render(busy).splitlines()
    assert "state        unfinished" in lines
    expected = "node-7, process 4711, --shards 1/2, since 2026-01-01T00:00:00+00:00"
    assert f"at work      {expected}; on an unknown machine" in lines
    assert lines[-1] == "runs         3, 2 at work, 1 ended without a receipt"


def test_a_status_describes_each_run_in_one_line() -> None:
    record = {
        "started": "2026-01-01T00:00:00+00:00", "megapixels": 12.0, "seconds": 65.0,
        "megapixels_per_s": 0.25, "bounded_by": "segment", "cost": None,
    }  # fmt: skip
    expected = "2026-01-01T00:00:00+00:00: 12.0 Mpx in 1 min 5 s, 0.25 Mpx/s per replica, bound by"
    assert status._run(record) == f"{expected} segment"
    paid = record | {"cost": 7.5, "cost_per_1000_km2": None}
    assert status._run(paid) == f"{expected} segment, cost 7.50"
    stopped = record | {"ended": "stopped by hand"}
    assert status._run(stopped) == f"{expected} segment, ended early: stopped by hand"
    idle = record | {"bounded_by": None, "megapixels": 0.0}
    expected = "2026-01-01T00:00:00+00:00: 0.0 Mpx in 1 min 5 s, there was nothing to do"
    assert status._run(idle) == expected


def test_a_status_counts_the_runs_that_ended_early() -> None:
    done, stopped = {"ended": "done"}, {"ended": "stopped by hand"}

    def count(receipts: list[dict[str, str]], without_receipt: int = 0) -> str:
        counted = replace(report(), runs=tuple(receipts), runs_without_receipt=without_receipt)
        return status._count(counted)

    assert count([done, done]) == "2:"
    assert count([stopped, done]) == "2, 1 of them ended early:"
    assert count([*[done] * 5, stopped]) == "6, 1 of them ended early, the last 5:"
    assert count([done], 2) == "3, 2 ended without a receipt:"


def test_small_costs_are_not_rounded_to_zero() -> None:
    assert text.cost(1234.5, 0.0123) == "1,234.50, 0.01 per 1,000 km2"
    assert text.cost(0.00234, 0.0000411) == "0.0023, 0.000041 per 1,000 km2"
    assert text.cost(0.0, None) == "0.00"
