"""Checkpoints wherever they lie: transient failures are retried, and errors name the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.access import Access
from pipeline.storage.retry import call_store

T = TypeVar("T")


def from_checkpoint(read: Callable[..., T], checkpoint: str, access: Access) -> T:
    """What `read`, load_model or checkpoint_sha256, makes of it.

    Raises CheckpointError for what is wrong with the checkpoint, UsageError where its store
    refuses, TransientError where it does not answer.
    """

    def attempt() -> T:
        return read(checkpoint, storage_options=access.fsspec(checkpoint))

    return call_store(checkpoint, attempt, access.patience_s)
