"""`swath model`: its report on a checkpoint, the folder that it writes, and its refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segformer import mit_config, read_checkpoint, write_checkpoint
from segformer.checkpoints.shapes import weight_shapes
from tests.support.commands import Swath
from tests.support.foreign_checkpoints import (
    mmsegmentation,
    nvlabs,
    random_checkpoint,
    small_weights,
    smp,
)
from tests.support.saved_checkpoints import assert_same_weights
from tests.support.saved_checkpoints import read as read_saved

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in other libraries, at import
    from transformers import SegformerForSemanticSegmentation

META = {"CLASSES": ["water", "roof"], "PALETTE": [[0, 0, 255], [255, 0, 10]]}
SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 16, 24, 32),
    "num_attention_heads": (1, 2, 3, 4),
    "decoder_hidden_size": 16,
}


@pytest.fixture
def nvlabs_b0(tmp_path: Path) -> Path:
    weights = random_checkpoint(mit_config("b0", 2)).weights
    torch.save({"state_dict": nvlabs(weights), "meta": META}, tmp_path / "b0.pth")
    return tmp_path / "b0.pth"


@pytest.fixture
def mmseg(tmp_path: Path) -> Path:
    """A checkpoint with a single logit, mmsegmentation's head and four channels."""
    config = mit_config(
        "b0", 2, ["background", "roof"], **SMALL, head="conv", sigmoid=True, num_channels=4
    )
    file = {"state_dict": mmsegmentation(random_checkpoint(config).weights)}
    torch.save(file, tmp_path / "mmseg.pth")
    fields = {"image_mean": [0.5] * 4, "image_std": [0.25] * 4, "do_resize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    return tmp_path / "mmseg.pth"


def test_inspect_prints_the_facts_as_text(swath: Swath, nvlabs_b0: Path) -> None:
    code, out, err = swath("model", "inspect", nvlabs_b0)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"checkpoint  {nvlabs_b0}"
    assert lines[1] == "origin      nvlabs"
    assert lines[2] == "size        b0, 3.7 million parameters"
    assert "norm eps    1e-06 in blocks, 1e-05 in reductions, 1e-05 in embeddings" in lines
    assert "work        6.9 GFLOP per window of 512 px" in lines
    assert "classes     2" in lines
    assert "    0  0000FF  water" in lines
    assert "    1  FF000A  roof" in lines
    assert lines[-1].startswith("note: the checkpoint has no preprocessor_config.json: ImageNet's")


def test_inspect_prints_the_facts_as_json(swath: Swath, mmseg: Path) -> None:
    code, out, err = swath("model", "inspect", mmseg, "--window", 64, "--format", "json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["origin"] == "mmsegmentation"
    assert (facts["size"], facts["head"], facts["sigmoid"]) == ("custom", "conv", True)
    assert (facts["channels"], facts["window"]) == (4, 64)
    assert facts["hidden_sizes"] == [8, 16, 24, 32]
    assert facts["layer_norm_eps"] == {"block": 1e-6, "reduction": 1e-6, "embedding": 1e-6}
    assert facts["normalisation"]["mean"] == [0.5] * 4
    assert [c["name"] for c in facts["classes"]] == ["class_0", "class_1"]
    shapes = weight_shapes(read_checkpoint(str(mmseg)).config)
    parameters = sum(torch.Size(s).numel() for n, s in shapes.items() if "running" not in n and s)
    assert facts["parameters"] == parameters
    assert any("class_0 to class_1" in note for note in facts["notes"])
    text = swath("model", "inspect", mmseg)[1]
    assert "classes     2, distinguished by one logit (sigmoid)" in text
    assert "    0  -       class_0" in text


def test_inspect_counts_the_published_number_of_parameters(swath: Swath, tmp_path: Path) -> None:
    """The numbers are those with 150 classes: Xie et al. 2021, table 1."""
    for size, millions in (("b0", 3.8), ("b1", 13.7)):
        config = mit_config(size, 150)
        write_checkpoint(random_checkpoint(config), str(tmp_path / size))
        facts = json.loads(swath("model", "inspect", tmp_path / size, "--format", "json")[1])
        assert facts["size"] == size
        assert facts["parameters"] / 1e6 == pytest.approx(millions, abs=0.1)


def test_convert_writes_a_folder_that_transformers_reads(
    swath: Swath, nvlabs_b0: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "folder"
    code, out, err = swath("model", "convert", nvlabs_b0, "--to", folder)
    assert code == 0
    assert out == f"{folder}: config.json, preprocessor_config.json, model.safetensors\n"
    assert "trained with layer-norm eps of 1e-06 in blocks, 1e-05 in reductions" in err
    assert "transformers with 1e-05 whatever the file says" in err
    network = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert network.config.id2label == {0: "water", 1: "roof"}
    before, after = read_checkpoint(str(nvlabs_b0)), read_checkpoint(str(folder))
    assert replace(after.config, notes=()) == replace(before.config, notes=())
    assert after.normalisation == before.normalisation
    assert all(torch.equal(after.weights[name], t) for name, t in before.weights.items())


def test_convert_replaces_a_checkpoint_only_with_force(
    swath: Swath, nvlabs_b0: Path, tmp_path: Path
) -> None:
    other = random_checkpoint(mit_config("b0", 3, **SMALL))
    write_checkpoint(other, str(tmp_path / "other"))
    code, out, err = swath("model", "convert", nvlabs_b0, "--to", tmp_path / "other")
    assert (code, out) == (2, "")
    assert "holds a checkpoint already (config.json, preprocessor_config.json, model." in err
    assert read_checkpoint(str(tmp_path / "other")).config == other.config
    code, _, _ = swath("model", "convert", nvlabs_b0, "--to", tmp_path / "other", "--force")
    assert code == 0
    assert read_checkpoint(str(tmp_path / "other")).config.class_names == ("water", "roof")


def test_convert_refuses_a_file_for_a_folder(swath: Swath, nvlabs_b0: Path) -> None:
    before = nvlabs_b0.read_bytes()
    code, _, err = swath("model", "convert", nvlabs_b0, "--to", nvlabs_b0)
    assert (code, err) == (2, f"swath: error: {nvlabs_b0} is a file; name a folder\n")
    assert nvlabs_b0.read_bytes() == before


def test_convert_does_not_replace_the_checkpoint_that_it_reads(
    swath: Swath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "b0"
    write_checkpoint(random_checkpoint(mit_config("b0", 3, **SMALL)), str(folder))
    (tmp_path / "link").symlink_to(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.chdir(tmp_path)
    for path in (folder, folder / "model.safetensors", f"{folder}/"):
        for to in (folder, "b0", "link", f"{folder}/../b0/"):
            for options in ([], ["--force"]):
                code, out, err = swath("model", "convert", path, "--to", to, *options)
                assert (code, out) == (2, "")
                assert err.endswith(
                    f"--to {to}: is the checkpoint being read; give another folder\n"
                )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_convert_keeps_the_name_of_the_background(swath: Swath, tmp_path: Path) -> None:
    config = mit_config("b0", 2, ["ground", "roof"], **SMALL, sigmoid=True)
    write_checkpoint(random_checkpoint(config), str(tmp_path / "a"))
    code, _, err = swath("model", "convert", tmp_path / "a", "--to", tmp_path / "b")
    assert (code, err) == (0, "")
    assert read_checkpoint(str(tmp_path / "b")).config == config


def test_convert_says_that_transformers_cannot_read_mmsegmentations_head(
    swath: Swath, mmseg: Path, tmp_path: Path
) -> None:
    code, _, err = swath("model", "convert", mmseg, "--to", tmp_path / "folder")
    assert code == 0
    assert "note: transformers cannot read the folder: it has no network with mmsegm" in err
    before, after = read_checkpoint(str(mmseg)), read_checkpoint(str(tmp_path / "folder"))
    assert replace(after.config, notes=()) == replace(before.config, notes=())
    assert after.normalisation == before.normalisation
    assert_same_weights(after, before)


def test_convert_keeps_the_corners_of_smps_head(swath: Swath, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(mit_config("b0", 3, **SMALL))
    torch.save(smp(checkpoint.weights), tmp_path / "smp.pth")
    code, _, err = swath("model", "convert", tmp_path / "smp.pth", "--to", tmp_path / "folder")
    assert code == 0
    assert "smp's head samples the logits of a window from corner to corner (align_corn" in err
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["align_corners"] is True
    SegformerForSemanticSegmentation.from_pretrained(tmp_path / "folder")
    after = read_checkpoint(str(tmp_path / "folder"))
    assert after.config.align_corners
    assert_same_weights(after, checkpoint)
    out = swath("model", "inspect", tmp_path / "folder")[1]
    assert "head        all-MLP, width 16, upsampled with align_corners" in out.splitlines()


def test_inspect_and_convert_take_the_average_when_it_is_asked_for(
    swath: Swath, tmp_path: Path
) -> None:
    raw, average = small_weights("smp"), small_weights("smp", seed=2)
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": raw, "ema_state_dict": average}, file)
    for chosen, expected in (("ema", average), ("raw", raw)):
        out = swath("model", "inspect", file, "--weights", chosen)[1]
        assert ("the weights are averages (EMA)" in out) == (chosen == "ema")
        folder = tmp_path / chosen
        assert swath("model", "convert", file, "--to", folder, "--weights", chosen)[0] == 0
        assert_same_weights(
            read_checkpoint(str(folder)), read_saved(expected, tmp_path / "plain.pth")
        )


def test_a_path_without_a_checkpoint_is_refused_in_one_line(swath: Swath, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"cos\nsystem\n.")
    for path in (tmp_path / "none", tmp_path / "bad.pth", tmp_path):
        for arguments in (("inspect", path), ("convert", path, "--to", tmp_path / "to")):
            code, out, err = swath("model", *arguments)
            assert (code, out) == (2, "")
            assert err.startswith(f"swath: error: {path}")
            assert err.count("\n") == 1
    assert not (tmp_path / "to").exists()
    assert swath("model", "inspect", tmp_path, "--window", 8)[0] == 2


def test_inspect_needs_neither_ray_nor_the_engine(nvlabs_b0: Path) -> None:
    program = """
import sys
from jobs.cli import main
try:
    main(["model", "inspect", sys.argv[1]])
except SystemExit as end:
    assert not end.code
loaded = {name for name in sys.modules if name == "ray" or name.startswith("pipeline.engine")}
assert not loaded, loaded
assert "segformer.network" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, str(nvlabs_b0)], check=True)
