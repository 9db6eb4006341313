"""Image files as a source: each file is a scene by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pipeline.errors import DeniedError, InputError
from pipeline.failure import Failure
from pipeline.imagery.header_pool import Described, HeaderPool
from pipeline.imagery.identity import version_of
from pipeline.imagery.image_files import find_image_files
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.outage import check_input_is_there
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
        pool: HeaderPool,
    ) -> Described:
        describe = partial(describe_file, settings=settings, channels=channels, access=access)
        return pool.read(files, describe)

    def read(self, scene: Scene, rect: Rect, access: Access) -> Pixels:
        from pipeline.imagery.pixels import read_pixels  # noqa: PLC0415  as in `describe_file`

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


def describe_file(
    file: InputFile, settings: Settings, channels: int, access: Access
) -> Scene | Failure:
    """See `pipeline.imagery.header.describe_or_failure`."""
    # Only the processes that read headers and pixels load GDAL: it takes a quarter of a second.
    from pipeline.imagery.header import describe_or_failure  # noqa: PLC0415

    return describe_or_failure(file, settings, channels, access)
