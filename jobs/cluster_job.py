"""A job of Swath's on a cluster: what Ray knows of it, and what `submit` leaves with it.

Knows no Ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from jobs.run import QUARANTINED

_VERSION, _OUTPUT, _SETTINGS = "swath_version", "swath_output", "swath_settings"
"""Keys of a job's metadata, which Ray keeps as text."""


@dataclass(frozen=True)
class Job:
    """One of ours on a cluster."""

    job_id: str
    status: str
    """PENDING, RUNNING; SUCCEEDED, FAILED, STOPPED."""
    output: str
    started_s: float
    """Since the epoch; when it was submitted."""
    ended_s: float | None
    exit_code: int | None
    """Of its `swath run`; None: there is none, or not yet."""
    message: str
    """Ray's, about its end."""
    version: str
    settings: Mapping[str, Any]
    """Those that were given."""

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def state(self) -> str:
        """The status for a reader. What Ray takes for a failure may be done but for some inputs."""
        return "quarantined" if self.exit_code == QUARANTINED else self.status.lower()

    @property
    def seconds(self) -> float:
        return (self.ended_s or time.time()) - self.started_s

    @staticmethod
    def is_ours(metadata: Mapping[str, str]) -> bool:
        return _OUTPUT in metadata

    @classmethod
    def read(cls, metadata: Mapping[str, str], **known: Any) -> Self:
        """What Ray knows of it, and what we left there."""
        return cls(
            output=metadata[_OUTPUT],
            version=metadata[_VERSION],
            settings=json.loads(metadata[_SETTINGS]),
            **known,
        )

    def metadata(self) -> dict[str, str]:
        return {
            _VERSION: self.version,
            _OUTPUT: self.output,
            _SETTINGS: json.dumps(dict(self.settings)),
        }
