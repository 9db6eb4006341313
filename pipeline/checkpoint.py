"""A checkpoint as a job names it, and calls on it: transient failures are retried, errors name the
remedy.

Knows nothing of what a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import LOG
from pipeline.job import Job
from pipeline.storage.access import Access
from pipeline.storage.retry import call_store
from segformer.checkpoints.hub.name import HubName, is_hub_name

T = TypeVar("T")


def hub_name(checkpoint: str) -> str | None:
    """The name on the Hub, as `hf:org/name@revision`; None for a path or URL. Raises
    CheckpointError."""
    return str(HubName.parse(checkpoint)) if is_hub_name(checkpoint) else None


def absolute_checkpoint(checkpoint: str, access: Access) -> str:
    """The checkpoint for whoever works in another folder: a local path made absolute, a URL or a
    name on the Hub as it is. Raises UsageError and CheckpointError."""
    return hub_name(checkpoint) or access.absolute(checkpoint)


def pinned_checkpoint(asked: str, recorded: Job | None, access: Access) -> str:
    """A name on the Hub with the commit that its revision stands for; other checkpoints as they
    are.

    recorded: the job to be continued. If it was begun with the same name, its commit is taken, even
    if the branch has moved since. Raises CheckpointError if the Hub has no such model, and
    TransientError if it does not answer.
    """
    name = hub_name(asked)
    if recorded and name and name == recorded.checkpoint_asked:
        return recorded.checkpoint
    if name is None or HubName.parse(name).is_pinned:
        return name or asked
    from segformer.checkpoints.hub.folder import resolve  # noqa: PLC0415  half a second, for names only

    pinned, note = call_store(name, lambda: resolve(HubName.parse(name)), access.patience_s)
    if note:
        LOG.warning(note)
    return str(pinned)


def call_on_checkpoint(
    function: Callable[..., T], checkpoint: str, access: Access, **options: Any
) -> T:
    """What `function` (read_checkpoint, load_model, ...) returns for a checkpoint.

    function: called as function(checkpoint, storage_options=..., **options), retried if it fails
    transiently. Raises CheckpointError if the checkpoint is unusable, UsageError if its store
    refuses access, TransientError if its store does not answer.
    """

    def attempt() -> T:
        return function(checkpoint, storage_options=access.fsspec(checkpoint), **options)

    return call_store(checkpoint, attempt, access.patience_s)
