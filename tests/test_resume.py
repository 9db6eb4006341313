"""Runs that crash again and again, before any change: the rows are those of an undisturbed run.

Everything is as in a real run, with two exceptions: the network is a sum over the pixels, and
headers are read in this process.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import pipeline.engine.replica
import pipeline.imagery.header_pool
import pipeline.planning.planner
from pipeline.api import run
from pipeline.grid import mask_tiles
from pipeline.processes.sandbox import Returned
from pipeline.receipt import Receipt
from pipeline.settings import Execution, Settings
from pipeline.stages import Work
from pipeline.storage.access import DEFAULT_ACCESS
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Stitched, Unit
from segformer import read_checkpoint
from tests.support.archives import write_scene
from tests.support.outputs import ORDER, rows, stray_files
from tests.support.power_cuts import Crash, Disk, Life, life_on_bucket
from tests.support.s3_server import Server

CLASSES = 4
SIZES = {"a": (60, 50), "b": (40, 70), "c": (90, 80), "wide": (1100, 60), "tall": (64, 1300)}
"""Width and height in pixels: one block each, but three of 512 px for each of the last two."""
SETTINGS = Settings(window=64, stride=48, batch=1)
EXECUTION = Execution(runner="local", block=512)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes to assemble archives from, one of them damaged, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        noise = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        write_scene(folder / f"{name}.tif", width, height, values=noise, nodata=0, tiled=False)
    torn = bytearray((folder / "tall.tif").read_bytes())
    torn[-3000:-1000] = bytes(2000)
    (folder / "torn.tif").write_bytes(torn)
    (folder / "text.tif").write_text("this is no image")
    return folder


class Sums:
    """A substitute for the network: a pixel's class is the sum of its bands, modulo CLASSES."""

    def __init__(self, *_: object) -> None:
        """Accept and ignore the arguments of Replica."""

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        blocks = tuple(
            _stitched(block, pixels) if isinstance(pixels, Pixels) else pixels
            for block, pixels in zip(read.unit.blocks, read.blocks, strict=True)
        )
        return SegmentedUnit(read.unit, blocks, len(blocks), read.read_s, 0.0, read.retries)


def _stitched(block: Block, pixels: Pixels) -> Stitched:
    core, rect = block.core, pixels.rect
    top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
    placed = np.s_[top : top + core.height, left : left + core.width]
    ids_HW = (pixels.values_CHW[:, *placed].sum(axis=0) % CLASSES).astype(np.uint8)
    ids_HW[~pixels.valid_HW[placed]] = 255
    counts = []
    for _, _, tile in mask_tiles(core):
        top, left = tile.row_off - core.row_off, tile.col_off - core.col_off
        ids = ids_HW[top : top + tile.height, left : left + tile.width]
        counts.append(np.bincount(ids[ids != 255], minlength=CLASSES))
    samples_TK = np.array(counts)
    return Stitched(ids_HW, samples_TK * 321, samples_TK)


@dataclass
class Diary:
    """How often each unit was started and finished, over all runs on one output."""

    started: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)


@contextmanager
def quick_runs(diary: Diary, shard_units: int = 1000) -> Iterator[None]:
    """Replace the slow parts of runs, and record their units in the diary."""
    read, finish = Work.read, Work.finish

    def recorded_read(work: Work, unit: Unit) -> ReadUnit:
        assert not diary.finished[unit.unit_id], "computed before"
        diary.started[unit.unit_id] += 1
        return read(work, unit)

    def recorded_finish(work: Work, segmented: SegmentedUnit) -> None:
        finish(work, segmented)
        diary.finished[segmented.unit.unit_id] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.imagery.header_pool, "run_in_sandbox", describe_in_this_process)
        patch.setattr("segformer.read_checkpoint", lambda checkpoint, **_: read_once(checkpoint))
        patch.setattr(pipeline.engine.replica, "Replica", Sums)
        patch.setattr(pipeline.planning.planner, "SHARD_UNITS", shard_units)
        patch.setattr(Work, "read", recorded_read)
        patch.setattr(Work, "finish", recorded_finish)
        yield


def describe_in_this_process(
    work: Callable[[Any], Any], files: Sequence[Any], _: object
) -> Iterator[Any]:
    for index, file in enumerate(files):
        yield index, Returned(work(file))


read_once = lru_cache(read_checkpoint)


@pytest.fixture(scope="module")
def undisturbed(
    pool: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One run over all scenes."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with quick_runs(Diary()):
        run([str(pool)], small_checkpoint, str(out), SETTINGS, EXECUTION)
    return out


@dataclass(frozen=True)
class Story:
    """The history of one output: its scenes, and how its runs end."""

    names: list[str]
    """File names of the scenes; the first scene is intact."""
    early: int
    """The number of scenes present from the start; the others arrive before the last run."""
    shard_units: int
    ends: list[int]
    """For each run, the number of the change before which it crashes, if it makes that many."""
    cuts: int | None
    """Seed of what a power cut undoes; None: only the processes die, not the machine."""


@st.composite
def stories(draw: st.DrawFn, max_ends: int, max_changes: int) -> Story:
    names = draw(st.permutations(["b", "c", "wide", "tall", "torn", "text"]))
    names = ["a", *names[: draw(st.integers(0, len(names)))]]
    return Story(
        [f"{name}.tif" for name in names],
        draw(st.integers(1, len(names))),
        draw(st.sampled_from([1, 2, 1000])),
        draw(st.lists(st.integers(0, max_changes), min_size=1, max_size=max_ends)),
        draw(st.one_of(st.none(), st.integers(0, 1000))),
    )


class Chronicle:
    """The runs of a story, carried out on one output."""

    def __init__(self, story: Story, pool: Path, checkpoint: str, out: str) -> None:
        self._story = story
        self._urls = [str(pool / name) for name in story.names]
        self._checkpoint, self._out = checkpoint, out
        self._diary = Diary()

    def live(self, lives: Callable[[int | None], AbstractContextManager[Life]]) -> None:
        """Run until each crash of the story, then once more to the end."""
        crashes = 0
        for end in self._story.ends:
            with quick_runs(self._diary, self._story.shard_units), lives(end):
                try:
                    self._run(self._urls[: self._story.early])
                except Crash:
                    crashes += 1
        event(f"{crashes} crashes")
        with quick_runs(self._diary, self._story.shard_units), lives(None):
            receipt = self._run(self._urls)
        started = self._diary.started
        assert receipt.scenes_planned == receipt.outcomes == len(self._urls)
        assert len(started) == receipt.units
        assert started.total() - receipt.units <= crashes  # at most what was being computed

    def run_idle(self) -> None:
        """Run once more: nothing is left to do except cleaning up."""
        with quick_runs(self._diary, self._story.shard_units):
            assert self._run(self._urls).units_computed == 0

    def _run(self, urls: list[str]) -> Receipt:
        return run(urls, self._checkpoint, self._out, SETTINGS, EXECUTION)


def check_rows(undisturbed: Path, out: Path | str, names: list[str]) -> None:
    for table in ORDER:
        expected = rows(undisturbed, table)
        expected = expected.filter(pc.is_in(expected["scene_id"], pa.array(names)))
        assert rows(out, table).equals(expected), table


@settings(max_examples=25, deadline=None)
@given(story=stories(max_ends=4, max_changes=90))
def test_crashed_runs_leave_the_rows_of_an_undisturbed_run(
    story: Story,
    pool: Path,
    undisturbed: Path,
    small_checkpoint: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    out = tmp_path_factory.mktemp("story") / "out"
    disk = Disk(out.parent)

    @contextmanager
    def life(end: int | None) -> Iterator[Life]:
        with disk.life(end) as current_life:
            yield current_life
        if story.cuts is not None:
            disk.lose_power(story.cuts)

    chronicle = Chronicle(story, pool, small_checkpoint, str(out))
    chronicle.live(life)
    check_rows(undisturbed, out, story.names)
    chronicle.run_idle()
    assert stray_files(out) == []
    check_rows(undisturbed, out, story.names)


@pytest.mark.s3
@settings(max_examples=5, deadline=None)
@given(story=stories(max_ends=3, max_changes=20))
def test_crashed_runs_on_s3_leave_the_rows_of_an_undisturbed_run(
    story: Story, pool: Path, undisturbed: Path, small_checkpoint: str, s3: Server
) -> None:
    assert s3.url
    out = f"s3://tests/{uuid.uuid4().hex[:12]}/out"
    fs, _ = DEFAULT_ACCESS.filesystem(out)
    Chronicle(story, pool, small_checkpoint, out).live(lambda end: life_on_bucket(fs, end))
    assert stray_files(out) == []
    check_rows(undisturbed, out, story.names)
