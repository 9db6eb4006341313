"""What training leaves beside a network in its checkpoint: left out, and noted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segformer import read_checkpoint
from tests.support.commands import Swath
from tests.support.foreign_checkpoints import NAMED, Weights, small_weights, under
from tests.support.saved_checkpoints import assert_same_weights, read, refusal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.ckpt"


LEFTOVERS: dict[str, tuple[Weights, str]] = {
    "class weights": (
        {"criterion.weight": torch.ones(3)},
        "1 key is not the network's and not used: criterion.weight",
    ),
    "a loss with a kernel": (
        {"loss_fn.edges.kernel": torch.ones(1, 1, 3, 3)},
        "1 key is not the network's and not used: loss_fn.edges.kernel",
    ),
    "metrics": (
        {
            "val_metrics.iou.confmat": torch.zeros(3, 3, dtype=torch.int64),
            "val_metrics.f1.tp": torch.zeros(3, dtype=torch.int64),
            "train_loss.value": torch.tensor(0.25),
        },
        "3 keys are not the network's and not used: val_metrics (2 keys), train_loss.value",
    ),
    "an auxiliary head": (
        {"aux_head.conv.weight": torch.ones(3, 8, 1, 1), "aux_head.conv.bias": torch.ones(3)},
        "2 keys are not the network's and not used: aux_head (2 keys)",
    ),
    "a counter": (
        {"n_averaged": torch.tensor(7)},
        "1 key is not the network's and not used: n_averaged",
    ),
}


@pytest.mark.parametrize("kind", list(LEFTOVERS))
def test_what_only_training_needs_is_left_out_and_noted(kind: str, path: Path) -> None:
    weights = small_weights("nvlabs")
    expected = read(weights, path)
    extra, note = LEFTOVERS[kind]
    for prefix, file in (
        ("", {**weights, **extra}),
        ("", {**extra, **under("model.", weights)}),
        ("model.", {**under("model.", {**weights, **extra})}),
    ):
        checkpoint = read({"state_dict": file}, path)
        assert_same_weights(checkpoint, expected)
        (added,) = set(checkpoint.config.notes) - set(expected.config.notes)
        for group in {name.partition(".")[0] for name in extra}:
            added = added.replace(f"{prefix}{group}", group)
        assert added == note


@pytest.mark.parametrize("origin", list(NAMED))
@pytest.mark.parametrize("prefix", ["", "module.", "model.net.", "model._orig_mod."])
def test_it_is_left_out_wherever_the_network_is(prefix: str, origin: str, path: Path) -> None:
    weights = small_weights(origin)
    state = {"criterion.weight": torch.ones(3), **under(prefix, weights)}
    checkpoint = read({"state_dict": state}, path)
    assert "1 key is not the network's and not used: criterion.weight" in checkpoint.config.notes
    assert_same_weights(checkpoint, read(weights, path))


def test_a_criterion_inside_the_head_is_left_out(path: Path) -> None:
    weights = small_weights("transformers")
    extra = {"decode_head.loss_decode.weight": torch.ones(3), "segformer.ema": torch.tensor(1)}
    notes = read({**weights, **extra}, path).config.notes
    assert (
        "2 keys are not the network's and not used: decode_head.loss_decode.weight, segformer.ema"
    ) in notes


def test_an_old_ema_hooks_buffers_are_left_out(path: Path) -> None:
    """mmcv 1.x keeps them beside the weights, with underscores for dots."""
    weights = small_weights("nvlabs")
    buffers = {f"ema_{name.replace('.', '_')}": tensor for name, tensor in weights.items()}
    checkpoint = read({"state_dict": {**weights, **buffers}}, path)
    assert_same_weights(checkpoint, read(weights, path.with_name("plain.pth")))
    (note,) = [note for note in checkpoint.config.notes if "not used" in note]
    assert note.startswith(f"{len(buffers)} keys are not the network's and not used: ema_backbone_")
    assert note.endswith(f" and {len(buffers) - 5} more groups")


@pytest.mark.parametrize("prefix", ["", "model."])
def test_layers_of_unknown_use_inside_the_network_are_refused(prefix: str, path: Path) -> None:
    """Whoever leaves out a neck segments with another network."""
    weights = under(prefix, small_weights("nvlabs"))
    for extra in (
        {"neck.conv.weight": torch.ones(8, 8, 1, 1), "neck.count": torch.tensor(1)},
        {"input_norm.running_mean": torch.ones(3)},
        {"decode_head.attention": torch.ones(8)},
        {"backbone.pos_embed": torch.ones(2)},
    ):
        message = refusal({**weights, **under(prefix, extra)}, path)
        assert f"has the unexpected {len(extra)} key" in message
        assert f" {prefix}{next(iter(extra))}" in message
        assert "or another kind of network" in message


def test_layers_of_unknown_use_outside_the_network_are_noted(path: Path) -> None:
    weights = under("model.", small_weights("transformers"))
    adapter = {"to_rgb.weight": torch.ones(3, 13, 1, 1), "to_rgb.bias": torch.ones(3)}
    notes = read({"state_dict": {**adapter, **weights}}, path).config.notes
    assert "2 keys are not the network's and not used: to_rgb (2 keys)" in notes
    assert (
        "layers beside the network (to_rgb): if pixels or logits passed through them in training,"
        " the masks are wrong"
    ) in notes


@pytest.mark.parametrize("prefix", ["", "model."])
def test_numbers_of_a_normalisation_in_the_file_are_noted(prefix: str, path: Path) -> None:
    weights = under("model.", small_weights("transformers"))
    own = under(prefix, {f"pixel_{n}": torch.ones(1, 3, 1, 1) for n in ("mean", "std")})
    notes = read({**weights, **own}, path).config.notes
    assert (
        f"the file has numbers for normalizing of its own ({prefix}pixel_mean, {prefix}pixel_std):"
        " check that they agree with the normalization that is used"
    ) in notes


def test_names_in_which_torch_compile_has_put_parts_are_read(path: Path) -> None:
    weights = small_weights("transformers")
    inner = {name.replace("encoder.", "encoder._orig_mod."): t for name, t in weights.items()}
    assert inner.keys().isdisjoint(name for name in weights if "encoder." in name)
    assert_same_weights(read(inner, path), read(weights, path.with_name("plain.pth")))


def test_inspect_and_convert_print_the_notes(swath: Swath, tmp_path: Path, path: Path) -> None:
    weights = small_weights("transformers")
    state = {
        **under("model.", weights),
        **under("ema_model.module.", small_weights("transformers", seed=2)),
        "criterion.weight": torch.ones(3),
    }
    torch.save({"state_dict": state}, path)
    notes = [
        f"note: the file also holds an average of the weights (EMA) under ema_model.module."
        f" ({len(weights)} keys); the raw ones under model. are used: --weights ema takes the"
        " average",
        "note: 1 key is not the network's and not used: criterion.weight",
    ]
    code, out, _ = swath("model", "inspect", path)
    assert code == 0
    assert set(notes) <= set(out.splitlines())
    code, _, err = swath("model", "convert", path, "--to", tmp_path / "folder")
    assert code == 0
    assert set(notes) <= set(err.splitlines())
    converted = read_checkpoint(str(tmp_path / "folder"))
    assert_same_weights(converted, read_checkpoint(str(path)))
    assert not converted.config.notes
