"""A job: everything that decides the rows of an output, and is recorded with it.

Knows nothing of where it is recorded.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from pipeline.settings import RESULT_VERSION, Settings
from pipeline.version import VERSION


@dataclass(frozen=True)
class Job:
    """Everything that decides the rows of an output; immutable once job.json is written."""

    settings: Settings
    """The settings, with the batch chosen."""
    checkpoint: str
    """The path or URL that the checkpoint was read from, or its name on the Hub with the commit.
    Its contents decide, not its place."""
    checkpoint_sha256: str
    device: str
    """`cpu` or `cuda`: rows are bit-equal per kind of device."""
    class_names: tuple[str, ...]
    """By class id, from the checkpoint."""
    class_colors: tuple[str | None, ...]
    """By class id, `RRGGBB`; None: the checkpoint gives none."""
    value_range: tuple[float, float] | None = (0.0, 1.0)
    """The range of values before normalization that the network was trained on; None: not known."""
    checkpoint_asked: str | None = None
    """The name on the Hub as it was asked for: its branch may have moved since; None: a path or URL
    was."""
    result_version: int = RESULT_VERSION
    swath_version: str = VERSION
    """The Swath that began the output."""

    @property
    def fingerprint(self) -> str:
        """A hash that is the same for jobs with the same rows."""
        return hashlib.sha256(json.dumps(self._deciding(), sort_keys=True).encode()).hexdigest()

    def _deciding(self) -> dict[str, Any]:
        """What the rows depend on. Names and colors of classes come with the checkpoint."""
        return {
            **self.settings.to_json(),
            "checkpoint_sha256": self.checkpoint_sha256,
            "device": self.device,
            "result_version": self.result_version,
        }

    def conflict(self, other: Job) -> str | None:
        """Why an output of this job cannot be continued as `other`, and the remedy; None if both
        give the same rows."""
        if self.result_version != other.result_version:
            return (
                f"begun by Swath {self.swath_version}, whose rows (result version"
                f" {self.result_version}) are not those of Swath {other.swath_version} (result"
                f" version {other.result_version}); continue with that Swath, or name a new"
                " --output. Its tables can be queried and read as before"
            )
        differences = "; ".join(self._differences(other))
        if not differences:
            return None
        return (
            f"belongs to a job with other settings ({differences}); use the recorded ones or a new"
            " --output"
        )

    def _differences(self, other: Job) -> list[str]:
        """One phrase for each difference from `other`, which is asked for."""
        recorded, asked = self._deciding(), other._deciding()
        phrases = []
        for name, value in recorded.items():
            if json.dumps(value) == json.dumps(asked[name]):  # as JSON, nan is the same as nan
                continue
            if name == "checkpoint_sha256":
                phrases.append(
                    f"another checkpoint: {self.checkpoint} here, as it was then,"
                    f" {other.checkpoint} asked for"
                )
            else:
                recorded_text, asked_text = _setting_text(value), _setting_text(asked[name])
                phrases.append(f"{name}: {recorded_text} here, {asked_text} asked for")
        return phrases

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """The job that `to_json` recorded; raises KeyError if a field is missing."""
        # Swath 0.1.0 recorded none of them.
        absent = {"swath_version": "0.1.0", "value_range": None, "checkpoint_asked": None}
        record = {**absent, **record}
        known = {name: record[name] for name in cls.__dataclass_fields__}
        known["settings"] = Settings.from_json(record["settings"])
        known["class_names"] = tuple(record["class_names"])
        known["class_colors"] = tuple(record["class_colors"])
        value_range = record["value_range"]
        known["value_range"] = None if value_range is None else tuple(value_range)
        return cls(**known)


def _setting_text(value: Any) -> str:
    """A setting's value for a message."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
