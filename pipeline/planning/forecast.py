"""What a plan will take, before anything is started."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.earth.area import CellAreas
from pipeline.estimate import Estimate, Rate, cost_of, per_1000_km2
from pipeline.output.shard import Shard
from pipeline.planning.cost import Cost, blocks_of
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.processes.host import available_cores
from pipeline.scene import Scene
from pipeline.unit import Block

REPLICAS_CORE_FRACTION = 0.92
"""Of a core, the most that replicas have where they take all cores of this machine: the driver and
Ray's own processes have the rest (measured on two cores, docs/log.md)."""
PIXEL_S = 0.13e-6
"""Seconds of a core that each pixel takes on such a machine beside the network, to be read, handed
over, counted and written, where a window takes its nominal time (measured with B0, docs/log.md)."""


@dataclass(frozen=True)
class Pricing:
    """What turns windows into hours, and hours into money."""

    rate: Rate | None = None
    """None: the nominal one of the device."""
    price_per_hour: float | None = None


def estimate(
    cost: Cost,
    shards: Sequence[Shard],
    budget: MemoryBudget,
    inputs: int,
    notes: Sequence[str],
    terms: Pricing,
) -> Estimate:
    """Of the units in these shards, which may be less than the scenes in them."""
    units = [unit for shard in shards for unit in shard.units]
    blocks = blocks_of(units)
    scenes = list({block.scene.scene_id: block.scene for block in blocks}.values())
    computed = sum(cost.windows(block) for block in blocks)
    own, km2 = budget.own_bytes, _km2(blocks)
    rate = terms.rate or Rate(cost.window_s)
    most = _rounds((sum(map(cost.windows, unit.blocks)) for unit in units), cost.machine.required_replicas)
    seconds, pixels = most * rate.window_s, sum(block.core.pixels for block in blocks)
    if _take_all_cores(budget):
        pace = rate.window_s / cost.window_s
        seconds = seconds / REPLICAS_CORE_FRACTION + pixels * PIXEL_S * pace / available_cores()
    hours = seconds / 3600
    money = cost_of(hours, terms.price_per_hour)
    return Estimate(
        inputs=inputs,
        scenes=len(scenes),
        failures=tuple(r.failure for shard in shards for r in shard.rejected),
        units=len(units),
        windows=round(sum(cost.grid_windows(block) for block in blocks)),
        windows_computed=computed,
        megapixels=pixels / 1e6,
        km2=km2,
        read_bytes=sum(cost.read_bytes(block) for block in blocks),
        memory_bytes=own.get("replica", own["driver"]),
        memory={**own, "total": budget.total_bytes},
        hours=hours,
        replicas=cost.machine.required_replicas,
        device=cost.machine.device,
        batch=cost.settings.batch or 0,
        notes=(*notes, *_notes(scenes, cost.settings.window)),
        rate=rate,
        cost=money,
        cost_per_1000_km2=per_1000_km2(money, km2),
    )


def _take_all_cores(budget: MemoryBudget) -> bool:
    """Whether replicas leave none to what else the run does on this machine."""
    machine = budget.machine
    alone = machine.device == "cpu" and budget.tasks > 0 and not machine.nodes_bytes
    return alone and machine.required_replicas >= available_cores()


def _rounds(windows: Iterable[int], replicas: int) -> int:
    """Windows of the replica that has most of them, where each takes the next unit when it is done
    with one: a short job's last units leave some without work."""
    done = [0] * replicas
    for count in windows:
        heapq.heapreplace(done, done[0] + count)
    return max(done)


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
    bare = [scene.scene_id for scene in scenes if scene.crs is None]
    if bare:
        yield (
            f"{len(bare)} of {len(scenes)} scenes have no CRS on Earth, the first {bare[0]}: no"
            " areas, no geometry"
        )
