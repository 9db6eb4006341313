"""Notes on INPUTs that a user should look at before segmenting them. Words only."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.driver.planned_inputs import InputChanges
from pipeline.imagery.header_pool import Described


def notes_on(described: Described, changes: InputChanges, nothing_to_retry: bool) -> Iterator[str]:
    """Notes on inputs that are unavailable, changed or planned again.

    nothing_to_retry: whether --retry-quarantined was given, and nothing is planned again.
    """
    if described.unavailable:
        open_inputs = count_inputs(len(described.unavailable), "is left open", "are left open")
        yield (
            f"{open_inputs}; unavailable from the store, the first:"
            f" {described.unavailable[0][1].cause}; the same command tries again"
        )
    if changes.changed:
        changed = count_inputs(
            len(changes.changed),
            "has changed since it was planned",
            "have changed since they were planned",
        )
        yield (
            f"{changed}, first {changes.changed[0]}; this output is about the earlier versions:"
            " segment the new ones into a new --output"
        )
    if changes.retries:
        again = count_inputs(
            len(changes.retries),
            "is planned again: it failed, or changed before its turn",
            "are planned again: they failed, or changed before their turn",
        )
        yield f"{again}, first {next(iter(changes.retries))}"
    if changes.gone:
        missing = count_inputs(
            len(changes.gone),
            "in quarantine is not among these INPUTs and its row stays",
            "in quarantine are not among these INPUTs and their rows stay",
        )
        yield (
            f"--retry-quarantined: {missing}, first {changes.gone[0]}: put it back or name it, or"
            " start a new --output without it"
        )
    if nothing_to_retry:
        yield "--retry-quarantined: none of these inputs is in quarantine"


def count_inputs(count: int, one: str, several: str) -> str:
    """`1 input ...` or `5 inputs ...`, with the predicate for that number."""
    return f"{count:,} input {one}" if count == 1 else f"{count:,} inputs {several}"
