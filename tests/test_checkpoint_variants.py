"""Adapters, quantized weights, shards, weights that are not finite: read, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from segformer import CheckpointError, mit_config, read_checkpoint, write_checkpoint
from tests.support.foreign_checkpoints import (
    SMALL,
    Weights,
    random_checkpoint,
    small_weights,
    under,
)
from tests.support.saved_checkpoints import assert_same_weights, read, refusal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.ckpt"


def adapted(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """The weights as PEFT names them in a network with LoRA on its queries."""
    for name, tensor in weights.items():
        stem, _, leaf = name.rpartition(".")
        if stem.endswith("self.query"):
            yield f"base_model.model.{stem}.base_layer.{leaf}", tensor
            if leaf == "weight":
                rows, columns = tensor.shape
                yield f"base_model.model.{stem}.lora_A.default.weight", torch.ones(4, columns)
                yield f"base_model.model.{stem}.lora_B.default.weight", torch.ones(rows, 4)
        else:
            yield f"base_model.model.{name}", tensor


MERGE = "load it with PEFT, merge it and give the result: model.merge_and_unload().save_pretrained("


def test_adapters_are_refused_with_the_way_to_merge_them(tmp_path: Path, path: Path) -> None:
    whole = dict(adapted(small_weights("transformers")))
    for prefix in ("", "model."):
        message = refusal({"state_dict": under(prefix, whole)}, path)
        assert message.startswith("holds an adapter (16 keys such as ")
        assert MERGE in message
    folder = tmp_path / "adapter"
    folder.mkdir()
    alone = {name: tensor.contiguous() for name, tensor in whole.items() if "lora_" in name}
    safetensors.torch.save_file(alone, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds an adapter \(8 keys such as base_model"):
        read_checkpoint(str(folder / "adapter_model.safetensors"))
    fields = '{"peft_type": "LORA", "base_model_name_or_path": "nvidia/mit-b0"}'
    (folder / "adapter_config.json").write_text(fields)
    for _ in range(2):  # without config.json, and with the network that it belongs to
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(str(folder))
        assert str(caught.value).startswith(
            f"{folder} holds an adapter (LORA, adapter_config.json) for 'nvidia/mit-b0', not a"
        )
        assert MERGE in str(caught.value)
        write_checkpoint(random_checkpoint(mit_config("b0", 3, **SMALL)), str(folder))
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"holds an adapter \(PEFT, adapter_config.json\),"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("leaf", "program"),
    [
        ("SCB", "bitsandbytes"),
        ("weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("qweight", "GPTQ or AWQ"),
        ("weight_scale_inv", "compressed-tensors or FP8"),
        ("weight._scale", "quanto"),
        ("zero_point", "torch"),
    ],
)
def test_quantized_weights_are_refused_by_the_programs_name(
    leaf: str, program: str, path: Path
) -> None:
    weights = small_weights("transformers")
    name = next(name for name in weights if name.endswith("query.weight"))
    weights[name] = weights[name].to(torch.int8)
    extra = f"{name.removesuffix('weight')}{leaf}"
    message = refusal({**weights, extra: torch.ones(8)}, path)
    assert message == (
        f"holds weights that {program} has quantized (1 key such as {extra}), which are not"
        " supported; give the network as it was before, or model.dequantize() and"
        " save_pretrained(FOLDER)"
    )
    assert "query.weight is torch.int8, but quantized weights are not sup" in refusal(weights, path)


@pytest.mark.filterwarnings("ignore")  # torch's own quantization is on its way out
def test_tensors_that_torch_has_quantized_are_refused(path: Path) -> None:
    weights: dict[str, Any] = dict(small_weights("transformers"))
    name = next(name for name in weights if name.endswith("query.weight"))
    weights[name] = torch.quantize_per_tensor(weights[name], 0.1, 0, torch.qint8)
    assert f"that torch has quantized (1 key such as {name})" in refusal(weights, path)
    network = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)))
    state = {**small_weights("transformers"), **under("decode_head.extra.", network.state_dict())}
    assert "that torch has quantized (1 key such as decode_head.extra.0.z" in refusal(state, path)


def test_8_bit_floats_without_scales_are_widened(tmp_path: Path) -> None:
    weights = {n: t.contiguous() for n, t in small_weights("transformers").items()}
    name = next(name for name in weights if name.endswith("query.weight"))
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    safetensors.torch.save_file(weights, tmp_path / "m.safetensors")
    checkpoint = read_checkpoint(str(tmp_path / "m.safetensors"))
    ours = "stages.0.blocks.0.attention.query.weight"
    assert torch.equal(checkpoint.weights[ours], weights[name].float())


def test_shards_are_read_and_one_of_them_is_refused(tmp_path: Path) -> None:
    written = random_checkpoint(mit_config("b0", 3, **SMALL))
    write_checkpoint(written, str(tmp_path))
    whole = tmp_path / "model.safetensors"
    tensors = list(safetensors.torch.load_file(whole).items())
    whole.unlink()
    for stem, suffix, save in (
        ("model", "safetensors", safetensors.torch.save_file),
        ("pytorch_model", "bin", torch.save),
    ):
        names = [f"{stem}-0000{k}-of-00002.{suffix}" for k in (1, 2)]
        halves = dict(tensors[::2]), dict(tensors[1::2])
        for name, half in zip(names, halves, strict=True):
            save(half, tmp_path / name)
        index = {n: name for name, half in zip(names, halves, strict=True) for n in half}
        text = str({"weight_map": index}).replace("'", '"')
        (tmp_path / f"{stem}.{suffix}.index.json").write_text(text)
        assert_same_weights(read_checkpoint(str(tmp_path)), written)
        with pytest.raises(CheckpointError, match="is part 2 of 2; give the folder of the parts"):
            read_checkpoint(str(tmp_path / names[1]))
        (tmp_path / f"{stem}.{suffix}.index.json").unlink()


def test_weights_that_are_not_finite_are_refused_only_if_they_are_used(path: Path) -> None:
    weights = small_weights("nvlabs")
    unused = {"criterion.weight": torch.full((3,), float("nan"))}
    read({**weights, **unused}, path)
    bias = weights["decode_head.linear_pred.bias"]
    for value, count in ((float("nan"), 1), (float("inf"), 2)):
        bias[count - 1] = value
        message = refusal({**weights, **unused}, path)
        assert f"head.classifier.bias: {count} of 3 weights are not finite" in message
    bias.zero_()
    weights["decode_head.linear_fuse.bn.running_var"][0] = -1.0
    assert "running_var is negative, which no variance is" in refusal(weights, path)


def test_claims_of_many_tensors_on_one_storage_take_no_memory(path: Path) -> None:
    """A file of 1 MB whose network claims a hundred times as much."""
    storage = torch.ones(2**18)
    weights = {name: storage.view(512, 512) for name in small_weights("transformers")}
    assert "claims tensors of " in refusal(weights, path)
