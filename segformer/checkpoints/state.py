"""A file's tensors as the weights of our network: whose file it is, which tensor is which weight.

Knows layouts and shapes; knows no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segformer.checkpoints.layouts import LAYOUTS, UNUSED_COUNT, Layout, weight_shapes
from segformer.config import ModelConfig
from segformer.errors import CheckpointError

_NAMES_SHOWN = 3
_BACKBONE, _HEAD = "backbone.", "decode_head."


@dataclass
class State:
    """The tensors of a file under our names."""

    layout: Layout
    prefix: str
    """What stands before every name of the file: `module.` after DataParallel."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """What the file calls them."""
    unexpected: list[str] = field(default_factory=list)
    """Names in the file that are no weight of ours, or one that was there already."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> State:
        """Raises CheckpointError for what is no SegFormer, and for an encoder without a head."""
        layout, prefix = recognise(tensors)
        state = cls(layout, prefix)
        for name, tensor in tensors.items():
            own = layout.ours(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if own is None or any(part in state.tensors for part in own):
                state.unexpected.append(name)
            elif own:
                state._add(name, own, tensor)
        return state

    def _add(self, name: str, own: tuple[str, ...], tensor: Tensor) -> None:
        if len(own) > 1 and (not tensor.ndim or len(tensor) % len(own)):
            raise CheckpointError(
                f"{name} has the shape {list(tensor.shape)}, which is not {len(own)} matrices one"
                " below the other; the file is damaged or of another kind of network"
            )
        parts = tensor.chunk(len(own)) if len(own) > 1 else (tensor,)
        self.tensors.update(zip(own, parts, strict=True))
        self.names.update(dict.fromkeys(own, name))

    def named(self, ours: str) -> str:
        """One of our weights as the file calls it, or would if it were there."""
        if ours in self.names:
            return self.names[ours]
        part = _HEAD if ours.startswith("head.") else _BACKBONE
        nested = any(name.startswith(f"{self.prefix}{part}") for name in self.names.values())
        part = part if nested and part in self.layout.prefixes else ""
        return self.prefix + part + self.layout.theirs(ours)

    def shape(self, ours: str, dimensions: int) -> tuple[int, ...]:
        """Raises CheckpointError if the weight is missing or cannot be."""
        if ours not in self.tensors:
            raise CheckpointError(
                f"the file lacks {self.named(ours)}; it is damaged or of another kind of network"
            )
        shape = tuple(self.tensors[ours].shape)
        if len(shape) < dimensions or 0 in shape:
            raise CheckpointError(
                f"{self.named(ours)} has the shape {list(shape)}, but it should have"
                f" {dimensions} dimensions; the file is damaged or of another kind of network"
            )
        return shape

    def weights(self, config: ModelConfig, source: str) -> dict[str, Tensor]:
        """What `config` asks for, complete and of the right shapes. source: where config is from.

        Raises CheckpointError that names what is missing, unexpected or of another shape.
        """
        found: dict[str, Tensor] = {}
        missing: list[str] = []
        for ours, shape in weight_shapes(config).items():
            tensor = self.tensors.get(ours)
            if tensor is None:
                if not ours.endswith(UNUSED_COUNT):
                    missing.append(self.named(ours))
                    continue
                tensor = _nothing_counted()
            if tensor.ndim == 4 and len(shape) == 2 and tensor.shape[2:] == (1, 1):
                tensor = tensor.flatten(1)  # a linear layer that was written as a convolution
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"{self.named(ours)} has the shape {list(tensor.shape)}, but {source} asks for"
                    f" {list(shape)}; the weights belong to another {source}"
                    + _hint(ours, tensor, shape)
                )
            found[ours] = tensor
        unused = [self.named(ours) for ours in self.tensors if ours not in found]
        self._complain(missing, [*self.unexpected, *unused], source)
        return found

    def _complain(self, missing: list[str], unexpected: list[str], source: str) -> None:
        if missing or unexpected:
            lacks = f"lacks {_listed(missing)}" if missing else ""
            has = f"has the unexpected {_listed(unexpected)}" if unexpected else ""
            raise CheckpointError(
                f"the file {' and '.join(filter(None, (lacks, has)))};"
                f" the weights belong to another {source} or another kind of network"
            )


def recognise(names: Iterable[str]) -> tuple[Layout, str]:
    """Whose file it is, and what stands before every name.

    Raises CheckpointError for what is no SegFormer, and for an encoder without a head.
    """
    names = list(names)
    for layout in LAYOUTS:
        prefix = _prefix(names, layout)
        if prefix is None:
            continue
        if any(
            name.startswith(prefix)
            and any(ours.startswith("head.") for ours in layout.ours(name[len(prefix) :]) or ())
            for name in names
        ):
            return layout, prefix
        raise CheckpointError(
            "holds the encoder alone, as it is pretrained on ImageNet, and no decode head;"
            " give a checkpoint that was trained for segmentation"
        )
    raise CheckpointError(
        f"is no SegFormer: it holds {_listed(names)}; Swath reads those of transformers, NVlabs and"
        " mmsegmentation"
        if names
        else "holds no tensor; give a SegFormer's state dict"
    )


def _prefix(names: Iterable[str], layout: Layout) -> str | None:
    """What stands before the anchor, but for the encoder's own `backbone.`; None without one."""
    found = sorted(
        (name.removesuffix(layout.anchor) for name in names if name.endswith(layout.anchor)),
        key=len,
    )
    if not found or (found[0] and not found[0].endswith(".")):
        return None
    return found[0].removesuffix(_BACKBONE) if _BACKBONE in layout.prefixes else found[0]


def _nothing_counted() -> Tensor:
    return torch.zeros((), dtype=torch.long)


def _hint(ours: str, tensor: Tensor, shape: tuple[int, ...]) -> str:
    if ours.startswith("head.classifier"):
        return f" (id2label has {shape[0]} classes, the weights {tensor.shape[0]})"
    return ""


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} key{'s' if len(names) > 1 else ''} {shown}{more}"
