"""The commit of a checkpoint on the Hub: that of an OUT which exists, else the present one."""

from __future__ import annotations

from pipeline.checkpoint import pinned_checkpoint
from pipeline.storage.access import Access
from segformer.checkpoints.hub.name import is_hub_name


def pin_checkpoint(asked: str, output: str | None, access: Access) -> str:
    """The checkpoint to read for an output. Raises what `pinned_checkpoint` and `Output.find`
    raise."""
    if not is_hub_name(asked):
        return asked
    from pipeline.output.layout import Output  # noqa: PLC0415  pyarrow, for names on the Hub only

    existing = Output.find(output, access) if output else None
    return pinned_checkpoint(asked, existing.job if existing else None, access)
