"""What decides the rows of an output, and is recorded with it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from pipeline.settings import RESULT_VERSION, Settings


@dataclass(frozen=True)
class Job:
    """What decides the rows of an output; immutable once job.json is written."""

    settings: Settings
    """With the batch settled."""
    checkpoint: str
    checkpoint_sha256: str
    device: str
    """cpu or cuda: rows are bit-equal per kind of device."""
    class_names: tuple[str, ...]
    class_colors: tuple[str | None, ...]
    result_version: int = RESULT_VERSION

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self._deciding(), sort_keys=True).encode()).hexdigest()

    def _deciding(self) -> dict[str, Any]:
        return {
            **self.settings.to_json(),
            "checkpoint_sha256": self.checkpoint_sha256,
            "device": self.device,
            "result_version": self.result_version,
        }

    def differences(self, other: Job) -> list[str]:
        """What `other` would decide differently, in words."""
        mine, theirs = self._deciding(), other._deciding()
        words = {
            **{
                name: f"{name}: {_format_value(mine[name])} here, {_format_value(theirs[name])} asked for"
                for name in mine
            },
            "checkpoint_sha256": f"another checkpoint: {self.checkpoint} here, as it was then,"
            f" {other.checkpoint} asked for",
        }
        return [
            words[name]
            for name in mine
            if json.dumps(mine[name]) != json.dumps(theirs[name])  # nan is the same as nan
        ]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        known = {name: fields[name] for name in cls.__dataclass_fields__}
        known["settings"] = Settings.from_json(fields["settings"])
        known["class_names"] = tuple(fields["class_names"])
        known["class_colors"] = tuple(fields["class_colors"])
        return cls(**known)


def _format_value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
