"""Outputs whose masks are known: class ids by scene, published as a run would publish them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.failure import Failure, Rejected
from pipeline.grid import cores, mask_tiles
from pipeline.job import Job
from pipeline.output.layout import Output, write_unit
from pipeline.output.masks import SceneMask, scene_masks
from pipeline.output.publishing import publish
from pipeline.output.shard import Shard
from pipeline.output.unit_file import unit_file
from pipeline.scene import Rect, Scene
from pipeline.settings import Settings
from pipeline.unit import Block, SegmentedUnit, Stitched, Unit

BLOCK_PX = 1024
TRANSFORM = (10.0, 0.0, 5e5, 0.0, -10.0, 5e6)

Maps = dict[str, np.ndarray]
"""scene_id -> class ids [H, W]."""


def random_ids(width: int, height: int, classes: int, seed: int) -> np.ndarray:
    """Class ids (height, width) in patches, about a third of which are nodata."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(np.uint8) if classes <= 255 else np.dtype("<u2")
    edge = int(rng.integers(100, 700))
    shape = height // edge + 1, width // edge + 1
    coarse = rng.integers(0, classes, shape).astype(dtype)
    coarse[rng.random(shape) < 0.3] = np.iinfo(dtype).max
    return np.kron(coarse, np.ones((edge, edge), dtype))[:height, :width].copy()


def create(folder: Path | str, classes: int = 5) -> Output:
    names = tuple(f"class {k}" for k in range(classes))
    job = Job(Settings(batch=1), "/model", "0" * 64, "cpu", names, (None,) * classes)
    return Output.create(str(folder), job)


def shard_of(
    shard_id: str,
    maps: Maps,
    rejected: Sequence[str] = (),
    retries: dict[str, tuple[str, ...]] | None = None,
    crs: str | None = "EPSG:32633",
) -> Shard:
    scenes = tuple(
        Scene(
            *(name, f"/in/{name}", "1-2", (), ids_HW.shape[1], ids_HW.shape[0], (1, 2, 3), "uint8"),
            *(None, crs, TRANSFORM, None, False),
        )
        for name, ids_HW in maps.items()
    )
    units = tuple(
        Unit(shard_id, (Block(scene, core),))
        for scene in scenes
        for core in cores(scene.width, scene.height, BLOCK_PX, BLOCK_PX)
    )
    failures = [Failure(n, f"/in/{n}", "describe", None, "E", "no header") for n in rejected]
    bad = tuple(Rejected("1-2", failure) for failure in failures)
    return Shard(shard_id, scenes, units, bad, retries or {})


def write_units(output: Output, shard: Shard, maps: Maps, failing: Sequence[Rect] = ()) -> None:
    classes = len(output.job.class_names)
    for unit in shard.units:
        (block,) = unit.blocks
        scene_id, core = block.scene.scene_id, block.core
        counts = np.zeros((len(list(mask_tiles(core))), classes), np.int64)
        ids_HW = maps[scene_id][core.row_off : core.row_end, core.col_off : core.col_end]
        result: Stitched | Failure = Stitched(ids_HW, counts, counts)
        if core in failing:
            result = Failure(scene_id, block.scene.url, "read", str(core), "E", "torn")
        data = unit_file(SegmentedUnit(unit, (result,), 1, 0.0, 0.0, 0))
        write_unit(output.store, unit, data, failed=core in failing)


def publish_maps(output: Output, shard_id: str, maps: Maps, **options: Any) -> None:
    failing = options.pop("failing", ())
    shard = shard_of(shard_id, maps, **options)
    output.append([shard])
    write_units(output, shard, maps, failing)
    publish(output, shard)


def whole_masks(output: Output) -> Maps:
    return {mask.scene_id: mask.read(mask.rect) for mask in scene_masks(output)}


def opened_mask(output: Output, scene_id: str) -> np.ndarray:
    with SceneMask.open(output, scene_id) as mask:
        return mask.read(mask.rect)
