"""A run as a job file, so that `swath run --job` repeats it: the inverse of `pipeline.job_file`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import tomli_w

from pipeline.checkpoint import absolute_checkpoint
from pipeline.job_file import OPTIONS, key_of
from pipeline.settings import AUTO, Execution, Settings, format_replicas
from pipeline.share import Share
from pipeline.storage.store import Store

_HEAD = "# A job of Swath, as it was run: swath run --job FILE\n"


def job_file_text(
    inputs: Sequence[str],
    checkpoint: str,
    output: str,
    settings: Settings,
    execution: Execution,
    runner: str,
) -> str:
    """The job file that repeats a run. Options that were left to Swath are omitted, except the
    batch; which runner was chosen is a comment."""
    access = execution.access
    values: dict[str, Any] = {
        "inputs": [access.absolute(path) for path in inputs],
        "checkpoint": absolute_checkpoint(checkpoint, access),
        "output": access.absolute(output),
    }
    for options in (settings, execution):
        for field in fields(options):
            values[key_of(field.name)] = _toml_value(field.name, getattr(options, field.name))
    values[OPTIONS] = dict(access.options) or None
    chosen = f"# --runner auto: {runner}\n" if execution.runner == AUTO else ""
    return _HEAD + chosen + tomli_w.dumps(_without_none(values))


def write_job_file(store: Store, run_name: str, text: str) -> None:
    """Write a run's job file beside its receipt, and as job.toml, which is the latest run's."""
    for path in (f"runs/{run_name}.toml", "job.toml"):
        store.write(path, text.encode())


def _toml_value(name: str, value: Any) -> Any:
    """The value of a field as TOML, still with None."""
    if name == "replicas" and value is not None:
        return value if isinstance(value, int) else format_replicas(value)
    if isinstance(value, Share):
        return None if value.whole else str(value)
    return value


def _without_none(value: Any) -> Any:
    """The value without its None items: TOML has no null."""
    if isinstance(value, dict):
        return {k: _without_none(item) for k, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value if item is not None]
    return value
