"""The network compared with transformers' on the same random weights, and its exactness."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segformer import MIT, CheckpointError, ModelConfig, SegFormer, load_model, mit_config
from segformer.checkpoints.shapes import weight_shapes
from tests.support.checkpoints import random_checkpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Deprecations of other libraries, at import.
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

TOLERANCE = 1e-5


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draw weights that keep the signal's size, and norms that are far from 1 and 0.

    Fresh models would hide mistakes: their biases are 0 and their norms do nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.ndim > 1:
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 2, generator=generator)
        else:
            tensor.normal_(std=0.3, generator=generator)


def reference(size: str, num_labels: int, seed: int = 1) -> nn.Module:
    """transformers' model with random weights, its logits centred per class, with deviation 0.5.

    The tolerance is absolute, so the logits must be of the size that trained ones have; and
    uncentred, one class would win everywhere.
    """
    fields = mit_config(size, num_labels).to_json()
    model = SegformerForSemanticSegmentation(SegformerConfig(**fields)).eval()
    randomise(model, seed)
    with torch.no_grad():
        logits_NKHW = model(pixels(160, 160)).logits
        classifier = model.decode_head.classifier
        classifier.bias -= logits_NKHW.mean((0, 2, 3))
        deviation = (logits_NKHW - logits_NKHW.mean((0, 2, 3), keepdim=True)).std()
        classifier.weight /= 2 * deviation
        classifier.bias /= 2 * deviation
    return model


def pixels(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Smooth pictures with some noise: white noise alone hardly reaches the coarse scales."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, height // 32 + 1, width // 32 + 1, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return smooth + 0.3 * torch.randn(batch, 3, height, width, generator=generator)


@torch.inference_mode()
def assert_same_logits(model: SegFormer, hf_model: nn.Module, height: int, width: int) -> None:
    x_NCHW = pixels(height, width)
    logits_NKHW, expected_NKHW = model(x_NCHW), hf_model(x_NCHW).logits
    assert logits_NKHW.shape == (1, model.config.num_labels, -(-height // 4), -(-width // 4))
    assert logits_NKHW.dtype == torch.float32
    assert 0.2 < expected_NKHW.std() < 2
    assert len(expected_NKHW.argmax(1).unique()) > 1
    assert (logits_NKHW - expected_NKHW).abs().max() <= TOLERANCE
    assert torch.equal(logits_NKHW.argmax(1), expected_NKHW.argmax(1))


# With 150 classes some pixels of a random network tie within rounding (two classes 2e-6 apart).
# These seeds have no such pixel, so that the argmax must agree everywhere, on any machine.
@pytest.mark.parametrize(
    ("size", "num_labels", "seed"), [("b0", 5, 1), ("b0", 150, 2), ("b2", 150, 5)]
)
def test_logits_equal_those_of_transformers(
    size: str, num_labels: int, seed: int, tmp_path: Path
) -> None:
    hf_model = reference(size, num_labels, seed)
    hf_model.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert not model.training
    assert_same_logits(model, hf_model, 512, 512)
    assert_same_logits(model, hf_model, 389, 517)


@pytest.mark.slow
def test_logits_of_the_largest_preset_equal_those_of_transformers(tmp_path: Path) -> None:
    hf_model = reference("b5", 150, seed=2)
    hf_model.save_pretrained(tmp_path)
    assert_same_logits(load_model(str(tmp_path)), hf_model, 512, 512)


@pytest.mark.parametrize(
    "size",
    ["b1", pytest.param("b3", marks=pytest.mark.slow), pytest.param("b4", marks=pytest.mark.slow)],
)
def test_logits_of_the_other_presets_equal_those_of_transformers(size: str, tmp_path: Path) -> None:
    hf_model = reference(size, 5)
    hf_model.save_pretrained(tmp_path)
    assert_same_logits(load_model(str(tmp_path)), hf_model, 128, 128)


UNUSUAL = {
    "num_encoder_blocks": 3,
    "depths": [1, 2, 1],
    "sr_ratios": [4, 2, 1],
    "hidden_sizes": [16, 32, 48],
    "patch_sizes": [7, 3, 3],
    "strides": [4, 2, 2],
    "num_attention_heads": [1, 2, 3],
    "mlp_ratios": [4, 2, 3],
    "decoder_hidden_size": 40,
    "num_labels": 4,
}


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu", "silu"])
def test_logits_of_unusual_configs_equal_those_of_transformers(
    hidden_act: str, tmp_path: Path
) -> None:
    config = SegformerConfig(**UNUSUAL, hidden_act=hidden_act, layer_norm_eps=0.1)
    hf_model = SegformerForSemanticSegmentation(config).eval()
    randomise(hf_model, 3)
    hf_model.save_pretrained(tmp_path)
    assert_same_logits(load_model(str(tmp_path)), hf_model, 97, 130)


@pytest.fixture
def one_thread():
    """Compute with one thread, as replicas on CPUs do: with more, the last bits may differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("height", "width"), [(512, 512), (203, 298)])
@torch.inference_mode()
def test_a_window_does_not_depend_on_its_slot_or_its_neighbours(height: int, width: int) -> None:
    model = SegFormer(random_checkpoint(mit_config("b0", 5), seed=2))
    x_NCHW = pixels(height, width, batch=4)
    logits_NKHW = model(x_NCHW)
    order = [2, 0, 3, 1]
    assert torch.equal(model(x_NCHW[order]), logits_NKHW[order])
    others_NCHW = 5 * pixels(height, width, batch=4, seed=9)
    for slot, window in ((0, 3), (3, 0)):
        others_NCHW[slot] = x_NCHW[window]
    beside_others_NKHW = model(others_NCHW)
    assert torch.equal(beside_others_NKHW[0], logits_NKHW[3])
    assert torch.equal(beside_others_NKHW[3], logits_NKHW[0])
    assert not torch.equal(beside_others_NKHW[1], logits_NKHW[1])


@pytest.mark.parametrize(("size", "max_gflop"), [("b0", 8.2), ("b2", 47.1), ("b5", 145.4)])
def test_the_folded_network_takes_no_more_flops_than_promised(size: str, max_gflop: float) -> None:
    """Counted in GFLOP, at 512 px and with 150 classes."""
    model = SegFormer(random_checkpoint(mit_config(size, 150), seed=0))
    # torch does not count its fused attention; the plain one has the same products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(pixels(512, 512))
    assert counter.get_total_flops() / 1e9 <= max_gflop


def test_presets_have_the_published_sizes() -> None:
    # Table 1 of the paper, millions of parameters with the head for 150 classes.
    published = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}
    assert set(MIT) == set(published)
    for size, millions in published.items():
        shapes = weight_shapes(mit_config(size, 150))
        trained = [shape for name, shape in shapes.items() if "running" not in name]
        assert sum(map(math.prod, trained)) / 1e6 == pytest.approx(millions, abs=0.12)


def test_an_inconsistent_config_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"hidden size 32 does not divide into 3 attention"):
        ModelConfig(num_attention_heads=(3, 2, 5, 8))
    with pytest.raises(CheckpointError, match=r"sr_ratios \[8, 4\] must be 4 positive numbers"):
        ModelConfig(sr_ratios=(8, 4))
    with pytest.raises(CheckpointError, match=r"drop_path_rate 1.0 must be in"):
        ModelConfig(drop_path_rate=1.0)
