"""The size of the cores that a scene is divided into, and what it means for its storage tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pipeline.doubt import Doubt
from pipeline.grid import Axis
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.planning.workload import Workload
from pipeline.scene import Rect, Scene
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import Block, Unit

MAX_UNIT_PX = 150_000_000
"""The largest number of pixels in a unit."""
MAX_DECODED = 4
"""A storage tile that is larger than a block may be decoded fewer times than this without a doubt:
halos alone make it two or three."""


@dataclass(frozen=True)
class Target:
    """How many windows a unit should have."""

    bundle: float
    """Windows of a unit of several small scenes."""
    block: float
    """Windows of a unit of one block."""
    replica: float
    """Windows of the whole job for each replica."""


def core_size(workload: Workload, scene: Scene, target: Target) -> tuple[int, int]:
    """Width and height in pixels of the cores that a scene is divided into."""
    if workload.grid(scene).count <= 1.5 * target.block:
        return scene.width, scene.height
    step, target_px = _step(workload), target.block * workload.settings.stride**2
    if scene.striped:
        height = max(1, round(target_px / scene.width / step)) * step
        return scene.width, _over_strips(workload, scene, target, height, step)
    edge = max(1, round(math.sqrt(target_px) / step)) * step
    return edge, edge


def with_storage_doubt(workload: Workload, scene: Scene, size: tuple[int, int]) -> Scene:
    """The scene, with a doubt if its storage tiles are larger than its cores of this size, so that
    each is decoded many times."""
    tile_height, tile_width = scene.storage_px
    core_width, core_height = size
    if tile_height <= core_height and tile_width <= core_width:
        return scene
    grid = workload.grid(scene)
    rows = _decoded(grid.rows, core_height, tile_height)
    times = rows * _decoded(grid.cols, core_width, tile_width)
    if times < MAX_DECODED:
        return scene
    detail = f"{tile_width} x {tile_height} px, decoded about {times:.0f} times"
    return replace(scene, doubts=(*scene.doubts, Doubt("storage_tiles", detail)))


def _decoded(axis: Axis, core_px: int, tile_px: int) -> float:
    """How often a row or column of storage tiles is read from, on average."""
    touched = 0
    for start in range(0, axis.size_px, core_px):
        first, end = axis.span(start, min(start + core_px, axis.size_px))
        touched += (end - 1) // tile_px - first // tile_px + 1
    return touched / -(-axis.size_px // tile_px)


def _over_strips(workload: Workload, scene: Scene, target: Target, height: int, step: int) -> int:
    """The height of a core: the first whole number of steps that holds a strip that is taller than
    `height`, so that few blocks decode it; but `height` if that leaves replicas without work, or
    does not fit into memory."""
    strip = min(scene.storage_px[0], scene.height)
    if strip <= height:
        return height
    core = Rect(0, 0, scene.width, min(-(-strip // step) * step, scene.height))
    block = Block(scene, core)
    if core.pixels > MAX_UNIT_PX or workload.windows(block) > target.replica:
        return height
    need = MemoryNeed.of(workload, [Unit("", (block,))])
    return core.height if MemoryBudget.of(need, workload.machine) else height


def _step(workload: Workload) -> int:
    """The edge of a core in pixels is a multiple of this: of the mask tile, and of the stride
    unless that makes it too large. It is at least four strides: in smaller cores more than half
    the windows would be computed twice."""
    stride = workload.settings.stride
    common = math.lcm(MASK_TILE_PX, stride)
    step = common if common <= 4 * MASK_TILE_PX else MASK_TILE_PX
    return step * max(1, math.ceil(4 * stride / step))
