"""Whether the INPUT of a missing file is gone as a whole, which is no input's fault: an unmounted
disk. Knows local paths only: what is missing in an object store was deleted."""

from __future__ import annotations

import os

from pipeline.errors import UnfinishedError


def check_input_is_there(url: str, scene_id: str) -> None:
    """Raise UnfinishedError if a local file and the folder or glob's root that named it are gone,
    or nothing is left in that folder.

    scene_id: the path of the file below that folder.
    """
    if "://" in url or os.path.lexists(url) or not url.endswith(scene_id):
        return
    root = url.removesuffix(scene_id).rstrip("/") or "/"
    try:
        with os.scandir(root) as entries:
            if any(entries):
                return
        why = "the folder is empty now"
    except FileNotFoundError:
        why = "there is no such folder any more"
    except OSError:  # it is there
        return
    raise UnfinishedError(
        f"{root}: {why}, as after its disk was unmounted, so no input in it is quarantined; mount"
        " it again: the same command resumes the run"
    )
