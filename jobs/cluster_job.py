"""A job of Swath on a cluster: what Ray knows about it, and the metadata that `submit` leaves with
it.

Does not import Ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from jobs.run import QUARANTINED

_VERSION, _OUTPUT, _SETTINGS = "swath_version", "swath_output", "swath_settings"
"""Keys of a job's metadata, whose values Ray keeps as text."""


@dataclass(frozen=True)
class Job:
    """A job of Swath on a cluster."""

    job_id: str
    status: str
    """Ray's status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    output: str
    started_s: float
    """The time of submission, in seconds since 1970."""
    ended_s: float | None
    """The time of its end, in seconds since 1970; None: it has not ended."""
    exit_code: int | None
    """The exit code of its `swath run`; None: it has none, or none yet."""
    message: str
    """Ray's message about its end."""
    version: str
    """The version of Swath that submitted it."""
    settings: Mapping[str, Any]
    """The options that were given, by name."""

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def state(self) -> str:
        """The status for people. A failure in Ray's eyes may be a run that quarantined some
        inputs."""
        return "quarantined" if self.exit_code == QUARANTINED else self.status.lower()

    @property
    def seconds(self) -> float:
        return (self.ended_s or time.time()) - self.started_s

    @staticmethod
    def is_ours(metadata: Mapping[str, str]) -> bool:
        return _OUTPUT in metadata

    @classmethod
    def read(cls, metadata: Mapping[str, str], **known: Any) -> Self:
        """A job from its metadata and what else Ray knows about it."""
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
