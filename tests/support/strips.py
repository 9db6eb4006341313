"""A second Source, as small as possible: a `.strips` file names arrays (.npy, uint8, (3, height,
width)), one per line, which are stacked in one scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.failure import Failure, Rejected
from pipeline.imagery.header_pool import Described, HeaderPool
from pipeline.imagery.identity import version_of
from pipeline.imagery.input_file import InputFile
from pipeline.scene import IDENTITY, Rect, Scene
from pipeline.settings import Settings
from pipeline.storage.access import Access
from pipeline.unit import Pixels

NAME = "strips"


class StripSource:
    """A `pipeline.imagery.source.Source` of `.strips` files."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        """Names of the strips whose pixels were read."""

    def accepts(self, location: str) -> bool:
        return location.endswith(".strips")

    def find(self, location: str, access: Access) -> Sequence[InputFile]:
        strips = tuple(Path(location).read_text().split())
        version = version_of(location, strips, access)
        return [InputFile(Path(location).name, location, version, strips, source=NAME)]

    def describe(
        self,
        files: Sequence[InputFile],
        settings: Settings,
        channels: int,
        access: Access,
        pool: HeaderPool,
    ) -> Described:
        """Describe each scene from the headers of its strips."""
        del settings, channels, access
        members = [
            InputFile(strip, str(Path(file.url).parent / strip), file.version)
            for file in files
            for strip in file.sidecars
        ]
        described = pool.read(members, describe_strip)
        results = iter(described.results)
        scenes = [_stacked(file, [next(results) for _ in file.sidecars]) for file in files]
        return Described(tuple(scenes), (), described.retries)

    def read(self, scene: Scene, rect: Rect, access: Access) -> Pixels:
        """Read the pixels of a rectangle, opening only the strips that it meets."""
        del access
        rows, top = [], 0
        for strip in scene.sidecars:
            values = np.load(Path(scene.url).parent / strip, mmap_mode="r")
            height = values.shape[1]
            start, end = max(rect.row_off - top, 0), min(rect.row_end - top, height)
            if start < end:
                self.opened.append(strip)
                rows.append(values[:, start:end, rect.col_off : rect.col_end])
            top += height
        values = np.concatenate(rows, axis=1)
        return Pixels(values, np.ones(values.shape[1:], bool), rect)

    def check_unchanged(self, scene: Scene, access: Access) -> None:
        if version_of(scene.url, scene.sidecars, access) != scene.version:
            raise InputError(f"{scene.url}: a strip changed", url=scene.url, stage="read")


def describe_strip(file: InputFile) -> Scene | Failure:
    """A strip as a scene. Called in a worker process, which imports it by its name."""
    values = np.load(file.url, mmap_mode="r")
    return Scene(
        scene_id=file.scene_id,
        url=file.url,
        version=file.version,
        sidecars=(),
        width=values.shape[2],
        height=values.shape[1],
        bands=(1, 2, 3),
        dtype=str(values.dtype),
        nodata=None,
        crs=None,
        transform=IDENTITY,
        datetime=None,
        striped=True,
        source=NAME,
    )


def _stacked(file: InputFile, parts: Sequence[Scene | Rejected]) -> Scene | Rejected:
    scenes = [part for part in parts if isinstance(part, Scene)]
    for part in parts:
        if isinstance(part, Rejected):
            failure = replace(part.failure, scene_id=file.scene_id, url=file.url)
            return Rejected(file.version, failure)
    return Scene(
        scene_id=file.scene_id,
        url=file.url,
        version=file.version,
        sidecars=file.sidecars,
        width=scenes[0].width,
        height=sum(scene.height for scene in scenes),
        bands=(1, 2, 3),
        dtype="uint8",
        nodata=None,
        crs=None,
        transform=IDENTITY,
        datetime=None,
        striped=True,
        source=NAME,
    )
