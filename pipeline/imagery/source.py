"""The sources that scenes are read from: one kind of input per file, behind one protocol.

The rest of the pipeline finds, describes and reads through this file and never asks which kind of
source it deals with. A new kind is one file with a class that implements Source, and one line in
SOURCES.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from pipeline.errors import UnfinishedError, UsageError
from pipeline.imagery.header_pool import Described, HeaderPool, OnDescribed
from pipeline.imagery.input_file import InputFile, check_encoding
from pipeline.imagery.raster import RasterSource
from pipeline.scene import RASTER, Rect, Scene
from pipeline.settings import Settings
from pipeline.storage.access import Access
from pipeline.unit import Pixels


class Source(Protocol):
    """One kind of input. Stateless: all that reading needs is in the Scene."""

    def accepts(self, location: str) -> bool:
        """Whether an INPUT is of this kind, judged by its text alone."""

    def find(self, location: str, access: Access) -> Sequence[InputFile]:
        """Return one InputFile for each future scene that an INPUT names.

        Later runs recognize what is planned by the file's url and version, which `check_unchanged`
        compares, too; its `source` is the source that describes and reads it. Raises UsageError for
        an INPUT that names nothing.
        """

    def describe(
        self,
        files: Sequence[InputFile],
        settings: Settings,
        channels: int,
        access: Access,
        pool: HeaderPool,
    ) -> Described:
        """The scenes in these files, or why there are none, from headers only.

        A scene or a Failure bears the scene_id and url of its file, also if it is a member that
        fails. `pool` reads headers in parallel processes: those of the files, or those of
        their members if a file stands for many. `channels` is the number of the network's input
        channels. Raises what `HeaderPool.read` raises.
        """

    def read(self, scene: Scene, rect: Rect, access: Access) -> Pixels:
        """The pixels of `rect` in the scene's `values_dtype`, and which of them are valid.

        Raises InputError(stage="read") if a file of the scene is damaged there, is gone or is
        another raster than the one described; ValueError for a rect that is not inside the scene;
        TransientError if the store does not answer, UnfinishedError if it refuses; MemoryError.
        """

    def check_unchanged(self, scene: Scene, access: Access) -> None:
        """Raises InputError(stage="read") if a file of the scene is gone or is not the version
        that was planned, UnfinishedError if the INPUT that named it is gone as a whole (a disk that
        was unmounted), TransientError if its store does not answer.

        What decides no row, such as statistics that others leave beside a file, is no change.
        """


SOURCES: dict[str, Source] = {RASTER: RasterSource()}
"""Every source under the name that scenes and plan records bear. An INPUT belongs to the first one
that accepts it, so image files, which accept any path, come last."""


def source_of(scene: Scene) -> Source:
    """The source that reads the scene. Raises UnfinishedError if this Swath does not have it."""
    if scene.source not in SOURCES:
        raise UnfinishedError(
            f"{scene.url}: planned as {scene.source!r}, which this Swath cannot read; use the one"
            " that planned it"
        )
    return SOURCES[scene.source]


def find_inputs(inputs: Sequence[str], access: Access) -> list[InputFile]:
    """The files that the INPUTs name, sorted by scene id.

    Raises UsageError for an INPUT that names nothing, two files with one scene id, one file with
    two, and a name that this Python misreads.
    """
    by_id: dict[str, InputFile] = {}
    by_url: dict[str, InputFile] = {}
    for location in inputs:
        source = next(source for source in SOURCES.values() if source.accepts(location))
        for file in source.find(location, access):
            other = by_id.setdefault(file.scene_id, file)
            if other.url != file.url:
                raise UsageError(
                    f"{file.url} and {other.url} would both be scene {file.scene_id!r}:"
                    " give their common parent folder as the INPUT"
                )
            other = by_url.setdefault(file.url, file)
            if other.scene_id != file.scene_id:
                raise UsageError(
                    f"{file.url} is named twice, as scene {other.scene_id!r} and as"
                    f" {file.scene_id!r}: give INPUTs that do not overlap"
                )
    check_encoding(by_id.values())
    return [by_id[scene_id] for scene_id in sorted(by_id)]


def describe_inputs(
    files: Sequence[InputFile],
    settings: Settings,
    channels: int,
    access: Access,
    pool: HeaderPool,
) -> Described:
    """The scenes in the files, each file described by its own source.

    Raises what `HeaderPool.read` raises.
    """
    parts: list[Described] = []
    before, after = 0, len(files)
    for name, source in SOURCES.items():
        batch = [file for file in files if file.source == name]
        after -= len(batch)
        if batch:
            report = pool.on_described and partial(_report, pool.on_described, before, after)
            part = replace(pool, on_described=report)
            parts.append(source.describe(batch, settings, channels, access, part))
        before += len(batch)
    return Described(
        results=tuple(result for part in parts for result in part.results),
        unavailable=tuple(file for part in parts for file in part.unavailable),
        retries=sum(part.retries for part in parts),
    )


def _report(on_described: OnDescribed, before: int, after: int, done: int, total: int) -> None:
    """Report the progress of one source, with the files of the sources before and after it."""
    on_described(before + done, before + total + after)
