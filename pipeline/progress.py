"""What has an outcome so far, for whoever watches a run. Plain numbers; knows no library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """During: what has an outcome by now."""

    done_px: int
    """Segmented: what went to quarantine is counted apart."""
    total_px: int
    computed_px: int
    """Segmented by this run, without what earlier runs left."""
    elapsed_s: float
    """Since the first unit of this run began; 0 before one has an outcome."""
    done_units: int
    total_units: int
    notes: tuple[str, ...] = ()
    """What a user should read before the work is done."""
    quarantined_px: int = 0
    computed_units: int = 0
    """By this run."""
    quarantined: int = 0
    """Inputs in quarantine."""
    retries: int = 0
    """Of this run."""

    @property
    def starting(self) -> bool:
        """No unit has an outcome by this run yet, and some have none at all."""
        return self.elapsed_s == 0 and self.done_units < self.total_units

    @property
    def left_px(self) -> int:
        """Without an outcome."""
        return self.total_px - self.done_px - self.quarantined_px

    @property
    def megapixels_per_s(self) -> float:
        return self.computed_px / 1e6 / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """None while nothing has been computed yet."""
        if not self.left_px:
            return 0.0
        if not self.computed_px:
            return None
        return self.left_px * self.elapsed_s / self.computed_px
