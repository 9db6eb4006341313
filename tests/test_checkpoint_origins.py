"""Checkpoints of other programs: the same logits as an independent network, and clear refusals."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segformer import (
    Checkpoint,
    CheckpointError,
    ModelConfig,
    Normalisation,
    NormEps,
    checkpoint_sha256,
    load_model,
    mit_config,
    read_checkpoint,
    write_checkpoint,
)
from segformer.checkpoints.shapes import weight_shapes
from segformer.flops import gflop_per_window
from segformer.preprocessor import normalisation_of_training
from segformer.presets import size_name
from tests.support.foreign_checkpoints import (
    NAMED,
    mmsegmentation,
    nvlabs,
    random_checkpoint,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in other libraries, at import
    from transformers import (
        AutoModelForSemanticSegmentation,
        SegformerConfig,
        SegformerForSemanticSegmentation,
    )

NVLABS_EPS, MMSEG_EPS = NormEps(1e-6, 1e-5, 1e-5), NormEps(1e-6, 1e-6, 1e-6)
SMALL: dict[str, Any] = {
    "depths": (1, 2, 1, 1),
    "hidden_sizes": (8, 16, 24, 32),
    "num_attention_heads": (1, 2, 3, 4),
    "decoder_hidden_size": 16,
}


def facts(origin: str) -> dict[str, Any]:
    """How the origin's networks differ from transformers', as fields of ModelConfig."""
    if origin == "mmsegmentation":
        return {"head": "conv", "norm_eps": MMSEG_EPS}
    return {"norm_eps": NVLABS_EPS, "align_corners": origin == "smp"}


def small(origin: str, classes: int = 3, **changes: Any) -> Checkpoint:
    """A checkpoint whose norms get small numbers, so that their eps decides the logits."""
    names = [f"class_{k}" for k in range(classes)]
    config = mit_config("b0", classes, names, **SMALL, **facts(origin), **changes)
    checkpoint = random_checkpoint(config)
    for name, tensor in checkpoint.weights.items():
        if any(part in name for part in ("embedding.", "reduction.", ".out.", ".contract.")):
            tensor.mul_(0.03)
    return replace(checkpoint, origin=origin)


class Independent(nn.Module):
    """transformers' encoder with each norm's eps set by hand, and its own head or mmsegmentation's,
    spelled out."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config, self.weights = checkpoint.config, checkpoint.weights
        self.conv = config.head == "conv"
        plain = replace(config, head="mlp", norm_eps=NormEps())
        self.network = SegformerForSemanticSegmentation(SegformerConfig(**plain.to_json())).eval()
        with torch.no_grad():
            self._fill(plain)
        for name, module in self.network.named_modules():
            if isinstance(module, nn.LayerNorm):
                eps = config.norm_eps
                module.eps = eps.block
                if "patch_embeddings" in name:
                    module.eps = eps.embedding
                elif "sequence_reduction" in name:
                    module.eps = eps.reduction

    def _fill(self, plain: ModelConfig) -> None:
        """Load the weights by transformers' own conversion of a folder that it reads."""
        weights = random_checkpoint(plain).weights | self.weights
        weights = {n: weights[n] for n in weight_shapes(plain)}
        folder = "memory://independent"
        write_checkpoint(Checkpoint(plain, Normalisation.default(3), weights, "t"), folder)
        data = fsspec.filesystem("memory").cat_file("/independent/model.safetensors")
        state = safetensors.torch.load(data)
        self.network = SegformerForSemanticSegmentation.from_pretrained(
            None, config=self.network.config, state_dict=state
        ).eval()

    @torch.inference_mode()
    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.conv:
            return self.network(x_NCHW).logits
        scales = self.network.segformer(x_NCHW, output_hidden_states=True).hidden_states
        projected = []
        for s, scale_NCHW in enumerate(scales):
            weight = self.weights[f"head.convs.{s}.weight"][:, :, None, None]
            y_NCHW = self._norm(f"head.norms.{s}", F.conv2d(scale_NCHW, weight)).relu()
            projected.append(F.interpolate(y_NCHW, scales[0].shape[2:], mode="bilinear"))
        fused = F.conv2d(torch.cat(projected, dim=1), self.weights["head.fuse.weight"])
        fused = self._norm("head.batch_norm", fused).relu()
        names = ("head.classifier.weight", "head.classifier.bias")
        return F.conv2d(fused, *(self.weights[name] for name in names))

    def _norm(self, name: str, x_NCHW: Tensor) -> Tensor:
        leaves = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x_NCHW, *(self.weights[f"{name}.{leaf}"] for leaf in leaves))


def pixels(channels: int = 3, height: int = 70, width: int = 97) -> Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))


def assert_same_logits(path: Path, expected: Checkpoint) -> None:
    model = load_model(str(path))
    x_NCHW = pixels(expected.config.num_channels)
    logits_NKHW = Independent(expected)(x_NCHW)
    assert logits_NKHW.std() > 0.1
    with torch.inference_mode():
        torch.testing.assert_close(model(x_NCHW), logits_NKHW, atol=2e-5, rtol=0)


def assert_same(read: Checkpoint, expected: Checkpoint) -> None:
    """Assert that sizes, eps, head and every weight are equal; notes may differ."""
    assert replace(read.config, notes=()) == expected.config
    assert read.origin == expected.origin
    assert read.weights.keys() == expected.weights.keys()
    for name, tensor in expected.weights.items():
        assert torch.equal(read.weights[name], tensor), name


@pytest.fixture(params=["nvlabs", "smp", "mmsegmentation"])
def origin(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def refusal(path: Path | str) -> str:
    """The error message, which must be one line and name the file once."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert message.count(str(path)) == 1
    return message


# --- the same network ---------------------------------------------------------------------------


def test_the_eps_of_these_checkpoints_decides_the_logits() -> None:
    """Otherwise the tests below could not distinguish the eps of different origins."""
    checkpoint = small("nvlabs")
    logits_NKHW = Independent(checkpoint)(pixels())
    for eps in (NormEps(), MMSEG_EPS):
        other = replace(checkpoint, config=replace(checkpoint.config, norm_eps=eps))
        assert (Independent(other)(pixels()) - logits_NKHW).abs().max() > 1e-3


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_weights_are_those_of_the_file(origin: str, legacy: bool, tmp_path: Path) -> None:
    checkpoint = small(origin)
    path = tmp_path / "model.pth"
    file = {"state_dict": NAMED[origin](checkpoint.weights), "meta": {"epoch": 3}}
    torch.save(file, path, _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(str(path))
    assert_same(read, checkpoint)
    assert read.normalisation == Normalisation.default(3)
    names, sizes, normalisation = read.config.notes
    assert "the file names no classes; the 3 that the network tells apart are called" in names
    assert sizes.startswith("strides of 4, 2, 2, 2 and attention heads")
    assert "ImageNet's normalization is used" in normalisation


def test_logits_are_those_of_an_independent_network(origin: str, tmp_path: Path) -> None:
    checkpoint = small(origin)
    torch.save({"state_dict": NAMED[origin](checkpoint.weights)}, tmp_path / "model.pth")
    assert_same_logits(tmp_path / "model.pth", checkpoint)


def test_published_sizes_are_recognised(origin: str, tmp_path: Path) -> None:
    config = mit_config("b1", 5, **facts(origin))
    checkpoint = replace(random_checkpoint(config), origin=origin)
    torch.save(NAMED[origin](checkpoint.weights), tmp_path / "b1.pth")
    read = read_checkpoint(str(tmp_path / "b1.pth"))
    assert_same(read, checkpoint)
    assert size_name(read.config) == "b1"
    assert not any("strides" in note for note in read.config.notes)
    assert_same_logits(tmp_path / "b1.pth", checkpoint)


@pytest.mark.parametrize("prefix", ["module.", "model.", ""])
@pytest.mark.parametrize("bare", [False, True])
def test_prefixes_and_wrappers_of_the_weights_are_recognized(
    origin: str, prefix: str, bare: bool, tmp_path: Path
) -> None:
    checkpoint = small(origin)
    weights = NAMED[origin](checkpoint.weights)
    if bare:
        weights = {
            name.removeprefix("backbone.").removeprefix("decode_head."): tensor
            for name, tensor in weights.items()
        }
        if origin == "nvlabs":  # the bare name of the unused weight would be mmsegmentation's
            del weights["conv_seg.weight"], weights["conv_seg.bias"]
    weights = OrderedDict((prefix + name, tensor) for name, tensor in weights.items())
    for wrapper in (None, "state_dict", "model"):
        torch.save({wrapper: weights, "epoch": 7} if wrapper else weights, tmp_path / "m.pt")
        assert_same(read_checkpoint(str(tmp_path / "m.pt")), checkpoint)


def test_tensors_that_share_memory_and_half_precision_are_read(origin: str, tmp_path: Path) -> None:
    checkpoint = small(origin)
    weights = {n: t.bfloat16().float() for n, t in checkpoint.weights.items()}
    expected = replace(
        checkpoint,
        weights=weights | {n: t for n, t in checkpoint.weights.items() if "num_batches" in n},
    )
    flat = torch.cat([t.flatten().bfloat16() for t in NAMED[origin](weights).values()])
    views, start = {}, 0
    for name, tensor in NAMED[origin](expected.weights).items():
        # Transposed twice: its strides are not those of a new tensor.
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        if tensor.ndim == 2:
            views[name] = views[name].T.contiguous().T
        if "num_batches" in name:
            views[name] = tensor
        start += tensor.numel()
    torch.save(views, tmp_path / "m.pth")
    assert_same(read_checkpoint(str(tmp_path / "m.pth")), expected)


@pytest.mark.parametrize("channels", [4, 6, 12])
def test_more_than_three_channels_need_a_preprocessor_config(
    origin: str, channels: int, tmp_path: Path
) -> None:
    checkpoint = small(origin, num_channels=channels)
    path = tmp_path / "m.pth"
    torch.save(NAMED[origin](checkpoint.weights), path)
    message = refusal(path)
    assert f"has {channels} channels and there is no preprocessor_config.json; give" in message
    fields = {"image_mean": [0.1] * channels, "image_std": [0.3] * channels, "do_resize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    read = read_checkpoint(str(path))
    assert read.normalisation == Normalisation(1 / 255, (0.1,) * channels, (0.3,) * channels)
    assert_same(read, checkpoint)
    assert not any("normalization" in note for note in read.config.notes)


def test_a_single_file_with_the_names_of_transformers_is_read(tmp_path: Path) -> None:
    config = mit_config("b0", 3, ["a", "b", "c"], **SMALL)
    written = random_checkpoint(config)
    write_checkpoint(written, str(tmp_path / "folder"))
    weights = tmp_path / "folder" / "model.safetensors"
    assert_same(read_checkpoint(str(weights)), written)  # config.json is beside it
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(weights.read_bytes())
    unnamed = replace(config, class_names=("class_0", "class_1", "class_2"))
    assert_same(read_checkpoint(str(alone)), replace(written, config=unnamed))
    torch.save(safetensors.torch.load_file(alone), tmp_path / "alone.bin")
    assert_same(read_checkpoint(str(tmp_path / "alone.bin")), replace(written, config=unnamed))
    lightning = {f"net.{n}": t for n, t in safetensors.torch.load_file(alone).items()}
    torch.save({"state_dict": lightning, "epoch": 3}, tmp_path / "lightning.ckpt")
    read = read_checkpoint(str(tmp_path / "lightning.ckpt"))
    assert_same(read, replace(written, config=unnamed))


CFG = """
data_preprocessor = dict(
    bgr_to_rgb=True, mean=[123.675, 116.28, 103.53, 51.0], std=[
        58.395, 57.12, 57.375, 25.5,
    ], type='SegDataPreProcessor')
model = dict(data_preprocessor=dict(mean=[123.675, 116.28, 103.53, 51.0], std=[58.395, 57.12,
    57.375, 25.5]), backbone=dict(depth=3))
"""


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_the_normalisation_of_the_training_configuration_is_used(key: str, tmp_path: Path) -> None:
    weights = mmsegmentation(small("mmsegmentation", num_channels=4).weights)
    path = tmp_path / "m.pth"
    torch.save({"state_dict": weights, "meta": {key: CFG}}, path)
    read = read_checkpoint(str(path))
    assert read.normalisation.mean == pytest.approx((0.485, 0.456, 0.406, 0.2))
    assert read.normalisation.std == pytest.approx((0.229, 0.224, 0.225, 0.1))
    assert read.normalisation.rescale == 1 / 255
    assert read.config.notes[-1] == (
        "the normalization is that of the training configuration in the file"
        " (values / 255, mean 0.485 0.456 0.406 0.2, std 0.229 0.224 0.225 0.1)"
    )
    bgr = CFG.replace("bgr_to_rgb=True", "bgr_to_rgb=False")
    torch.save({"state_dict": weights, "meta": {key: bgr}}, path)
    assert (
        "name the bands in the order of the training" in read_checkpoint(str(path)).config.notes[-1]
    )
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": 0.5, "image_std": 0.5})
    )
    assert read_checkpoint(str(path)).normalisation == Normalisation(
        1 / 255, (0.5,) * 4, (0.5,) * 4
    )


@pytest.mark.parametrize(
    "text",
    [
        "mean=[1.0, 2.0, 3.0]",
        "mean=[1.0, 2.0], std=[1.0, 1.0]",
        "mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0]; mean=[9.0, 9.0, 9.0]",
        "mean=[a, b, c], std=[1, 1, 1]",
        "mean=[1.0" * 1000,
    ],
)
def test_a_training_configuration_that_is_not_plain_gives_no_normalisation(text: str) -> None:
    assert normalisation_of_training(text, 3) is None


# --- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.x", "1.x"])
def test_classes_and_palette_are_those_of_the_metadata(
    origin: str, version: str, tmp_path: Path
) -> None:
    meta: dict[str, Any] = {
        "CLASSES": ("water", "forest", "roof"),
        "PALETTE": [[0, 0, 255], [0, 128, 0], [255, 0, 10]],
    }
    if version == "1.x":
        meta = {"dataset_meta": {name.lower(): value for name, value in meta.items()}}
    file = {"meta": meta, "state_dict": NAMED[origin](small(origin).weights)}
    torch.save(file, tmp_path / "m.pth")
    config = read_checkpoint(str(tmp_path / "m.pth")).config
    assert config.class_names == ("water", "forest", "roof")
    assert config.class_colors == ("0000FF", "008000", "FF000A")
    assert not any("class" in note for note in config.notes)


@pytest.mark.parametrize(
    ("meta", "names", "colors", "note"),
    [
        ({}, ("class_0", "class_1"), (None, None), "names no classes"),
        ({"CLASSES": None}, ("class_0", "class_1"), (None, None), "names no classes"),
        ({"CLASSES": ["a", "b", "c"]}, ("class_0", "class_1"), (None, None), "names 3 classes"),
        ({"CLASSES": ["roof"]}, ("background", "roof"), (None, None), None),
        (
            {"CLASSES": ["roof"], "PALETTE": [[1, 2, 3]]},
            ("background", "roof"),
            (None, "010203"),
            None,
        ),
        (
            {"CLASSES": ["bg", "roof"], "PALETTE": [["x"], [1, 2, 3]]},
            ("bg", "roof"),
            (None, "010203"),
            None,
        ),
    ],
)
def test_a_single_logit_distinguishes_two_classes(
    meta: Any, names: Any, colors: Any, note: str | None, tmp_path: Path
) -> None:
    weights = small("mmsegmentation").weights
    for leaf in ("weight", "bias"):
        weights[f"head.classifier.{leaf}"] = weights[f"head.classifier.{leaf}"][:1].clone()
    file = {"meta": meta, "state_dict": mmsegmentation(weights)}
    torch.save(file, tmp_path / "m.pth")
    checkpoint = read_checkpoint(str(tmp_path / "m.pth"))
    config = checkpoint.config
    assert (config.sigmoid, config.num_labels) == (True, 1)
    assert (config.class_names, config.class_colors) == (names, colors)
    assert any(note in n for n in config.notes) if note else "class" not in config.notes[0]
    with torch.inference_mode():
        assert load_model(str(tmp_path / "m.pth"))(pixels()).shape[1] == 1


# --- identity and conversion ----------------------------------------------------------------------


def test_the_digest_depends_on_the_files_contents_and_not_on_its_name(
    origin: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.pth"
    torch.save(NAMED[origin](small(origin).weights), path)
    digest = checkpoint_sha256(str(path))
    path = path.rename(tmp_path / "renamed.pth")
    assert checkpoint_sha256(str(path)) == digest
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert checkpoint_sha256(str(path)) != digest


def test_a_file_of_nvlabs_is_converted_to_a_folder_of_transformers(tmp_path: Path) -> None:
    expected = small("nvlabs")
    torch.save(nvlabs(expected.weights), tmp_path / "m.pth")
    write_checkpoint(read_checkpoint(str(tmp_path / "m.pth")), str(tmp_path / "folder"))
    again = read_checkpoint(str(tmp_path / "folder"))
    assert_same(again, replace(expected, origin="transformers"))
    assert_same_logits(tmp_path / "folder", expected)


@torch.inference_mode()
def test_a_checkpoint_of_any_origin_is_written_as_a_folder_that_gives_the_same_bits(
    origin: str, tmp_path: Path
) -> None:
    expected = small(origin)
    torch.save(NAMED[origin](expected.weights), tmp_path / "m.pth")
    write_checkpoint(read_checkpoint(str(tmp_path / "m.pth")), str(tmp_path / "folder"))
    assert_same(read_checkpoint(str(tmp_path / "folder")), replace(expected, origin="transformers"))
    file, folder = (load_model(str(tmp_path / name)) for name in ("m.pth", "folder"))
    assert torch.equal(file(pixels()), folder(pixels()))


def test_transformers_refuses_a_folder_with_a_head_that_it_does_not_have(tmp_path: Path) -> None:
    """It would fill the missing weights with random numbers."""
    write_checkpoint(small("mmsegmentation"), str(tmp_path))
    with pytest.raises(ValueError, match="swath-segformer"):
        AutoModelForSemanticSegmentation.from_pretrained(tmp_path)


# --- GFLOP --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "gflop"),
    [("b0", 8.1), ("b1", 22.9), ("b2", 47.0), ("b3", 80.2), ("b4", 113.4), ("b5", 145.3)],
)
def test_the_published_sizes_have_the_published_gflop(size: str, gflop: float) -> None:
    assert gflop_per_window(mit_config(size, 150), 512) == pytest.approx(gflop, abs=0.05)


@pytest.mark.parametrize("source", ["transformers", "mmsegmentation"])
@torch.inference_mode()
def test_gflop_is_the_number_that_torch_counts(source: str, tmp_path: Path) -> None:
    head = "conv" if source == "mmsegmentation" else "mlp"
    config = mit_config("b0", 7, head=head, num_channels=3)
    path = tmp_path / "m.pth"
    if head == "conv":
        torch.save(mmsegmentation(random_checkpoint(config).weights), path)
    else:
        path = tmp_path
        write_checkpoint(random_checkpoint(config), str(path))
    model = load_model(str(path))
    # torch does not count its fused attention, nor compiled loops: in float64 there are none.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.double()(pixels(3, 256, 256).double())
    counted = counter.get_total_flops() / 1e9
    assert gflop_per_window(model.config, 256) == pytest.approx(counted, rel=1e-6)


# --- refusals ----------------------------------------------------------------------------------


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mit_b0.pth"
    weights = nvlabs(small("nvlabs").weights)
    encoder = {
        name.removeprefix("backbone."): tensor
        for name, tensor in weights.items()
        if name.startswith("backbone.")
    }
    encoder |= {"head.weight": torch.ones(1000, 32), "head.bias": torch.ones(1000)}
    torch.save(encoder, path)
    assert "holds the encoder alone, as it is pretrained on ImageNet" in refusal(path)


def test_other_networks_are_refused(origin: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.weight": torch.ones(64)}, path)
    message = refusal(path)
    assert "is no SegFormer: it holds 2 keys conv1.weight, bn1.weight; Swath reads" in message
    weights = NAMED[origin](small(origin).weights)
    name = next(name for name in weights if "sr.weight" in name)
    torch.save(weights | {name: torch.ones(3, 3)}, path)
    assert f"{name} has the shape [3, 3], but it should have 4 dimensions" in refusal(path)
    torch.save({n: t for n, t in weights.items() if "attn.norm" not in n}, path)
    assert "attn.norm.weight" in refusal(path)
    extra = "encoder.pos_embed" if origin == "smp" else "backbone.pos_embed"
    torch.save(weights | {extra: torch.ones(2)}, path)
    assert f"has the unexpected 1 key {extra}" in refusal(path)
    uneven = {
        n: torch.ones(7, *t.shape[1:]) if "kv." in n or "in_proj" in n else t
        for n, t in weights.items()
    }
    torch.save(uneven, path)
    assert "which is not" in refusal(path)


def test_a_folder_of_another_origins_weights_is_refused(tmp_path: Path) -> None:
    config = mit_config("b0", 3, **SMALL)
    write_checkpoint(random_checkpoint(config), str(tmp_path))
    safetensors.torch.save_file(nvlabs(small("nvlabs").weights), tmp_path / "model.safetensors")
    assert "weights as nvlabs names them; give the file of weights itself" in refusal(tmp_path)


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    for kind, name in (("TIFF", "TIFF"), ("PNG", "PNG"), ("JPEG", "JPEG")):
        path = tmp_path / f"{kind}.pth"
        Image.new("RGB", (8, 8)).save(path, format=name)
        assert f"is a {kind} image; give a SegFormer's weights" in refusal(path)
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "is a Git LFS pointer, not the file itself" in refusal(tmp_path / "pointer.pth")
    (tmp_path / "text.pth").write_text("These are no weights.\n")
    assert "it begins as neither PyTorch nor safetensors do" in refusal(tmp_path / "text.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    assert "is truncated or damaged, or no file of weights (0 bytes" in refusal(
        tmp_path / "empty.pth"
    )
    (tmp_path / "folder").mkdir()
    assert "has no config.json; give a checkpoint folder" in refusal(tmp_path / "folder")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated_files_are_refused(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(nvlabs(small("nvlabs").weights), path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    for size in (3, 20, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        message = refusal(path)
        assert "truncated or damaged" in message
        assert "fetch it again" in message
