"""Damaged inputs are done or quarantined: the short version of bench/promises/mutations.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.promises.mutations import campaign


@pytest.mark.slow
def test_damaged_inputs_are_done_or_quarantined(small_checkpoint: str, tmp_path: Path) -> None:
    report = campaign(tmp_path, small_checkpoint, (60, 1), seed=3)
    assert report["problems"] == []
    total = sum(sum(counts.values()) for counts in report["outcomes"].values())
    assert total == 2 * 60  # by format and by mutation
    statuses = {status for counts in report["outcomes"].values() for status in counts}
    assert statuses >= {"done", "quarantined"}
