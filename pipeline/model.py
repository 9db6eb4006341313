"""The Model of a job: what a plan needs to know of a checkpoint, and where its replicas may run.

A record that processes hand to each other: it holds no weights, and reading it loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from segformer.config import ModelConfig


@dataclass(frozen=True)
class Model:
    """A checkpoint as it was read, and the devices of the machine that read it."""

    checkpoint: str
    """Its absolute path or URL, or its name on the Hub with the commit, as jobs record it."""
    config: ModelConfig
    """The sizes of the network, its classes, and notes on the checkpoint."""
    value_range: tuple[float, float] | None
    """The range of values before normalization that the network was trained on; None: not known."""
    sha256: str
    """Identity of the checkpoint's files."""
    weights_bytes: int
    """Size of the weights of a replica, float32."""
    device: str
    """The kind of device that replicas on this machine use: cpu or cuda."""
    devices: int
    """The number of such devices: GPUs, or cores."""
