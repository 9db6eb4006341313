"""The Estimate of what a plan will take, before anything is started."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from pipeline.earth.area import CellAreas
from pipeline.estimate import Estimate, Rate, cost_of, per_1000_km2
from pipeline.output.shard import Shard
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.workload import Workload
from pipeline.processes.host import available_cores
from pipeline.scene import Scene
from pipeline.unit import Block
from pipeline.verdict import Foreign, attempt

REPLICAS_CORE_FRACTION = 0.92
"""The largest fraction of a core that replicas get if they use all cores of this machine: the
driver and Ray's own processes get the rest (measured on two cores, docs/log.md)."""
PIXEL_S = 0.13e-6
"""Core seconds per pixel on such a machine beside the network's, for reading, handing over,
counting and writing, if a window takes its nominal time (measured with B0, docs/log.md)."""


@dataclass(frozen=True)
class Pricing:
    """What turns windows into hours, and hours into money."""

    rate: Rate | None = None
    """The replicas' rate; None: the nominal one of the device."""
    price_per_hour: float | None = None
    """Price of all machines together, in any currency; None: no cost is estimated."""


def estimate(
    workload: Workload, shards: Sequence[Shard], budget: MemoryBudget, inputs: int, pricing: Pricing
) -> Estimate:
    """Estimate what the units of these shards take; a shard may have scenes without units.

    inputs: the number of files that the INPUTs name. The notes are those on the scenes.
    """
    units = [unit for shard in shards for unit in shard.units]
    blocks = [block for unit in units for block in unit.blocks]
    scenes = list({block.scene.scene_id: block.scene for block in blocks}.values())
    pixels, areas = sum(block.core.pixels for block in blocks), _Areas.of(scenes)
    km2 = areas.km2(blocks)
    rate = pricing.rate or Rate(workload.window_s)
    windows_per_unit = (sum(map(workload.windows, unit.blocks)) for unit in units)
    windows = busiest_replica_windows(windows_per_unit, workload.machine.required_replicas)
    seconds = windows * rate.window_s
    if _take_all_cores(budget):
        pace = rate.window_s / workload.window_s
        seconds = seconds / REPLICAS_CORE_FRACTION + pixels * PIXEL_S * pace / available_cores()
    hours = seconds / 3600
    money = cost_of(hours, pricing.price_per_hour)
    processes = budget.own_bytes
    return Estimate(
        inputs=inputs,
        scenes=len(scenes),
        failures=tuple(r.failure for shard in shards for r in shard.rejected),
        units=len(units),
        windows=round(sum(map(workload.grid_windows, blocks))),
        windows_computed=sum(map(workload.windows, blocks)),
        megapixels=pixels / 1e6,
        km2=km2,
        read_bytes=sum(map(workload.read_bytes, blocks)),
        memory_bytes=processes.get("replica", processes["driver"]),
        memory={**processes, "total": budget.total_bytes},
        hours=hours,
        replicas=workload.machine.required_replicas,
        device=workload.machine.device,
        batch=workload.settings.batch or 0,
        notes=(*areas.notes(), *_notes(scenes, workload.settings.window)),
        rate=rate,
        cost=money,
        cost_per_1000_km2=per_1000_km2(money, km2),
    )


def _take_all_cores(budget: MemoryBudget) -> bool:
    """Whether the replicas leave no core to the other processes of the run on this machine."""
    machine = budget.machine
    all_here = machine.device == "cpu" and budget.tasks > 0 and not machine.nodes_bytes
    return all_here and machine.required_replicas >= available_cores()


def busiest_replica_windows(windows_per_unit: Iterable[int], replicas: int) -> int:
    """Windows of the replica that gets most of them, if each takes the next unit when it is done
    with one: at the end of a short job, some replicas have no work."""
    replica_windows = [0] * replicas
    for windows in windows_per_unit:
        heapq.heapreplace(replica_windows, replica_windows[0] + windows)
    return max(replica_windows)


@dataclass(frozen=True)
class _Areas:
    """The areas of scenes, as far as they can be computed."""

    px_m2: dict[str, float]
    """scene_id -> the mean area of a pixel, for scenes with a CRS."""
    errors: dict[str, Foreign]
    """scene_id -> why there is none: a run will fail there, too."""

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> Self:
        areas = cls({}, {})
        for scene in scenes:
            if scene.crs is None:
                continue
            total_m2 = attempt(partial(_total_m2, scene, scene.crs))
            if isinstance(total_m2, Foreign):
                areas.errors[scene.scene_id] = total_m2
            else:
                areas.px_m2[scene.scene_id] = total_m2 / scene.pixels
        return areas

    def km2(self, blocks: Sequence[Block]) -> float | None:
        """The area of the blocks; None if there are blocks, but none with an area."""
        placed = [block for block in blocks if block.scene.scene_id in self.px_m2]
        if blocks and not placed:
            return None
        return sum(self.px_m2[b.scene.scene_id] * b.core.pixels for b in placed) / 1e6

    def notes(self) -> Iterator[str]:
        """A note on scenes whose area cannot be computed."""
        if self.errors:
            scene_id, error = next(iter(self.errors.items()))
            count = len(self.errors)
            scenes = "1 scene cannot" if count == 1 else f"{count:,} scenes cannot"
            yield (
                f"the area of {scenes} be computed, first {scene_id} ({error}): a run would leave"
                " such blocks in quarantine"
            )


def _total_m2(scene: Scene, crs: str) -> float:
    return CellAreas(crs, scene.transform, scene.width, scene.height).total_m2()


def _notes(scenes: Sequence[Scene], window: int) -> Iterator[str]:
    """A note on scenes smaller than the window."""
    small = [scene for scene in scenes if min(scene.width, scene.height) < window]
    if small:
        filled = sum(min(s.width, window) * min(s.height, window) for s in small)
        waste = 1 - filled / (len(small) * window**2)
        yield (
            f"{len(small)} of {len(scenes)} scenes are smaller than the window of {window} px"
            f" ({small[0].scene_id}: {small[0].width} x {small[0].height}); they are filled, and"
            f" {waste:.0%} of their windows is filling: a smaller --window wastes less"
        )
