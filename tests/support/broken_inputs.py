"""Archives with broken inputs, runs over them that may crash, and counts that must agree."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.api import run
from pipeline.output.status import status
from pipeline.receipt import Receipt
from pipeline.settings import Execution, Settings
from pipeline.storage.local_store import LocalStore
from tests.support.archives import write_scene
from tests.support.outputs import ORDER, rows, stray_files

SETTINGS = Settings(window=64, stride=48, batch=1)
SHORT, TALL = (60, 50), (64, 1100)
"""Width and height of scenes of one block and of three blocks of 512 rows, in pixels."""


def file_contents(folder: Path) -> dict[str, bytes]:
    """The bytes of files by name: scenes `good0`, ... `tall`, damaged ones of the same size `bad0`,
    ... `torn` (one of its blocks cannot be read), and `text`, which is no image."""
    rng = np.random.default_rng(0)
    files = {"text": b"this is no image"}
    for name, damaged, (width, height) in (
        *((f"good{n}", f"bad{n}", SHORT) for n in range(5)),
        ("tall", "torn", TALL),
    ):
        noise = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        path = write_scene(folder / "a.tif", width, height, values=noise, tiled=False)
        files[name] = path.read_bytes()
        end = len(files[name])
        files[damaged] = files[name][: end - 3000] + bytes(2000) + files[name][end - 1000 :]
    return files


def put(path: Path, content: bytes, *, unseen: bool = False) -> None:
    """Write or replace a file.

    unseen: keep the modification time, so that a file of the same size looks unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else None
    path.write_bytes(content)
    if before is not None:
        step = 0 if unseen else 10_000_000  # a clock too coarse would hide the change
        os.utime(path, ns=(before + step, before + step))


def segment(inputs: Path, checkpoint: str, out: Path | str, **execution: Any) -> Receipt:
    """Run a job on this machine; `execution` overrides its options."""
    options = Execution(**{"runner": "local", "block": 512, **execution})
    return run([str(inputs)], checkpoint, str(out), SETTINGS, options)


def units_on_disk(out: Path) -> int:
    """The number of unit files that wait for publishing."""
    return len(list(out.glob("work/*/*.parquet")))


def plan_files(out: Path) -> int:
    """The number of shards in the plan."""
    return len(list((out / "plan").iterdir()))


def check_counts(out: Path, receipt: Receipt) -> None:
    """Assert that receipt, status and tables count the same."""
    scenes = rows(out, "scenes").to_pylist()
    count = Counter(row["status"] for row in scenes)
    assert receipt.scenes_planned == len(scenes) == len({row["scene_id"] for row in scenes})
    assert receipt.scenes_done == count["done"]
    assert receipt.scenes_partial == count["partial"]
    assert receipt.scenes_quarantined == count["quarantined"]
    failures = sorted(rows(out, "quarantine").to_pylist(), key=str)
    assert sorted((f.to_json() for f in receipt.failures), key=str) == failures
    report = status(str(out))
    assert report.finished
    assert report.scenes == report.scenes_published == len(scenes)
    assert report.quarantined == len(failures)
    assert report.units == report.units_done == receipt.units
    failed_px = sum(failure.pixels for failure in receipt.failures)
    assert report.megapixels_quarantined == failed_px / 1e6
    assert report.megapixels_done == pytest.approx(report.megapixels - failed_px / 1e6)
    assert stray_files(out) == []


def check_no_row_twice(out: Path) -> None:
    """Assert that no row is twice in the files of a table, as a reader by glob would see them."""
    for table, key in ORDER.items():
        if any((out / table).glob("*.parquet")):
            keys = [tuple(row.values()) for row in rows(out, table).select(key).to_pylist()]
            assert len(keys) == len(set(keys)), table


class Crash(BaseException):
    """The end of a process, as far as it can see its own."""


@contextmanager
def crashing(after: int) -> Iterator[list[str]]:
    """Let this many changes of the output happen, then crash; yields the paths of those."""
    changes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("writing", "create", "delete_folder"):
            real = getattr(LocalStore, name)

            def change(self: LocalStore, path: str, *data: bytes, real: Any = real) -> Any:
                if len(changes) == after:
                    raise Crash
                changes.append(path)
                return real(self, path, *data)

            patch.setattr(LocalStore, name, change)
        yield changes


def crash_run(after: int, folder: Path, checkpoint: str, out: Path, **execution: Any) -> bool:
    """Run a job that crashes after this many changes; False if it finished before that."""
    with crashing(after):
        try:
            segment(folder, checkpoint, out, **execution)
        except Crash:
            return True
    return False
