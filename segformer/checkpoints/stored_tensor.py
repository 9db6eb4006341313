"""A tensor of torch.save that has not been read yet: a claim on the bytes of a file.

Believes nothing that the bytes do not bear out. Knows no name and no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from segformer.errors import CheckpointError


@dataclass(eq=False)
class Storage:
    """A run of values of one type, which tensors are views of."""

    dtype: torch.dtype
    count: int
    """The number of values, as the pickle claims."""
    data: memoryview | None = None
    """The values' bytes; None until they have been found in the file."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that has not been read yet, as the pickle claims it to be."""

    storage: Storage
    offset: int
    """Position of the first value in the storage, counted in values."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """Counted in values."""

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    @property
    def claimed_bytes(self) -> int:
        """What the tensor would take, if the claim were true."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor, in its own memory. Raises CheckpointError if the file does not hold it."""
        storage, size = self.storage, self.storage.dtype.itemsize
        numbers = (self.offset, *self.shape, *self.stride)
        valid = all(isinstance(n, int) and n >= 0 for n in numbers)
        if not valid or len(self.shape) != len(self.stride) or storage.data is None:
            raise CheckpointError("a tensor is not what torch writes; the file is damaged")
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        held = len(storage.data) // size
        if held != storage.count or prod(self.shape) > held or self.offset + reach >= max(held, 1):
            raise CheckpointError(
                f"a tensor of the shape {list(self.shape)} lies beyond the {held} values that are"
                " there; the file is truncated or damaged: fetch it again"
            )
        if not prod(self.shape):
            return torch.empty(self.shape, dtype=storage.dtype)
        span = storage.data[self.offset * size : (self.offset + reach + 1) * size]
        values = torch.from_numpy(np.frombuffer(span, np.uint8).copy()).view(storage.dtype)
        return values.as_strided(self.shape, self.stride)
