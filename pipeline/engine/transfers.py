"""Copies to and from a GPU that nobody waits for: through pinned memory, in the order of the
current stream. A copy from any other memory waits until everything before it is done.

Knows arrays and tensors, not what they hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy of the values on the device. Raises MemoryError as `copy_to_pinned` does."""
    if device.type == "cpu":
        return torch.tensor(values)
    return copy_to_pinned(values).to(device, non_blocking=True)


def to_host(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Copies of tensors of one device, once all earlier work of the current stream is done.

    Raises MemoryError as `copy_to_pinned` does."""
    if tensors[0].device.type == "cpu":
        return [tensor.numpy().copy() for tensor in tensors]
    copies = [_pinned(tensor.shape, tensor.dtype) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return [copy.numpy() for copy in copies]


def copy_to_pinned(values: np.ndarray) -> torch.Tensor:
    """A copy in pinned memory, which a GPU reads by itself; torch keeps it until the GPU has.

    Raises MemoryError if the host has none left."""
    memory = _pinned(values.shape, torch_dtype(values))
    memory.numpy()[:] = values
    return memory


def torch_dtype(values: np.ndarray) -> torch.dtype:
    """torch's name for the array's dtype."""
    return torch.from_numpy(np.empty(0, values.dtype)).dtype


def _pinned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        if "out of memory" in str(error):  # CUDA's words for the host's memory, too
            raise MemoryError(f"no memory that a GPU can reach: {error}") from error
        raise
