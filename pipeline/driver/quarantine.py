"""How many inputs may fail before a run stops, and what the failures have in common.

Knows neither where failures are recorded nor what has failed.
"""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from pipeline.failure import Failure

ALLOWED = 100
"""Failures that are always allowed by default."""
PLANNED_PER_ALLOWED = 100
"""Planned inputs per allowed failure, i.e. 1 %. More failures than both limits have a common cause:
a credential, a band, a disk."""


def remedy(recorded: bool) -> str:
    """What to do about too many failures, as a sentence without its full stop. recorded: whether
    some are recorded in an output, because only these are not retried automatically."""
    retry = ", with --retry-quarantined if the files stay as they are" if recorded else ""
    return f"Fix that and run again{retry}, or allow more with --max-quarantined N"


@dataclass
class Quarantine:
    """The inputs that have failed so far. One that was planned again counts by its latest try."""

    planned: int
    """Inputs in the whole plan."""
    allowed: int | None
    """--max-quarantined; None: 100, or 1 % of the plan if that is more."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """scene_id -> its first failure."""
    pixels: int = 0
    """Planned pixels that were not segmented."""
    _counted: set[tuple[str, str | None]] = field(default_factory=set)
    """scene_id and window of each failure: a unit may be computed twice."""

    @classmethod
    def of(
        cls, planned: Iterable[Iterable[str]], failures: Iterable[Failure], allowed: int | None
    ) -> Self:
        """The quarantine of these inputs; failures of other inputs do not count. planned: the
        scene_ids of each shard."""
        scene_ids = [scene_id for shard in planned for scene_id in shard]
        quarantine, members = cls(len(scene_ids), allowed), set(scene_ids)
        quarantine.add(failure for failure in failures if failure.scene_id in members)
        return quarantine

    def add(self, failures: Iterable[Failure]) -> None:
        """Count failures, of which an input may have several."""
        for failure in failures:
            self.failures.setdefault(failure.scene_id, failure)
            if (failure.scene_id, failure.window) not in self._counted:
                self._counted.add((failure.scene_id, failure.window))
                self.pixels += failure.pixels

    def too_many(self) -> str | None:
        """Why the run should stop, as a sentence without its full stop; None: it may continue."""
        count = len(self.failures)
        if self.allowed is None:
            limit, allow = max(ALLOWED, self.planned // PLANNED_PER_ALLOWED), "are allowed"
        else:
            limit, allow = self.allowed, "--max-quarantined allows"
        if count <= limit:
            return None
        return (
            f"{count:,} of {self.planned:,} inputs cannot be used, more than the {limit:,} that"
            f" {allow}: {self._in_common()}"
        )

    def _in_common(self) -> str:
        """The most common kind of failure, how many there are of it, and the first of them."""
        kinds = Counter((failure.stage, failure.error) for failure in self.failures.values())
        (stage, error), count = kinds.most_common(1)[0]
        first = next(f for f in self.failures.values() if (f.stage, f.error) == (stage, error))
        folder = _common_folder(self.failures)
        # Rounded down, so that 100 % means all.
        part = f"{count:,} of them ({100 * count // len(self.failures)} %)"
        return (
            f"{part} failed in stage {stage} with {error}"
            + (f", all are in {folder}/" if folder else "")
            + f", the first: {first.message}"
        )


def _common_folder(scene_ids: Iterable[str]) -> str:
    """The deepest folder that holds all scenes; empty if that is the INPUT itself."""
    return os.path.commonpath([os.path.dirname(scene_id) for scene_id in scene_ids])
