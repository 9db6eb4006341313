"""Calls on a checkpoint on disk or in a store: transient failures are retried, errors name the
remedy.

Knows nothing of what a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.storage.access import Access
from pipeline.storage.retry import call_store

T = TypeVar("T")


def call_on_checkpoint(
    function: Callable[..., T], checkpoint: str, access: Access, **options: Any
) -> T:
    """What `function` (read_checkpoint, load_model, ...) returns for a checkpoint's path or URL.

    function: called as function(checkpoint, storage_options=..., **options), retried if it fails
    transiently. Raises CheckpointError if the checkpoint is unusable, UsageError if its store
    refuses access, TransientError if its store does not answer.
    """

    def attempt() -> T:
        return function(checkpoint, storage_options=access.fsspec(checkpoint), **options)

    return call_store(checkpoint, attempt, access.patience_s)
