"""The folded network equals the plain one of reference_network.py, in float64 and float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segformer import Checkpoint, Normalisation, SegFormer, mit_config
from segformer.folding import fold, folded_bytes
from segformer.norm_eps import NormEps
from tests.support.checkpoints import SMALL, random_checkpoint
from tests.support.reference_network import ReferenceSegFormer

SMALL_EPS = NormEps(block=1e-2, reduction=3e-2, embedding=1e-1)
"""Far from the usual eps, so that mixing them up would be noticed."""


def reference(checkpoint: Checkpoint) -> ReferenceSegFormer:
    network = ReferenceSegFormer(checkpoint.config)
    network.load_state_dict(checkpoint.weights)
    return network.eval()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(SMALL, id="small"),
        pytest.param({}, id="b0"),
        pytest.param({**SMALL, "head": "conv"}, id="conv"),
        pytest.param({**SMALL, "norm_eps": SMALL_EPS}, id="eps"),
        pytest.param({**SMALL, "head": "conv", "norm_eps": SMALL_EPS}, id="conv-eps"),
        pytest.param({**SMALL, "num_channels": 6}, id="channels"),
        pytest.param({**SMALL, "num_attention_heads": (1, 1, 1, 1)}, id="one-head"),
        pytest.param({**SMALL, "num_attention_heads": (2, 4, 2, 8)}, id="heads"),
        pytest.param({**SMALL, "hidden_act": "gelu_new"}, id="tanh"),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (203, 130)])
@torch.inference_mode()
def test_the_folded_network_equals_the_plain_one(
    changes: dict[str, Any], height: int, width: int
) -> None:
    config = mit_config("b0", 5, **changes)
    mean, std = (0.4,) * config.num_channels, (0.2,) * config.num_channels
    checkpoint = random_checkpoint(config, 3, Normalisation(1 / 255, mean, std))
    plain = reference(checkpoint).double()
    x_NCHW = torch.randn(2, config.num_channels, height, width, dtype=torch.float64)
    expected_NKhw = plain(x_NCHW)
    folded = SegFormer(checkpoint)
    # Folded and run in float64, with only the rounding to float32 in between.
    folded_NKhw = folded.double()(x_NCHW)
    scale = expected_NKhw.std()
    assert (folded_NKhw - expected_NKhw).abs().max() / scale < 2e-5
    single_NKhw = SegFormer(checkpoint)(x_NCHW.float())
    assert single_NKhw.dtype == torch.float32
    assert (single_NKhw - expected_NKhw).abs().max() / scale < 1e-4


def test_weights_that_softmax_cancels_are_folded_away() -> None:
    checkpoint = random_checkpoint(mit_config("b0", 5, **SMALL), seed=1)
    folded = fold(checkpoint)
    one_head, two_heads = (f"stages.{s}.blocks.0.attention" for s in (0, 1))
    assert f"{one_head}.out.weight" not in folded
    assert f"{two_heads}.out.weight" in folded
    assert f"{two_heads}.key_value.bias" not in folded
    assert not folded[f"{one_head}.key_value.bias"][:8].any()


@pytest.mark.parametrize("head", ["mlp", "conv"])
@pytest.mark.parametrize("size", ["b0", "b2", "small"])
def test_the_folded_size_is_known_beforehand(size: str, head: str) -> None:
    """Memory is predicted from it."""
    changes = SMALL if size == "small" else {}
    config = mit_config("b0" if size == "small" else size, 7, head=head, **changes)
    model = SegFormer(random_checkpoint(config, seed=1))
    assert folded_bytes(config) == sum(weight.numel() * 4 for weight in model.parameters())
