"""Checkpoint folders: every format that loads, the message for every fault, and what is written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import torch
from torch import Tensor

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
from segformer.checkpoints.folder import without_credentials
from tests.support.foreign_checkpoints import random_checkpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Deprecations of other libraries, at import.
    from transformers import SegformerForSemanticSegmentation

CONFIG = mit_config(
    "b0",
    3,
    class_names=["ocean", "land", "lake"],
    class_colors=("1F77B4", None, "00FFFF"),
    depths=(1, 1, 1, 1),
    hidden_sizes=(8, 16, 24, 32),
    num_attention_heads=(1, 2, 3, 4),
    decoder_hidden_size=16,
)
PIXELS = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(CONFIG)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    write_checkpoint(checkpoint, str(tmp_path / "checkpoint"))
    return tmp_path / "checkpoint"


@torch.inference_mode()
def logits(model: torch.nn.Module) -> Tensor:
    output = model(PIXELS)
    return output if isinstance(output, Tensor) else output.logits


def edit_json(path: Path, **changes: Any) -> None:
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def refusal(folder: Path | str) -> str:
    """The message of the refusal, which must be one line and name the folder once."""
    with pytest.raises(CheckpointError) as caught:
        load_model(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    assert message.count(str(folder)) == 1
    return message


def assert_same_weights(checkpoint: Checkpoint, expected: Checkpoint) -> None:
    assert checkpoint.weights.keys() == expected.weights.keys()
    for name, tensor in checkpoint.weights.items():
        assert torch.equal(tensor, expected.weights[name]), name


def test_a_written_checkpoint_reads_the_same_here_and_in_transformers(
    checkpoint: Checkpoint, folder: Path
) -> None:
    reread = read_checkpoint(str(folder))
    assert (reread.config, reread.normalisation) == (CONFIG, checkpoint.normalisation)
    assert reread.origin == "transformers"
    assert_same_weights(reread, checkpoint)
    hf_model = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert hf_model.config.id2label == {0: "ocean", 1: "land", 2: "lake"}
    model = load_model(str(folder))
    assert not model.training
    torch.testing.assert_close(logits(model), logits(hf_model), atol=1e-5, rtol=0)


def test_norm_eps_are_written_beside_what_transformers_reads(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    config = replace(CONFIG, norm_eps=NormEps(1e-6, 1e-5, 2e-5))
    write_checkpoint(replace(checkpoint, config=config), str(tmp_path))
    assert read_checkpoint(str(tmp_path)).config == config
    SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", norm_eps={"block": 0})
    assert "norm_eps {'block': 0.0," in refusal(tmp_path)
    edit_json(tmp_path / "config.json", norm_eps={"other": 1})
    assert "a value is not what it should be" in refusal(tmp_path)


def test_a_classifier_with_one_channel_has_two_classes(tmp_path: Path) -> None:
    config = replace(
        CONFIG, sigmoid=True, class_names=("background", "roof"), class_colors=(None, "FF0000")
    )
    assert config.num_labels == 1
    write_checkpoint(random_checkpoint(config), str(tmp_path))
    hf_model = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    assert hf_model.config.id2label == {0: "roof"}
    assert read_checkpoint(str(tmp_path)).config == config
    torch.testing.assert_close(
        logits(load_model(str(tmp_path))), logits(hf_model), atol=1e-5, rtol=0
    )
    with pytest.raises(CheckpointError, match="3 classes of a single-logit"):
        replace(CONFIG, sigmoid=True)
    unnamed = ModelConfig.from_json({"model_type": "segformer", "num_labels": 1})
    assert (unnamed.sigmoid, unnamed.class_names) == (True, ("background", "class_1"))
    assert unnamed.notes == ("config.json names no class; it is called class_1",)


def test_half_precision_is_smaller_and_widened_when_read(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_checkpoint(checkpoint, str(tmp_path / "full"))
    write_checkpoint(checkpoint, str(tmp_path / "half"), half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.65 * sizes[0]
    half = read_checkpoint(str(tmp_path / "half"))
    dtypes = {name: t.dtype for name, t in half.weights.items() if "num_batches" not in name}
    assert set(dtypes.values()) == {torch.float32}
    half_logits = logits(load_model(str(tmp_path / "half")))
    assert 0 < (half_logits - logits(load_model(str(tmp_path / "full")))).abs().max() < 0.02
    hf_model = SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "half", dtype=torch.float32
    )
    torch.testing.assert_close(half_logits, logits(hf_model), atol=1e-5, rtol=0)


def test_new_key_names_pickles_and_shards_give_the_same_model(folder: Path, tmp_path: Path) -> None:
    expected = logits(load_model(str(folder)))
    hf_model = SegformerForSemanticSegmentation.from_pretrained(folder)
    new_names = {name: t.contiguous() for name, t in hf_model.state_dict().items()}
    assert any(name.startswith("segformer.stages.") for name in new_names)
    old_names = safetensors.torch.load_file(folder / "model.safetensors")
    assert any(name.startswith("segformer.encoder.block.") for name in old_names)
    weights = folder / "model.safetensors"

    safetensors.torch.save_file(new_names, weights)
    assert torch.equal(logits(load_model(str(folder))), expected)

    weights.unlink()
    for names in (new_names, old_names):
        torch.save(names, folder / "pytorch_model.bin")
        assert torch.equal(logits(load_model(str(folder))), expected)

    (folder / "pytorch_model.bin").unlink()
    hf_model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(load_model(str(tmp_path / "sharded"))), expected)


def test_safetensors_are_preferred_to_pickles(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    load_model(str(folder))


def test_num_batches_tracked_may_be_absent(folder: Path) -> None:
    expected = logits(load_model(str(folder)))
    edit_weights(folder, lambda t: t.pop("decode_head.batch_norm.num_batches_tracked"))
    assert torch.equal(logits(load_model(str(folder))), expected)


def test_a_checkpoint_may_be_at_any_fsspec_url(checkpoint: Checkpoint, folder: Path) -> None:
    url = "memory://bucket/checkpoint"
    write_checkpoint(checkpoint, url)
    assert torch.equal(logits(load_model(url)), logits(load_model(str(folder))))
    assert torch.equal(logits(load_model(f"file://{folder}/")), logits(load_model(url)))
    assert checkpoint_sha256(url) == checkpoint_sha256(str(folder))
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    state = torch.get_rng_state()
    load_model(str(folder))
    assert torch.equal(torch.get_rng_state(), state)


def test_sha256_follows_every_file_that_counts(folder: Path) -> None:
    digests = {checkpoint_sha256(str(folder))}
    (folder / "README.md").write_text("does not count")
    assert checkpoint_sha256(str(folder)) in digests
    edit_json(folder / "config.json", id2label={"0": "sea", "1": "land", "2": "lake"})
    digests.add(checkpoint_sha256(str(folder)))
    edit_json(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    digests.add(checkpoint_sha256(str(folder)))
    edit_weights(folder, lambda t: t["decode_head.classifier.bias"].add_(1))
    digests.add(checkpoint_sha256(str(folder)))
    (folder / "preprocessor_config.json").unlink()
    digests.add(checkpoint_sha256(str(folder)))
    assert len(digests) == 5
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint_sha256(str(folder / "elsewhere"))


def test_a_checkpoint_carries_the_sha256_of_the_bytes_it_was_read_from(
    checkpoint: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    assert checkpoint.sha256 == ""
    digests = set()
    for path in (folder, folder / "model.safetensors"):
        digests.add(read_checkpoint(str(path)).sha256)
        assert checkpoint_sha256(str(path)) in digests
    assert len(digests) == 2
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for file in folder.iterdir():
        (renamed / file.name.replace("model.", "other.")).write_bytes(file.read_bytes())
    assert read_checkpoint(str(renamed / "other.safetensors")).sha256 in digests


# --- what is refused ---------------------------------------------------------------------------


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    assert "does not exist; give a folder with config.json" in refusal(tmp_path / "none")
    assert "is no checkpoint; give a folder with config.json" in refusal(folder / "config.json")
    (folder / "model.safetensors").unlink()
    assert "has no weights: none of model.safetensors," in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json; give a checkpoint folder" in refusal(folder)
    (folder / "epoch_9.pth").write_bytes(b"")
    assert "has no config.json; give one of its files, e.g. epoch_9.pth" in refusal(folder)
    assert "unknownfs" in refusal("unknownfs://bucket/checkpoint")


def test_other_models_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", architectures=["SegformerForImageClassification"])
    assert "has no segmentation head" in refusal(folder)
    edit_json(folder / "config.json", model_type="upernet")
    assert "model_type is 'upernet', not 'segformer'" in refusal(folder)
    (folder / "config.json").write_text("[1]")
    assert "config.json is not a JSON object" in refusal(folder)
    (folder / "config.json").write_text('{"model_type"')
    assert "config.json is not JSON" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not supported; supported are gelu"),
        ({"depths": [1, 1, 1]}, "num_encoder_blocks 4 contradicts depths [1, 1, 1]"),
        ({"depths": "many"}, "a value is not what it should be"),
        ({"sr_ratios": None}, "a value is not what it should be"),
        ({"num_encoder_blocks": "x"}, "a value is not what it should be"),
        ({"hidden_act": ["gelu"]}, "is not supported"),
        ({"num_labels": 2}, "id2label names class ids 0 to 2, but num_labels is 2"),
        ({"class_colors": ["1F77B4"]}, "3 classes but 1 class_colors"),
        ({"class_colors": ["blue", None, None]}, "class_colors has 'BLUE'; write RRGGBB"),
    ],
)
def test_bad_configs_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(folder / "config.json", **changes)
    assert message in refusal(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for size in (0, 5, 300, len(data) - 1):
        path.write_bytes(data[:size])
        message = refusal(folder)
        assert (
            f"model.safetensors: is truncated or damaged, or no file of weights ({size} " in message
        )
        assert "fetch it again" in message
    path.unlink()
    torch.save({"a": torch.ones(100)}, folder / "pytorch_model.bin")
    data = (folder / "pytorch_model.bin").read_bytes()
    for size in (0, 5, len(data) // 2):
        (folder / "pytorch_model.bin").write_bytes(data[:size])
        assert "pytorch_model.bin: " in refusal(folder)


class _Bomb:
    exploded = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (_explode, ())


def _explode() -> None:
    _Bomb.exploded = True


def test_code_in_a_pickle_is_refused_and_not_run(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Bomb()}, folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "test_segformer_checkpoint._explode', which is code and is not executed" in message
    assert not _Bomb.exploded
    torch.save([torch.ones(3)], folder / "pytorch_model.bin")
    assert "is not a state dict" in refusal(folder)


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({"decode_head.extra.weight": torch.ones(2)}))
    assert "has the unexpected 1 key decode_head.extra.weight" in refusal(folder)
    edit_weights(folder, lambda t: t.pop("decode_head.extra.weight"))
    load_model(str(folder))
    edit_weights(folder, lambda t: t.pop("segformer.encoder.block.2.0.attention.self.sr.bias"))
    message = refusal(folder)
    assert "lacks 1 key segformer.encoder.block.2.0.attention.self.sr.bias;" in message


def test_missing_keys_are_named_as_in_the_file(folder: Path) -> None:
    hf_weights = SegformerForSemanticSegmentation.from_pretrained(folder).state_dict()
    del hf_weights["segformer.stages.2.blocks.0.attention.q_proj.weight"]
    tensors = {name: t.contiguous() for name, t in hf_weights.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    assert "segformer.stages.2.blocks.0.attention.q_proj.weight" in refusal(folder)


def test_another_number_of_classes_is_explained(folder: Path) -> None:
    edit_json(folder / "config.json", id2label={"0": "a", "1": "b"}, class_colors=...)
    message = refusal(folder)
    assert (
        "decode_head.classifier.weight has the shape [3, 16, 1, 1], but config.json asks for"
        in (message)
    )
    assert "[2, 16, 1, 1]" in message
    assert "(id2label has 2 classes, the weights 3)" in message


def test_non_finite_and_quantized_weights_are_refused(folder: Path) -> None:
    edit_weights(folder, lambda t: t["decode_head.classifier.bias"].fill_(float("nan")))
    assert "3 of 3 weights are not finite" in refusal(folder)
    name = "decode_head.linear_fuse.weight"
    edit_weights(folder, lambda t: t.update({name: t[name].to(torch.int8)}))
    assert "torch.int8, but quantized weights are not supported" in refusal(folder)


def test_an_index_cannot_lead_out_of_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names ../outside.safetensors, which is not there" in refusal(folder)


def test_messages_show_no_credentials() -> None:
    url = "https://user:secret@host:9000/bucket/folder?X-Amz-Signature=secret"
    assert without_credentials(url) == "https://host:9000/bucket/folder"
    assert without_credentials("/a/b?c@d") == "/a/b?c@d"


# --- classes and notes -------------------------------------------------------------------------


def test_missing_class_names_become_class_k_with_a_note() -> None:
    kind = {"model_type": "segformer"}
    config = ModelConfig.from_json({**kind, "id2label": {"0": "sea", "3": "ice", "1": ""}})
    assert config.class_names == ("sea", "class_1", "class_2", "ice")
    assert config.notes == (
        "config.json names 2 of 4 classes; the others are called class_1 to class_2",
    )
    assert ModelConfig.from_json({**kind, "num_labels": 3}).num_labels == 3
    assert ModelConfig.from_json(kind).num_labels == 2
    named = ModelConfig.from_json({**kind, "id2label": {"0": "a", "1": "b"}})
    assert (named.class_names, named.notes) == (("a", "b"), ())
    assert named.class_colors == (None, None)


def test_class_colors_are_written_as_rrggbb() -> None:
    fields = {"model_type": "segformer", "class_colors": ["#1f77b4", None]}
    assert ModelConfig.from_json(fields).class_colors == ("1F77B4", None)


def test_a_resize_that_is_ignored_and_a_missing_preprocessor_are_noted(folder: Path) -> None:
    assert load_model(str(folder)).config.notes == ()
    size = {"height": 512, "width": 640}
    edit_json(folder / "preprocessor_config.json", do_resize=True, size=size)
    (note,) = load_model(str(folder)).config.notes
    assert note.startswith("preprocessor_config.json resizes images to 512 x 640; Swath does not")
    (folder / "preprocessor_config.json").unlink()
    model = load_model(str(folder))
    assert model.normalisation == Normalisation.default(3)
    (note,) = model.config.notes
    assert "no preprocessor_config.json" in note
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in note
