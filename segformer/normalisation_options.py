"""The numbers of a normalization that a user gives in place of a checkpoint's.

Knows the options' names; knows no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segformer.errors import CheckpointError
from segformer.normalisation import Normalisation, Sources, fault_of, row


@dataclass(frozen=True)
class NormalisationOptions:
    """Numbers that replace a checkpoint's; None: its own. The fields are named after options."""

    rescale: float | None = None
    """Factor of uint8 values."""
    mean: tuple[float, ...] | None = None
    """Per channel, of rescaled values (uint8) or scaled ones (all other types)."""
    std: tuple[float, ...] | None = None
    """Per channel, in the same unit."""

    def __post_init__(self) -> None:
        """Raises CheckpointError for numbers that fit no checkpoint."""
        if self.rescale is not None and not 0 < self.rescale < math.inf:
            raise CheckpointError(f"--rescale {self.rescale:g}: must be a positive number")
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if values is not None and not (values and all(map(math.isfinite, values))):
                raise CheckpointError(f"{name} {_list(values)}: must be numbers, one per channel")
        if self.std is not None and min(self.std) <= 0:
            raise CheckpointError(
                f"--std {_list(self.std)}: each must be positive; 1 leaves a channel as it is"
            )
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise CheckpointError(
                f"--mean {_list(self.mean)} has {len(self.mean)} numbers, --std {len(self.std)};"
                " give one per channel"
            )

    @property
    def is_given(self) -> bool:
        return self != CHECKPOINTS_OWN

    def replace(self, stated: Normalisation, num_channels: int) -> Normalisation:
        """The normalization with these numbers instead of those that the checkpoint states.

        Raises CheckpointError if they do not fit the channels or what is left of the checkpoint's.
        """
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if values is not None and len(values) != num_channels:
                raise CheckpointError(
                    f"{name} {_list(values)}: the network has {num_channels} channels; give one"
                    " number for each"
                )
        sources = Sources(
            stated.sources.rescale if self.rescale is None else "--rescale",
            stated.sources.mean if self.mean is None else "--mean",
            stated.sources.std if self.std is None else "--std",
        )
        rescale = stated.rescale if self.rescale is None else self.rescale
        mean, std = self.mean or stated.mean, self.std or stated.std
        factor = "rescale_factor" if self.rescale is None else "--rescale"
        if fault := fault_of(rescale, mean, std, factor):
            raise CheckpointError(
                f"a mean of {row(mean)} ({sources.mean}) and a std of {row(std)} ({sources.std}):"
                f" {fault.reason}; {fault.option}"
            )
        return Normalisation(rescale, mean, std, sources)


CHECKPOINTS_OWN = NormalisationOptions()
"""Nothing is given."""


def _list(values: Sequence[float]) -> str:
    """The numbers as the command line takes them."""
    return ",".join(f"{value:g}" for value in values)
