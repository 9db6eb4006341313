"""Image files as a source: each file is a scene by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pipeline.errors import DeniedError, InputError
from pipeline.imagery.header import describe_or_failure
from pipeline.imagery.header_pool import Described, OnDescribed, read_headers
from pipeline.imagery.identity import version_of
from pipeline.imagery.image_files import find_image_files
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.outage import check_input_is_there
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Rect, Scene
from pipeline.settings import Settings
from pipeline.storage.access import Access
from pipeline.unit import Pixels


class RasterSource:
    """Image files that GDAL reads: see `pipeline.imagery.source.Source`."""

    def accepts(self, location: str) -> bool:
        del location
        return True  # a path or glob; one that names nothing is refused by `find`

    def find(self, location: str, access: Access) -> Sequence[InputFile]:
        return find_image_files(location, access)

    def describe(
        self,
        files: Sequence[InputFile],
        settings: Settings,
        channels: int,
        access: Access,
        on_described: OnDescribed,
    ) -> Described:
        describe = partial(describe_or_failure, settings=settings, channels=channels, access=access)
        return read_headers(files, describe, on_described)

    def read(self, scene: Scene, rect: Rect, access: Access) -> Pixels:
        return read_pixels(scene, rect, access)

    def check_unchanged(self, scene: Scene, access: Access) -> None:
        try:
            version = version_of(scene.url, scene.sidecars, access)
        except (FileNotFoundError, DeniedError) as error:
            check_input_is_there(scene.url, scene.scene_id)
            beside = f" (or its {' or '.join(scene.sidecars)} did)" if scene.sidecars else ""
            raise InputError(
                f"{scene.url}: vanished{beside} after it was planned, or is refused now; put it"
                " back",
                url=scene.url,
                stage="read",
            ) from error
        if version != scene.version:
            raise InputError(
                f"{scene.url}: changed after it was planned (was {scene.version}, is {version});"
                " run again to plan the new version",
                url=scene.url,
                stage="read",
            )
