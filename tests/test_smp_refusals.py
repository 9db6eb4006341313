"""What of segmentation_models_pytorch is no SegFormer, or computes something else, by its name; the
normalization in its folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from segformer import CheckpointError, Normalisation, NormalisationOptions, read_checkpoint
from segformer.checkpoints.transforms import TRANSFORMS
from tests.support.foreign_checkpoints import Weights, nvlabs, small_weights, smp, under
from tests.support.saved_checkpoints import read, refusal
from tests.support.smp_checkpoints import TASK, hub_folder, network_of

REMEDY = (
    "; Swath runs SegFormer only, which in smp is smp.Segformer with an encoder_name of mit_b0 to"
    " mit_b5: give such a checkpoint"
)
ENCODERS = {
    "an encoder of the ResNet kind": ("conv1.weight", "layer1.0.conv1.weight"),
    "an encoder of timm": ("model.conv1.weight", "model.layer1.0.conv1.weight"),
    "an EfficientNet as encoder": ("_conv_stem.weight", "_blocks.0._bn1.weight"),
    "an encoder with encoder.features.0.weight": ("features.0.weight",),
    "a MiT encoder": ("patch_embed1.proj.weight", "block1.0.attn.q.weight"),
}
"""Some names of encoders, as smp 0.6 gives them."""
DECODERS = {
    "Unet": ("blocks.0.conv1.0.weight", "blocks.0.conv2.0.weight"),
    "UnetPlusPlus": ("blocks.x_0_0.conv1.0.weight", "blocks.x_0_0.conv2.0.weight"),
    "MAnet": ("center.top_conv.weight", "blocks.0.hl_conv.0.0.weight", "blocks.0.conv1.0.weight"),
    "Linknet": ("blocks.0.block.0.0.weight",),
    "FPN": ("p5.weight", "p4.skip_conv.weight", "seg_blocks.0.block.0.block.0.weight"),
    "PSPNet": ("psp.blocks.0.pool.1.0.weight", "conv.0.weight"),
    "DeepLabV3": ("aspp.convs.0.0.weight", "aspp.project.0.weight"),
    "DeepLabV3Plus": ("aspp.0.convs.0.0.weight", "aspp.1.0.weight"),
    "PAN": ("fpa.branch1.1.conv.weight", "gau3.conv1.1.conv.weight"),
    "UPerNet": ("feature_norms.0.weight", "psp.blocks.0.1.0.weight"),
    "DPT": ("projection_blocks.0.project.weight",),
    "model with decoder.other.weight": ("other.weight",),
    "Segformer": ("mlp_stage.0.linear.weight", "mlp_stage.4.linear.weight", "fuse_stage.0.weight"),
}
"""Some names of decoders."""


def model(encoder: str, decoder: str) -> Weights:
    names = [f"encoder.{name}" for name in ENCODERS[encoder]]
    names += [f"decoder.{name}" for name in DECODERS[decoder]]
    return {name: torch.ones(2, 2) for name in (*names, "segmentation_head.0.weight")}


@pytest.mark.parametrize("prefix", ["", "model.", "model.smp_model."])
@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "Segformer"])
def test_another_decoder_is_refused_by_its_name(decoder: str, prefix: str, tmp_path: Path) -> None:
    for encoder in ENCODERS:
        weights = under(prefix, model(encoder, decoder))
        expected = f"holds smp's {decoder} with {encoder}{REMEDY}"
        assert refusal({"state_dict": weights}, tmp_path / "m.ckpt") == expected


def test_a_unet_on_a_whole_mit_is_refused_by_its_name(tmp_path: Path) -> None:
    """Its names include all of the encoder's, and the classifier's."""
    weights = smp(network_of().weights)
    encoder = {n: t for n, t in weights.items() if not n.startswith("decoder.")}
    unet = {"decoder.blocks.0.conv1.0.weight": torch.ones(16, 8, 3, 3), **encoder}
    stated = {"hyper_parameters": {**TASK, "model": "unet"}}
    message = refusal({"state_dict": under("model.", unet), **stated}, tmp_path / "m.ckpt")
    assert message == f"holds smp's Unet with a MiT encoder (mit_b0){REMEDY}"


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "a MiT encoder"])
def test_another_encoder_is_refused_by_its_name(encoder: str, tmp_path: Path) -> None:
    """A ResNet is what smp.Segformer has by default."""
    weights = model(encoder, "Segformer")
    expected = f"holds smp's Segformer with {encoder}"
    assert refusal(weights, tmp_path / "m.pth") == expected + REMEDY
    file = {"state_dict": weights, "hyper_parameters": {**TASK, "backbone": "resnet34"}}
    assert refusal(file, tmp_path / "m.ckpt") == f"{expected} (resnet34){REMEDY}"


def test_fewer_scales_are_refused(tmp_path: Path) -> None:
    weights = smp(network_of().weights)
    fewer = {n: t for n, t in weights.items() if "mlp_stage.3" not in n}
    assert refusal(fewer, tmp_path / "m.pth") == (
        "holds smp's Segformer with a MiT encoder, whose decoder has 3 scales (mlp_stage) of 4;"
        " Swath runs it with an encoder_depth of 5, smp's default: train it so"
    )


def test_a_segformer_without_its_classifier_is_damaged(tmp_path: Path) -> None:
    weights = smp(network_of().weights)
    del weights["segmentation_head.0.weight"]
    message = "the file lacks segmentation_head.0.weight; it is damaged or of another kind"
    assert message in refusal(weights, tmp_path / "m.pth")


def test_a_whole_network_beside_a_model_of_smp_is_run(tmp_path: Path) -> None:
    student = under("student.", model("an encoder of timm", "Unet"))
    checkpoint = read({**student, **under("net.", small_weights("nvlabs"))}, tmp_path / "m.pth")
    assert checkpoint.origin == "nvlabs"


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"upsampling": 8}, "upsampling is 8, so that its masks are of another size than the image;"),
    ({"upsampling": 1}, "load these weights into a model with upsampling=4, smp's default, and"),
    ({"activation": "sigmoid"}, "activation is 'sigmoid', but windows are averaged before one;"),
    ({"activation": "softmax2d"}, "into a model with activation=None, smp's default, and save"),
    ({"encoder_depth": 4}, "encoder_depth is 4; Swath runs smp's Segformer with 5, smp's default"),
    ({"output_stride": 16}, "output_stride is 16; Swath runs smp's Segformer with 32, smp's def"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options_that_change_the_output_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    weights = smp(network_of().weights)
    prefixed = {f"backbone_smp_{name}": value for name, value in options.items()}
    for stated in (
        {**TASK, **options},
        {**TASK, "model_kwargs": options},
        {"model_args": {"backbone": "mit_b0", **prefixed}},
    ):
        file = {"state_dict": under("model.", weights), "hyper_parameters": stated}
        assert f"hyper_parameters: {next(iter(options))} is" in refusal(file, tmp_path / "m.ckpt")
        assert message in refusal(file, tmp_path / "m.ckpt")
    folder = hub_folder(network_of(), tmp_path / "hub", **options)
    with pytest.raises(CheckpointError, match=r"config\.json: ") as caught:
        read_checkpoint(str(folder))
    assert message in str(caught.value)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        read_checkpoint(str(folder / "model.safetensors"))


def test_what_says_nothing_of_the_output_is_not_refused(tmp_path: Path) -> None:
    weights = under("model.", smp(network_of().weights))
    stated = {**TASK, "activation": "relu", "upsampling": None, "model_kwargs": {"depth": 4}}
    stated |= {"output_stride": "none", 4: {"upsampling": "bilinear"}}
    read({"state_dict": weights, "hyper_parameters": stated}, tmp_path / "m.ckpt")
    hub_folder(network_of(), tmp_path / "hub", activation="identity", aux_params={"classes": 2})
    read_checkpoint(str(tmp_path / "hub"))


def folder_refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(folder))
    assert str(caught.value).count("\n") == 0
    return str(caught.value).removeprefix(f"{folder}: ")


def test_a_folder_of_another_model_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = hub_folder(network_of(), tmp_path / "hub", _model_class="UnetPlusPlus")
    assert folder_refusal(folder) == (
        f"config.json is of smp's UnetPlusPlus, not of its Segformer{REMEDY}"
    )
    for encoder in ("resnet34", "tu-mit_b0", None):
        hub_folder(network_of(), folder, encoder_name=encoder)
        assert folder_refusal(folder) == (
            f"config.json is of smp's Segformer with the encoder {encoder!r}{REMEDY}"
        )
    hub_folder(network_of(), folder)
    (folder / "model.safetensors").unlink()
    torch.save(nvlabs(network_of().weights), folder / "pytorch_model.bin")
    assert "has a config.json of smp, but weights as nvlabs names them" in folder_refusal(folder)
    # Beside a single file of another program, smp's config.json has no say.
    read_checkpoint(str(folder / "pytorch_model.bin"))


def test_an_adapter_is_refused_with_the_way_to_merge_it(tmp_path: Path) -> None:
    weights = under("base_model.model.", smp(network_of().weights))
    name = "base_model.model.encoder.block1.0.attn.q.lora_A.default.weight"
    message = refusal({**weights, name: torch.ones(2, 8)}, tmp_path / "m.pth")
    assert f"holds an adapter (1 key such as {name}), not a network of its own" in message
    assert "model.merge_and_unload()" in message


# --- albumentations -------------------------------------------------------------------------------


def transforms(*kinds: dict[str, Any]) -> str:
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": list(kinds)}
    return json.dumps({"__version__": "1.4.14", "transform": compose})


def normalize(**changes: Any) -> dict[str, Any]:
    return {
        "__class_fullname__": "Normalize",
        "p": 1.0,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.2, 0.1],
        "max_pixel_value": 255.0,
        "normalization": "standard",
        **changes,
    }


RESIZE = {"__class_fullname__": "Resize", "height": 256, "width": 256}


def test_the_normalization_of_the_folder_is_used(tmp_path: Path) -> None:
    folder = hub_folder(network_of(), tmp_path / "hub")
    digests = {read_checkpoint(str(folder)).sha256}
    expected = Normalisation(1 / 255, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    nested = {"__class_fullname__": "Compose", "transforms": [normalize()]}
    old = normalize(__class_fullname__="albumentations.augmentations.transforms.Normalize")
    for kinds in ([RESIZE, normalize()], [nested], [old]):
        (folder / TRANSFORMS).write_text(transforms(*kinds))
        for path in (folder, folder / "model.safetensors"):
            checkpoint = read_checkpoint(str(path))
            assert checkpoint.normalisation == expected
            digests.add(checkpoint.sha256)
            assert any(f"that of {TRANSFORMS} (values" in n for n in checkpoint.config.notes)
            resized = f"{TRANSFORMS} resizes images (Resize); Swath does not"
            assert any(resized in n for n in checkpoint.config.notes) == (RESIZE in kinds)
    assert len(digests) == 7
    (folder / TRANSFORMS).write_text(transforms(normalize(mean=0.5, std=[0.2] * 3)))
    assert read_checkpoint(str(folder)).normalisation.mean == (0.5,) * 3
    (folder / TRANSFORMS).write_text(transforms(RESIZE))
    checkpoint = read_checkpoint(str(folder))
    assert checkpoint.normalisation == Normalisation.default(3)
    assert f"{TRANSFORMS} has no Normalize" in checkpoint.config.notes
    assert any("ImageNet's normalization is used" in note for note in checkpoint.config.notes)
    (folder / "preprocessor_config.json").write_text('{"image_mean": 0.1, "image_std": 0.1}')
    assert read_checkpoint(str(folder)).normalisation.mean == (0.1,) * 3


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([normalize(normalization="image")], "takes its numbers from each image (normalization"),
        ([normalize(mean=[0.5])], "has 1 values of mean and 3 of std for 3 channels; write a prep"),
        ([normalize(mean=[123.0] * 3)], "do not go with its max_pixel_value (values / 255, mean"),
        ([normalize(max_pixel_value=1.0)], "do not go with its max_pixel_value (values * 1, mean"),
        ([normalize(std=[0.0] * 3)], "do not go with its max_pixel_value"),
        ([normalize(std="wide")], "Normalize is not as albumentations writes it; write a prepr"),
        ([normalize(), normalize(mean=0.1)], "has several Normalize, and not the same; write a"),
    ],
)
def test_a_normalization_that_cannot_be_used_is_refused(
    kinds: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    folder = hub_folder(network_of(), tmp_path / "hub")
    (folder / TRANSFORMS).write_text(transforms(*kinds))
    refused = folder_refusal(folder)
    assert refused.startswith(TRANSFORMS)
    assert message in refused
    assert "write a preprocessor_config.json beside it" in refused


def test_numbers_that_are_given_replace_those_of_the_folder(tmp_path: Path) -> None:
    folder = hub_folder(network_of(), tmp_path / "hub")
    (folder / TRANSFORMS).write_text(transforms(RESIZE, normalize()))
    given = NormalisationOptions(mean=(0.1, 0.2, 0.3))
    checkpoint = read_checkpoint(str(folder), normalisation=given)
    expected = Normalisation(1 / 255, (0.1, 0.2, 0.3), (0.25, 0.2, 0.1))
    assert checkpoint.normalisation == expected
    assert checkpoint.normalisation.sources == (TRANSFORMS, "--mean", TRANSFORMS)
    assert not any("that of" in note for note in checkpoint.config.notes)
    assert any("resizes images" in note for note in checkpoint.config.notes)
    (folder / TRANSFORMS).write_text(transforms(normalize(normalization="image")))
    both = NormalisationOptions(mean=(0.1,) * 3, std=(0.2,) * 3)
    checkpoint = read_checkpoint(str(folder), normalisation=both)
    assert checkpoint.normalisation == Normalisation(1 / 255, (0.1,) * 3, (0.2,) * 3)
    with pytest.raises(CheckpointError, match="takes its numbers from each image"):
        read_checkpoint(str(folder), normalisation=given)
    (folder / TRANSFORMS).write_text(transforms(normalize()))
    with pytest.raises(CheckpointError, match=r"--mean 0\.1: the network has 3 channels"):
        read_checkpoint(str(folder), normalisation=NormalisationOptions(mean=(0.1,)))


def test_transforms_beside_another_programs_file_have_no_say(tmp_path: Path) -> None:
    torch.save(nvlabs(network_of().weights), tmp_path / "m.pth")
    digest = read_checkpoint(str(tmp_path / "m.pth")).sha256
    (tmp_path / TRANSFORMS).write_text(transforms(normalize()))
    checkpoint = read_checkpoint(str(tmp_path / "m.pth"))
    assert (checkpoint.sha256, checkpoint.normalisation) == (digest, Normalisation.default(3))
