"""A file's tensors as the weights of our network: which tensor is which weight.

Knows layouts and shapes; knows no file, and not which of several networks is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segformer.checkpoints.layouts import BACKBONE, HEAD, UNUSED_COUNT, Layout
from segformer.checkpoints.networks import Network, listed
from segformer.checkpoints.shapes import weight_shapes
from segformer.config import ModelConfig
from segformer.errors import CheckpointError


@dataclass
class StateDict:
    """The tensors of a checkpoint's files under our names."""

    layout: Layout
    """How the files name their weights."""
    prefix: str
    """What precedes every name in the files: `module.` after DataParallel."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By our names; not yet checked against a config."""
    original_names: dict[str, str] = field(default_factory=dict)
    """The files' names by our names."""
    unexpected: list[str] = field(default_factory=list)
    """Names in the files that are no weight of ours, or one that was there already."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], network: Network) -> StateDict:
        """tensors: those that are the network's, by the files' names. Raises CheckpointError if
        joined matrices cannot be taken apart."""
        layout, prefix = network.layout, network.prefix
        state = cls(layout, prefix)
        for original, tensor in tensors.items():
            names = None
            if original.startswith(prefix):
                names = layout.our_names(original.removeprefix(prefix))
            if names is None or any(name in state.tensors for name in names):
                state.unexpected.append(original)
            elif names:
                state._add(original, names, tensor)
        return state

    def _add(self, original: str, names: tuple[str, ...], tensor: Tensor) -> None:
        if len(names) > 1 and (not tensor.ndim or len(tensor) % len(names)):
            raise CheckpointError(
                f"{original} has the shape {list(tensor.shape)}, which is not {len(names)} matrices"
                " one below the other; the file is damaged or of another kind of network"
            )
        parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        self.tensors.update(zip(names, parts, strict=True))
        self.original_names.update(dict.fromkeys(names, original))

    def original_name(self, name: str) -> str:
        """The files' name of one of our weights, or what it would be if it were there."""
        if name in self.original_names:
            return self.original_names[name]
        part = HEAD if name.startswith("head.") else BACKBONE
        start = f"{self.prefix}{part}"
        nested = any(original.startswith(start) for original in self.original_names.values())
        part = part if nested and part in self.layout.prefixes else ""
        return self.prefix + part + self.layout.original_name(name)

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of one of our weights. Raises CheckpointError if it is missing, empty or has
        fewer dimensions."""
        if name not in self.tensors:
            raise CheckpointError(
                f"the file lacks {self.original_name(name)}; it is damaged or of another kind of"
                " network"
            )
        shape = tuple(self.tensors[name].shape)
        if len(shape) < dimensions or 0 in shape:
            raise CheckpointError(
                f"{self.original_name(name)} has the shape {list(shape)}, but it should have"
                f" {dimensions} dimensions; the file is damaged or of another kind of network"
            )
        return shape

    def weights(self, config: ModelConfig, source: str) -> dict[str, Tensor]:
        """The weights that `config` asks for, complete and of the right shapes.

        source: where `config` is from, for messages. Raises CheckpointError that names what is
        missing, unexpected or of another shape.
        """
        weights: dict[str, Tensor] = {}
        missing: list[str] = []
        for name, shape in weight_shapes(config).items():
            tensor = self.tensors.get(name)
            if tensor is None:
                if not name.endswith(UNUSED_COUNT):
                    missing.append(self.original_name(name))
                    continue
                tensor = torch.zeros((), dtype=torch.long)
            if tensor.ndim == 4 and len(shape) == 2 and tensor.shape[2:] == (1, 1):
                tensor = tensor.flatten(1)  # a linear layer that was written as a convolution
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"{self.original_name(name)} has the shape {list(tensor.shape)}, but {source}"
                    f" asks for {list(shape)}; the weights belong to another {source}"
                    + _hint(name, tensor, shape)
                )
            weights[name] = tensor
        unused = [self.original_name(name) for name in self.tensors if name not in weights]
        _check_complete(missing, [*self.unexpected, *unused], source)
        return weights


def _check_complete(missing: list[str], unexpected: list[str], source: str) -> None:
    if missing or unexpected:
        lacks = f"lacks {listed(missing)}" if missing else ""
        has = f"has the unexpected {listed(unexpected)}" if unexpected else ""
        raise CheckpointError(
            f"the file {' and '.join(filter(None, (lacks, has)))};"
            f" the weights belong to another {source} or another kind of network"
        )


def _hint(name: str, tensor: Tensor, shape: tuple[int, ...]) -> str:
    if name.startswith("head.classifier"):
        return f" (id2label has {shape[0]} classes, the weights {tensor.shape[0]})"
    return ""
