"""The progress of a run, for whoever watches it. Plain numbers; knows no library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The state of a run at one moment."""

    done_px: int
    """Pixels segmented, by this run or earlier ones; quarantined pixels are counted separately."""
    total_px: int
    """Pixels of the plan, or of this driver's share of it."""
    computed_px: int
    """Pixels segmented by this run, without those of earlier runs."""
    elapsed_s: float
    """Time since the first unit of this run started; 0 before a unit has an outcome."""
    done_units: int
    """Units with an outcome, from this run or earlier ones."""
    total_units: int
    """Units of the plan, or of this driver's share of it."""
    notes: tuple[str, ...] = ()
    """Warnings that a user should read before the work is done."""
    quarantined_px: int = 0
    """Pixels in quarantine."""
    computed_units: int = 0
    """Units that this run computed."""
    quarantined: int = 0
    """Inputs in quarantine."""
    retries: int = 0
    """Retries of this run, because a store did not answer."""

    @property
    def starting(self) -> bool:
        """Whether units are open and this run has not finished its first one."""
        return self.elapsed_s == 0 and self.done_units < self.total_units

    @property
    def left_px(self) -> int:
        """Pixels without an outcome."""
        return self.total_px - self.done_px - self.quarantined_px

    @property
    def megapixels_per_s(self) -> float:
        """The speed of this run, all replicas together; 0 before a unit has an outcome."""
        return self.computed_px / 1e6 / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Estimated time to the end; None while nothing has been computed yet."""
        if not self.left_px:
            return 0.0
        if not self.computed_px:
            return None
        return self.left_px * self.elapsed_s / self.computed_px
