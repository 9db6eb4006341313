"""segmentation_models_pytorch's Segformer: its logits, its wrappers' files, its masks."""

from __future__ import annotations

import enum
import importlib.util
import json
import shutil
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.api import run
from pipeline.settings import Execution, Settings
from segformer import load_model, read_checkpoint, write_checkpoint
from tests.support.archives import mask_of, picture, write_scene
from tests.support.commands import Swath
from tests.support.foreign_checkpoints import Weights, random_checkpoint, smp, under
from tests.support.outputs import differences
from tests.support.saved_checkpoints import assert_same_weights, read
from tests.support.smp_checkpoints import TASK, hub_folder, network_of, save
from tests.support.smp_reference import SmpSegformer, class_ids, mean_logits, of_every_pixel


def assert_logits(path: Path, full_NKHW: Tensor, x_NCHW: Tensor) -> None:
    """Assert that the network's logits, upsampled as its config says, are these float64 ones, and
    that no class differs that is no tie."""
    model = load_model(str(path))
    with torch.inference_mode():
        logits_NKhw = model(x_NCHW)
    assert model.config.align_corners
    ours_KHW = of_every_pixel(logits_NKhw[0], *x_NCHW.shape[2:])
    error = (ours_KHW - full_NKHW[0]).abs().max()
    assert error < 2e-5
    ids, expected = (class_ids(logits_KHW) for logits_KHW in (ours_KHW, full_NKHW[0]))
    if len(full_NKHW[0]) == 1:
        gap_HW = 2 * full_NKHW[0, 0].abs()
    else:
        best_HW, second_HW = full_NKHW[0].topk(2, dim=0).values
        gap_HW = best_HW - second_HW
    assert not (ids != expected)[gap_HW.numpy() > 2 * float(error)].any()


@pytest.mark.parametrize(("channels", "classes"), [(3, 3), (1, 1), (13, 19)])
@pytest.mark.parametrize(("height", "width"), [(96, 96), (160, 64)])
def test_logits_equal_the_reference(
    channels: int, classes: int, height: int, width: int, tmp_path: Path
) -> None:
    checkpoint = network_of(classes, channels)
    x_NCHW = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    full_NKHW = SmpSegformer.of(checkpoint)(x_NCHW.double())
    assert full_NKHW.shape == (1, classes, height, width)
    path = save(checkpoint, tmp_path)
    assert_logits(path, full_NKHW, x_NCHW)
    read = read_checkpoint(str(path))
    assert replace(read.config, notes=()) == checkpoint.config
    assert_same_weights(read, checkpoint)


@pytest.mark.skipif(
    not importlib.util.find_spec("segmentation_models_pytorch"), reason="smp is not installed"
)
@pytest.mark.parametrize(("channels", "classes"), [(3, 3), (4, 1)])
def test_logits_equal_those_of_smp_itself(channels: int, classes: int, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in other libraries, at import
        import segmentation_models_pytorch as library  # noqa: PLC0415  where it is installed
    sizes = {
        "depths": (2, 2, 2, 2),
        "hidden_sizes": (32, 64, 160, 256),
        "num_attention_heads": (1, 2, 5, 8),
        "decoder_hidden_size": 256,
    }
    checkpoint = network_of(classes, channels, **sizes)
    arguments = {"encoder_weights": None, "in_channels": channels, "classes": classes}
    network = library.Segformer("mit_b0", **arguments).eval()
    network.load_state_dict(smp(checkpoint.weights))
    x_NCHW = torch.randn(1, channels, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        full_NKHW = network.double()(x_NCHW.double())
    torch.testing.assert_close(full_NKHW, SmpSegformer.of(checkpoint)(x_NCHW.double()))
    assert_logits(save(checkpoint, tmp_path), full_NKHW, x_NCHW)
    hub = tmp_path / "hub"
    network.float().save_pretrained(hub)
    shutil.copy(tmp_path / "preprocessor_config.json", hub)
    assert_same_weights(read_checkpoint(str(hub)), checkpoint)


# --- wrappers -----------------------------------------------------------------------------------


def wrapped(weights: Weights) -> dict[str, dict[str, Any]]:
    """What torch.save gets from each program."""
    criterion = {"criterion.weight": torch.ones(3)}
    terratorch = {"model_factory": "SMPModelFactory", "class_names": ["sea", "land", "ice"]}
    model_args = {"model": "Segformer", "backbone": "mit_b0", "bands": ["RED", "GREEN", "BLUE"]}
    return {
        "smp": weights,
        "DataParallel": under("module.", weights),
        "a Lightning module": {"state_dict": under("net.", weights), "epoch": 3},
        "torchgeo": {
            "state_dict": {**under("model.", weights), **criterion},
            "hyper_parameters": {**TASK, "task": "multiclass", "loss": "ce", "lr": 1e-3},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
            "pytorch-lightning_version": "2.5.0",
        },
        "ftw": {
            "state_dict": under("model.", weights),
            "hyper_parameters": {**TASK, "patch_weights": False, "model_kwargs": {}},
        },
        "terratorch": {
            "state_dict": {**under("model.smp_model.", weights), **criterion},
            "hyper_parameters": {**terratorch, "model_args": model_args},
        },
        "terratorch's own model": {"state_dict": under("model.model.", weights)},
        "geoai": {name: tensor.clone() for name, tensor in weights.items()},
    }


@pytest.mark.parametrize("program", list(wrapped({})))
@torch.inference_mode()
def test_a_wrappers_file_gives_the_bits_of_the_plain_one(program: str, tmp_path: Path) -> None:
    weights = smp(network_of().weights)
    plain, file = tmp_path / "plain.pth", tmp_path / "last.ckpt"
    torch.save(weights, plain)
    checkpoint = read(wrapped(weights)[program], file)
    assert checkpoint.origin == "smp"
    assert_same_weights(checkpoint, read_checkpoint(str(plain)))
    x_NCHW = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_model(str(file))(x_NCHW), load_model(str(plain))(x_NCHW))
    if program == "terratorch":
        assert checkpoint.config.class_names == ("sea", "land", "ice")
    if program == "torchgeo":
        notes = checkpoint.config.notes
        assert "1 key is not the network's and not used: criterion.weight" in notes


def test_terratorchs_own_types_beside_the_weights_are_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hyper_parameters name bands by an enumeration."""
    bands = enum.Enum("HLSBands", {"RED": "RED", "GREEN": "GREEN"}, module="terratorch")
    module = types.ModuleType("terratorch")
    module.__dict__["HLSBands"] = bands
    weights = smp(network_of().weights)
    file = {
        "state_dict": under("model.smp_model.", weights),
        "hyper_parameters": {"model_args": {"bands": list(bands)}},
    }
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "terratorch", module)
        torch.save(file, tmp_path / "last.ckpt")
    checkpoint = read_checkpoint(str(tmp_path / "last.ckpt"))
    assert_same_weights(checkpoint, read(weights, tmp_path / "plain.pth"))


def test_a_folder_of_the_hub_is_read(tmp_path: Path) -> None:
    checkpoint = network_of()
    folder = hub_folder(checkpoint, tmp_path / "hub")
    of_folder = read_checkpoint(str(folder))
    assert of_folder.origin == "smp"
    assert_same_weights(of_folder, checkpoint)
    assert any("ImageNet's normalization is used" in note for note in of_folder.config.notes)
    assert_same_weights(read_checkpoint(str(folder / "model.safetensors")), checkpoint)
    shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors")
    assert_same_weights(read_checkpoint(str(tmp_path / "alone.safetensors")), checkpoint)
    (folder / "model.safetensors").unlink()
    torch.save(smp(checkpoint.weights), folder / "pytorch_model.bin")
    assert_same_weights(read_checkpoint(str(folder)), checkpoint)


def test_an_unused_classification_head_is_left_out_and_noted(tmp_path: Path) -> None:
    checkpoint = network_of()
    head = {"classification_head.3.weight": torch.ones(2, 32)}
    head["classification_head.3.bias"] = torch.ones(2)
    for prefix in ("", "model."):
        state = under(prefix, {**smp(checkpoint.weights), **head})
        of_file = read({"state_dict": state}, tmp_path / "m.ckpt")
        assert_same_weights(of_file, checkpoint)
        assert (
            f"2 keys are not the network's and not used: {prefix}classification_head (2 keys)"
        ) in of_file.config.notes


def test_labels_that_may_overlap_are_noted(tmp_path: Path) -> None:
    weights = under("model.", smp(network_of().weights))
    for task, noted in (("multilabel", True), ("multiclass", False)):
        file = {"state_dict": weights, "hyper_parameters": {**TASK, "task": task}}
        notes = read(file, tmp_path / "m.ckpt").config.notes
        assert any("labels that may overlap" in note for note in notes) == noted


# --- masks --------------------------------------------------------------------------------------


def settings(**changes: Any) -> Settings:
    return Settings(**{"window": 64, "stride": 48, **changes})


@pytest.mark.parametrize(("classes", "stride"), [(3, 48), (1, 37)])
def test_a_mask_equals_the_plain_sliding_window(classes: int, stride: int, tmp_path: Path) -> None:
    checkpoint = network_of(classes)
    path = save(checkpoint, tmp_path)
    values_CHW = picture(330, 270)
    write_scene(tmp_path / "in" / "a.tif", 330, 270, values=values_CHW)
    run(
        [str(tmp_path / "in")],
        str(path),
        str(tmp_path / "out"),
        settings(stride=stride),
        Execution(runner="local"),
    )
    mask = mask_of(tmp_path / "out", "a.tif")
    network = SmpSegformer.of(checkpoint)
    expected = class_ids(mean_logits(network, checkpoint.normalisation, values_CHW, 64, stride))
    assert len(np.unique(expected)) > 1
    assert (mask != expected).sum() <= mask.size // 100_000
    # The other way of upsampling gives another mask: the test can tell them apart.
    plain = replace(checkpoint, config=replace(checkpoint.config, align_corners=False))
    write_checkpoint(plain, str(tmp_path / "plain"))
    other = str(tmp_path / "other")
    run(
        [str(tmp_path / "in")],
        str(tmp_path / "plain"),
        other,
        settings(stride=stride),
        Execution(runner="local"),
    )
    assert (mask_of(tmp_path / "other", "a.tif") != expected).sum() > mask.size // 200


def test_a_converted_folder_gives_the_rows_of_the_file(swath: Swath, tmp_path: Path) -> None:
    path = save(network_of(), tmp_path)
    write_scene(tmp_path / "in" / "a.tif", 700, 600)
    assert swath("model", "convert", path, "--to", tmp_path / "folder")[0] == 0
    for checkpoint, out, block in ((path, "a", 1024), (tmp_path / "folder", "b", 512)):
        run(
            [str(tmp_path / "in")],
            str(checkpoint),
            str(tmp_path / out),
            settings(),
            Execution(runner="local", block=block),
        )
    assert differences(tmp_path / "a", tmp_path / "b") == []


@pytest.mark.parametrize(
    ("window", "stride", "nearest"),
    [(500, 384, 512), (520, 384, 512), (496, 384, 512), (48, 32, 64), (33, 33, 64)],
)
def test_a_window_that_smp_does_not_take_is_refused(
    window: int, stride: int, nearest: int, swath: Swath, tmp_path: Path
) -> None:
    path = save(network_of(), tmp_path)
    write_scene(tmp_path / "in" / "a.tif", 64, 64)
    asked = ("--checkpoint", path, "--window", window, "--stride", stride)
    for command in (("plan",), ("run", "--output", tmp_path / "out", "--runner", "local")):
        code, _, err = swath(*command, tmp_path / "in", *asked)
        assert code == 2
        assert err.endswith(
            f"swath: error: --window {window}: the network, of segmentation_models_pytorch, takes"
            f" multiples of 32 px only; the nearest is --window {nearest}\n"
        )
    assert not (tmp_path / "out").exists()


def test_which_weights_are_run_is_recorded_and_not_changed(swath: Swath, tmp_path: Path) -> None:
    raw, average = (smp(random_checkpoint(network_of().config, seed).weights) for seed in (1, 2))
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": raw, "ema_state_dict": average}, file)
    torch.save(average, tmp_path / "average.pth")
    write_scene(tmp_path / "in" / "a.tif", 100, 90)

    def segment(checkpoint: Path, out: str, *options: str) -> tuple[int, str]:
        size = ("--window", 64, "--stride", 48, "--runner", "local")
        command = ("run", tmp_path / "in", "--checkpoint", checkpoint, *size, *options)
        code, _, err = swath(*command, "--output", tmp_path / out)
        return code, err

    code, err = segment(file, "ema", "--weights", "ema")
    assert code == 0
    assert "the weights are averages (EMA), those under ema_state_dict." in err
    assert segment(tmp_path / "average.pth", "plain")[0] == 0
    masks = [mask_of(tmp_path / out, "a.tif") for out in ("ema", "plain")]
    assert np.array_equal(*masks)
    assert 'weights = "ema"' in (tmp_path / "ema" / "job.toml").read_text()
    job = json.loads((tmp_path / "ema" / "job.json").read_text())
    assert job["settings"]["weights"] == "ema"
    for options in ((), ("--weights", "raw")):
        code, err = segment(file, "ema", *options)
        assert code == 2
        assert f"(weights: ema here, {options[-1] if options else 'none'} asked for)" in err
    assert segment(file, "ema", "--weights", "ema")[0] == 0
    code, err = segment(tmp_path / "average.pth", "none", "--weights", "ema")
    assert (code, (tmp_path / "none").exists()) == (2, False)
    assert "holds no average of the weights (EMA) that is a complete network" in err
