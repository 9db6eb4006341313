"""What a plan will take, before anything is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.area import CellAreas
from pipeline.cost import Cost, blocks_of
from pipeline.memory import Division
from pipeline.output import Shard
from pipeline.receipt import Estimate
from pipeline.scene import Block, Scene


def estimate(
    cost: Cost, shards: Sequence[Shard], division: Division, inputs: int, notes: Sequence[str]
) -> Estimate:
    """Of the units in these shards, which may be less than the scenes in them."""
    units = [unit for shard in shards for unit in shard.units]
    blocks = blocks_of(units)
    scenes = list({block.scene.scene_id: block.scene for block in blocks}.values())
    computed = sum(cost.windows(block) for block in blocks)
    own = division.own_bytes
    return Estimate(
        inputs=inputs,
        scenes=len(scenes),
        rejected=tuple(r.failure for shard in shards for r in shard.rejected),
        units=len(units),
        windows=round(sum(cost.grid_windows(block) for block in blocks)),
        windows_computed=computed,
        megapixels=sum(block.core.pixels for block in blocks) / 1e6,
        km2=_km2(blocks),
        read_bytes=sum(cost.read_bytes(block) for block in blocks),
        memory_bytes=own.get("replica", own["driver"]),
        memory={**own, "total": division.total_bytes},
        hours=computed * cost.window_s / cost.machine.fewest / 3600,
        replicas=cost.machine.fewest,
        device=cost.machine.device,
        batch=cost.settings.batch or 0,
        notes=(*notes, *_notes(scenes, cost.settings.window)),
    )


def _km2(blocks: Sequence[Block]) -> float | None:
    """None where there are scenes, but none with a CRS."""
    placed = [block for block in blocks if block.scene.crs]
    if blocks and not placed:
        return None
    per_px = {block.scene.scene_id: 0.0 for block in placed}
    for scene in {block.scene.scene_id: block.scene for block in placed}.values():
        cells = CellAreas(scene.crs or "", scene.transform, scene.width, scene.height)
        per_px[scene.scene_id] = cells.total_m2() / scene.pixels
    return sum(per_px[block.scene.scene_id] * block.core.pixels for block in placed) / 1e6


def _notes(scenes: Sequence[Scene], window: int) -> Iterator[str]:
    small = [scene for scene in scenes if min(scene.width, scene.height) < window]
    if small:
        filled = sum(min(s.width, window) * min(s.height, window) for s in small)
        waste = 1 - filled / (len(small) * window**2)
        yield (
            f"{len(small)} of {len(scenes)} scenes are smaller than the window of {window} px"
            f" ({small[0].scene_id}: {small[0].width} x {small[0].height}); they are filled, and"
            f" {waste:.0%} of their windows is filling: a smaller --window wastes less"
        )
    bare = sum(scene.crs is None for scene in scenes)
    if bare:
        yield f"{bare} of {len(scenes)} scenes have no CRS on Earth: no areas, no geometry"
