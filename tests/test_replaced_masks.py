"""Masks of scenes whose rows a later shard replaces: whole or refused, never half there."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from pipeline.errors import UnfinishedError, UsageError
from pipeline.output.layout import Output, commit_path, table_path
from pipeline.output.masks import SceneMask, scene_masks
from pipeline.output.publishing import publish
from pipeline.output.shard import Shard
from tests.support.broken_inputs import Crash, check_no_row_twice, crashing
from tests.support.outputs import differences
from tests.support.published_masks import (
    Maps,
    create,
    opened_mask,
    publish_maps,
    random_ids,
    shard_of,
    whole_masks,
    write_units,
)


def test_a_mask_is_that_of_the_shard_that_replaced_its_scene(tmp_path: Path) -> None:
    """The mask before, during and after a retry is published, and after old rows reappear."""
    output = create(tmp_path / "out")
    old_HW, new_HW = random_ids(900, 700, 5, seed=1), random_ids(800, 600, 5, seed=2)
    other_HW = random_ids(600, 600, 5, seed=3)
    publish_maps(output, "000000", {"a.tif": old_HW, "b.tif": other_HW})
    retry = shard_of("000001", {"a.tif": new_HW}, retries={"a.tif": ("000000",)})
    output.append([retry])
    write_units(output, retry, {"a.tif": new_HW})

    def masks() -> Maps:
        whole = {mask.scene_id: mask.read(mask.rect) for mask in scene_masks(output)}
        for name, ids_HW in whole.items():
            with SceneMask.open(output, name) as mask:
                assert np.array_equal(mask.read(mask.rect), ids_HW)
        return whole

    assert np.array_equal(masks()["a.tif"], old_HW)
    paths = [table_path(table, "000000") for table in ("masks", "scenes")]
    before = [output.store.read(path) for path in paths]
    with SceneMask.open(output, "a.tif") as opened:
        publish(output, retry)
        assert np.array_equal(
            opened.read(opened.rect), old_HW
        )  # on disk, an open file keeps its contents
    assert np.array_equal(masks()["a.tif"], new_HW)
    assert np.array_equal(masks()["b.tif"], other_HW)
    for path, data in zip(paths, before, strict=True):
        output.store.write(path, data)
    assert np.array_equal(masks()["a.tif"], new_HW)


OLD_HW, NEW_HW, KEPT_HW = (random_ids(n, 600, 5, n) for n in (700, 650, 300))


@pytest.fixture
def retried(tmp_path: Path) -> tuple[Output, Shard]:
    """An output whose a.tif is published, and the shard that replaces it, complete and unpublished:
    OLD_HW becomes NEW_HW."""
    output = create(tmp_path / "out")
    publish_maps(output, "000000", {"a.tif": OLD_HW, "kept.tif": KEPT_HW})
    retry = shard_of("000001", {"a.tif": NEW_HW}, retries={"a.tif": ("000000",)})
    output.append([retry])
    write_units(output, retry, {"a.tif": NEW_HW})
    return output, retry


def crash_publish(output: Output, shard: Shard, after: int) -> None:
    """Publish, but crash after this many changes."""
    with crashing(after), contextlib.suppress(Crash):
        publish(output, shard)


def changes_of_publishing(output: Output, shard: Shard, folder: Path) -> list[str]:
    """The paths that publishing changes, in order; leaves the result in `folder`."""
    shutil.copytree(output.store.root, folder)
    with crashing(1000) as changes:
        publish(Output.open(str(folder)), shard)
    return changes


def test_a_crash_between_two_deletions_leaves_a_scene_whole_or_unpublished(
    retried: tuple[Output, Shard], tmp_path: Path
) -> None:
    output, retry = retried
    calm = tmp_path / "calm"
    changes = changes_of_publishing(output, retry, calm)
    assert changes[:3] == [f"{t}/000000.parquet" for t in ("scenes", "statistics", "masks")]
    for after in range(len(changes) + 1):
        crashed = Output.open(str(shutil.copytree(output.store.root, tmp_path / f"{after}")))
        crash_publish(crashed, retry, after)
        check_no_row_twice(Path(crashed.store.root))
        masks = whole_masks(crashed)
        assert np.array_equal(masks.pop("kept.tif"), KEPT_HW)
        if 0 < after <= changes.index(commit_path("000001")):
            assert not masks
            with pytest.raises(UsageError, match=r"a.tif is not published yet"):
                SceneMask.open(crashed, "a.tif")
        else:
            expected_HW = NEW_HW if after else OLD_HW
            assert np.array_equal(masks["a.tif"], expected_HW)
            assert np.array_equal(opened_mask(crashed, "a.tif"), expected_HW)
        publish(crashed, retry)
        assert differences(calm, crashed.store.root) == []


@pytest.mark.parametrize("opening", range(5))
def test_a_scene_replaced_while_it_is_opened_is_whole_or_refused(
    retried: tuple[Output, Shard], tmp_path: Path, opening: int
) -> None:
    """Rows are replaced, wholly or in part, just before the reader opens one of its files."""
    output, retry = retried
    changes = changes_of_publishing(output, retry, tmp_path / "calm")
    refusals = set()
    for after, read in itertools.product(range(1, len(changes) + 1), (open_a, whole_masks)):
        folder = shutil.copytree(output.store.root, tmp_path / f"{read.__name__}{after}")
        copy, writer = Output.open(str(folder)), Output.open(str(folder))
        call_before_opening(copy, opening, partial(crash_publish, writer, retry, after))
        try:
            masks = read(copy)
        except (UnfinishedError, UsageError) as error:
            refusals.add(str(error).removeprefix(f"{folder}: "))
            continue
        if "a.tif" in masks:
            expected_HW = NEW_HW if masks["a.tif"].shape == NEW_HW.shape else OLD_HW
            assert np.array_equal(masks["a.tif"], expected_HW)
    texts = {text.partition(";")[0] for text in refusals}
    # `open` reads `scenes`, `masks` and `scenes` again; `scene_masks` reads `masks` and `scenes`.
    expected = {0: "a.tif is not published yet", 1: "a.tif is being replaced"}
    assert texts == {expected[min(opening, 1)]} if opening < 3 else not texts


def open_a(output: Output) -> Maps:
    return {"a.tif": opened_mask(output, "a.tif")}


def call_before_opening(output: Output, opening: int, action: Callable[[], None]) -> None:
    """Let the action happen just before the output opens a file for the nth time, from 0."""
    countdown, real_open = itertools.count(-opening), output.store.open

    def open_later(path: str) -> BinaryIO:
        if next(countdown) == 0:
            action()
        return real_open(path)

    output.store.open = open_later  # type: ignore[method-assign]
