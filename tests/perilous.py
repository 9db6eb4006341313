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
        case name if name.startswith("withheld"):
            raise TransientError(f"{found.url}: the store fails (500)")
    return pipeline.describe.attempt(found, settings, channels, access)
