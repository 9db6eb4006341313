"""What replicas run on here, and to and from a GPU without waiting for it: by pinned memory, in the
order of the current stream. A copy from any other memory waits until all before it is done.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.processes.host import available_cores


def devices_here() -> tuple[str, int]:
    """The kind of device that replicas on this machine use, cuda or cpu, and the number of GPUs or
    cores."""
    if sys.platform == "linux" and torch.cuda.is_available():  # Triton is there for Linux only
        return "cuda", torch.cuda.device_count()
    return "cpu", available_cores()


def sent(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy of the values there."""
    if device.type == "cpu":
        return torch.tensor(values)
    return pinned(values).to(device, non_blocking=True)


def fetched(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Copies of the tensors here, when all that was asked for before is done."""
    if tensors[0].device.type == "cpu":
        return [tensor.numpy().copy() for tensor in tensors]
    here = [_pinned(tensor.shape, tensor.dtype) for tensor in tensors]
    for to, tensor in zip(here, tensors, strict=True):
        to.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return [to.numpy() for to in here]


def pinned(values: np.ndarray) -> torch.Tensor:
    """A copy in memory from which a GPU can take it by itself; torch keeps it until it has.

    Raises MemoryError where the host has none."""
    memory = _pinned(values.shape, torch_dtype(values))
    memory.numpy()[:] = values
    return memory


def _pinned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        if "out of memory" in str(error):  # CUDA's words for the host's memory, too
            raise MemoryError(f"no memory that a GPU can reach: {error}") from error
        raise


def torch_dtype(values: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, values.dtype)).dtype
