"""One file of weights, of PyTorch or safetensors: its names first, its tensors when asked.

Knows names and tensors; knows no layout and no network.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor

from segformer.checkpoints import torch_files
from segformer.checkpoints.folder import first_line
from segformer.checkpoints.stored_tensor import StoredTensor
from segformer.errors import CheckpointError

Metadata = Mapping[Any, Any]
"""What a file of weights says about itself: mmsegmentation's `meta`; else empty."""
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that torch.compile and torch.distributed put into names."""
T = TypeVar("T")


@dataclass(frozen=True)
class WeightFile:
    """The named tensors of one file, read when asked."""

    tensors: Mapping[str, Tensor | StoredTensor]
    """By name, without what torch.compile and torch.distributed put into names."""
    beside: Mapping[str, Tensor | StoredTensor]
    """Those of other state dicts in the file, by the way to them: see `TorchFile.beside`."""
    metadata: Metadata
    hyper_parameters: Metadata
    """The arguments of what was trained, as Lightning keeps them; else empty."""
    keeps_average: bool
    """Whether the program that wrote the file puts averaged weights (EMA) into its state dict, and
    the raw ones beside it: mmengine's EMAHook and Lightning's WeightAveraging do."""
    size_bytes: int

    def read(self, names: Container[str]) -> dict[str, Tensor]:
        """The tensors of these names that the file has. Raises CheckpointError if they are not what
        the file claims."""
        chosen = {
            n: t for part in (self.tensors, self.beside) for n, t in part.items() if n in names
        }
        stored = {n: t for n, t in chosen.items() if isinstance(t, StoredTensor)}
        claimed = sum(tensor.claimed_bytes for tensor in stored.values())
        if claimed > self.size_bytes:
            raise CheckpointError(
                f"claims tensors of {claimed:,} bytes in a file of {self.size_bytes:,}; it is"
                " damaged"
            )
        return {n: _read(n, t) if isinstance(t, StoredTensor) else t for n, t in chosen.items()}


def open_weight_file(data: bytes) -> WeightFile:
    """The names in one file of weights. Raises CheckpointError; never runs code from the file."""
    try:
        if data.startswith((torch_files.ZIP, torch_files.LEGACY)):
            return _open_torch_file(data)
        if len(data) >= 8 and 0 not in data[:8]:  # safetensors starts with a length in 64 bits
            raise ValueError("it begins as neither PyTorch nor safetensors do")
        tensors = _plain_names(safetensors.torch.load(data))
        return WeightFile(tensors, {}, {}, {}, keeps_average=False, size_bytes=len(data))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to cause
        raise CheckpointError(
            f"is truncated or damaged, or no file of weights ({len(data)} bytes:"
            f" {first_line(error)}); fetch it again"
        ) from error


def _open_torch_file(data: bytes) -> WeightFile:
    file = torch_files.open_torch_file(data)
    metadata, hyper_parameters = (
        value if isinstance(value := file.outer.get(key), dict) else {}
        for key in ("meta", "hyper_parameters")
    )
    lightning = "current_model_state" in file.outer
    mmengine = "mmengine_version" in metadata or "message_hub" in file.outer
    keeps_average = lightning or (mmengine and "ema_state_dict" in file.outer)
    tensors, beside = _plain_names(file.tensors), _plain_names(file.beside)
    return WeightFile(tensors, beside, metadata, hyper_parameters, keeps_average, len(data))


def _read(name: str, tensor: StoredTensor) -> Tensor:
    try:
        return tensor.read()
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error


def _plain_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors, with the wrappers' parts removed from their names, unless two would be one."""
    plain = {_plain_name(name): tensor for name, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) else dict(tensors)


def _plain_name(name: str) -> str:
    parts: Iterable[str] = name.split(".")
    return ".".join(part for part in parts if part not in _WRAPPERS)
