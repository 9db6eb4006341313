"""Files whose header ends the process that reads it."""

from __future__ import annotations

from perils import meet

import pipeline.describe
from pipeline.access import Access
from pipeline.errors import TransientError
from pipeline.inputs import Found
from pipeline.receipt import Failure
from pipeline.scene import Scene
from pipeline.settings import Settings


def attempt(found: Found, settings: Settings, channels: int, access: Access) -> Scene | Failure:
    """describe.attempt, but for files whose names say otherwise."""
    match found.scene_id:
        case "crash.tif":
            meet("segfault")
        case "hang.tif":
            meet("hang")
        case "raise.tif":
            raise ZeroDivisionError("division by zero")
        case "outage.tif":
            raise TransientError(f"{found.url}: the store does not answer")
    return pipeline.describe.attempt(found, settings, channels, access)
