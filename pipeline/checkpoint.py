"""Checkpoints on disk or in a store: transient failures are retried, errors name the remedy.

Knows nothing of what is in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.access import Access
from pipeline.storage.retry import call_store

T = TypeVar("T")


def from_checkpoint(read: Callable[..., T], checkpoint: str, access: Access) -> T:
    """What `read` (load_model, checkpoint_sha256, ...) returns for the checkpoint.

    Raises CheckpointError if the checkpoint is unusable, UsageError if its store refuses access,
    TransientError if its store does not answer.
    """

    def attempt() -> T:
        return read(checkpoint, storage_options=access.fsspec(checkpoint))

    return call_store(checkpoint, attempt, access.patience_s)
