"""The choice among the implementations of the operations, by a tensor's device and type."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from segformer.operations import cpu, plain
from segformer.operations.protocol import Operations


def operations(x: Tensor) -> Operations:
    """The operations for tensors on x's device, of x's type."""
    if x.device.type == "cpu" and x.dtype in cpu.NAMES:
        return cpu
    if x.device.type == "cuda" and x.dtype != torch.float64:
        return _gpu_operations()
    return plain


@functools.cache
def _gpu_operations() -> Operations:
    try:
        from segformer.operations import cuda  # noqa: PLC0415  Triton need not load without a GPU
    except ImportError:  # torch brings it along on Linux only
        return plain
    return cuda
