"""Files whose header crashes or hangs the process that reads it."""

from __future__ import annotations

import pipeline.imagery.header
from pipeline.errors import TransientError
from pipeline.failure import Failure
from pipeline.imagery.input_file import InputFile
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.storage.access import Access
from tests.support.worker_deaths import misbehave


def describe_or_failure(
    file: InputFile, settings: Settings, channels: int, access: Access
) -> Scene | Failure:
    """The function of `pipeline.imagery.header`, except for files whose names ask for trouble."""
    match file.scene_id:
        case "crash.tif":
            misbehave("segfault")
        case "hang.tif":
            misbehave("hang")
        case "raise.tif":
            raise ZeroDivisionError("division by zero")
        case name if name.startswith("unavailable"):
            raise TransientError(f"{file.url}: the store fails (500)")
    return pipeline.imagery.header.describe_or_failure(file, settings, channels, access)
