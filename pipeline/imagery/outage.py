"""Whether the INPUT of a missing file is gone as a whole, which is no input's fault: an unmounted
disk. Knows local paths only: what is missing in an object store was deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pipeline.errors import UnfinishedError


def check_input_is_there(url: str, scene_id: str) -> None:
    """Raise UnfinishedError if a local file is missing, and so is all that was in the folder (of a
    glob, the root) that its INPUT named, or in a linked folder below that.

    scene_id: the path of the file below the INPUT.
    """
    if "://" in url or os.path.lexists(url) or not url.endswith(scene_id):
        return
    for folder in _mounted(url, scene_id):
        try:
            with os.scandir(folder) as entries:
                why = None if any(entries) else "the folder is empty now"
        except FileNotFoundError:
            why = "there is no such folder any more"
        except OSError:  # it is there
            continue
        if why:
            raise UnfinishedError(
                f"{folder}: {why}, as after its disk was unmounted, so no input in it is"
                " quarantined; mount it again: the same command resumes the run"
            )


def _mounted(url: str, scene_id: str) -> Iterator[str]:
    """The folders on the way to a file behind which a disk of its own may be, from the INPUT on."""
    folder = url.removesuffix(scene_id).rstrip("/")
    yield folder or "/"
    for part in scene_id.split("/")[:-1]:
        folder = f"{folder}/{part}"
        if os.path.islink(folder):
            yield folder
