"""How much may fail before a run stops, and what the failures have in common.

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
PLANNED_PER_ALLOWED = 100
"""That is 1 %. Beyond both, more must be wrong than single inputs: a credential, a band, a disk."""


def remedy(recorded: bool) -> str:
    """What to do then, in a sentence without its end. recorded: whether some stand in an output,
    for only these are not tried again by themselves."""
    retry = ", with --retry-quarantined where the files stay as they are" if recorded else ""
    return f"Mend that and run again{retry}, or allow more with --max-quarantined N"


@dataclass
class Quarantine:
    """The inputs that have failed so far. One that was planned again counts by its last try."""

    planned: int
    """Inputs in the whole plan."""
    allowed: int | None
    """--max-quarantined; None: 100, or 1 % of the plan where that is more."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """scene_id -> its first failure."""
    pixels: int = 0
    """Planned ones that were not segmented."""

    @classmethod
    def of(
        cls, planned: Iterable[Iterable[str]], failures: Iterable[Failure], allowed: int | None
    ) -> Self:
        """planned: the scene_ids of each shard; failures of others do not count."""
        ids = [scene_id for shard in planned for scene_id in shard]
        found, here = cls(len(ids), allowed), set(ids)
        found.add(failure for failure in failures if failure.scene_id in here)
        return found

    def add(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            self.failures.setdefault(failure.scene_id, failure)
            self.pixels += failure.pixels

    def too_many(self) -> str | None:
        """Why the run should stop, in a sentence without its end; None: it may go on."""
        count = len(self.failures)
        if self.allowed is None:
            limit, who = max(ALLOWED, self.planned // PLANNED_PER_ALLOWED), "are allowed"
        else:
            limit, who = self.allowed, "--max-quarantined allows"
        if count <= limit:
            return None
        return (
            f"{count:,} of {self.planned:,} inputs cannot be used, more than the {limit:,} that"
            f" {who}: {self._in_common()}"
        )

    def _in_common(self) -> str:
        kinds = Counter((failure.stage, failure.error) for failure in self.failures.values())
        (stage, error), count = kinds.most_common(1)[0]
        first = next(f for f in self.failures.values() if (f.stage, f.error) == (stage, error))
        folder = _common_folder(self.failures)
        # Rounded down: 100 % means all.
        share = f"{count:,} of them ({100 * count // len(self.failures)} %)"
        return (
            f"{share} failed in stage {stage} with {error}"
            + (f", all lie in {folder}/" if folder else "")
            + f", the first: {first.message}"
        )


def _common_folder(scene_ids: Iterable[str]) -> str:
    """The deepest folder that holds all of them; empty where that is the INPUT itself."""
    return os.path.commonpath([os.path.dirname(scene_id) for scene_id in scene_ids])
