"""What layer norms add to the variance: the one number by which the origins' encoders differ.

Knows numbers; knows no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from segformer.errors import CheckpointError


@dataclass(frozen=True)
class NormEps:
    """What the layer norms add to the variance; depends on the code a network was trained with.

    The defaults are transformers': it builds every norm as `nn.LayerNorm(size)` and ignores the
    `layer_norm_eps` of its own config (seen in 5.23).
    """

    block: float = 1e-5
    """The two norms of each block, and the one at the end of each stage."""
    reduction: float = 1e-5
    """The norm after the spatial reduction of keys and values."""
    embedding: float = 1e-5
    """The norm of the patch embedding."""

    def __post_init__(self) -> None:
        if not all(0 < eps < 1 for eps in (self.block, self.reduction, self.embedding)):
            raise CheckpointError(f"config.json: norm_eps {asdict(self)} must be between 0 and 1")


TRANSFORMERS_EPS = NormEps()
"""Those of transformers, whatever its config says."""
