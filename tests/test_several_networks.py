"""Checkpoints with more than one complete network: an average, a teacher, one under two names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from segformer.checkpoints.networks import choose_network, find_networks
from tests.support.foreign_checkpoints import NAMED, small_weights, under
from tests.support.saved_checkpoints import assert_same_weights, read, refusal


@pytest.fixture(params=list(NAMED))
def origin(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.ckpt"


@pytest.mark.parametrize(
    "prefix",
    ["ema_model.module.", "model_ema.", "ema.", "averaged_model.module.", "swa_model.", "netEMA."],
)
def test_the_raw_network_is_taken_beside_its_average(prefix: str, origin: str, path: Path) -> None:
    weights, average = small_weights(origin), small_weights(origin, seed=2)
    state = {
        **under(prefix, average),
        **under("model.", weights),
        "ema_model.n_averaged": torch.tensor(3),
    }
    checkpoint = read({"state_dict": state}, path)
    assert_same_weights(checkpoint, read(weights, path))
    (note,) = [note for note in checkpoint.config.notes if "an average" in note]
    assert note == (
        f"the file also holds an average of the weights (EMA) under {prefix} ({len(average)} keys);"
        " the raw ones under model. are used: --weights ema takes the average"
    )
    alone = read({"state_dict": under(prefix, average)}, path)
    assert_same_weights(alone, read(average, path))
    assert (
        f"the weights are averages (EMA): the file has these alone, under {prefix}"
        in alone.config.notes
    )


def test_an_average_without_dots_is_left_out(path: Path) -> None:
    weights = under("model.", small_weights("transformers"))
    flat = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in weights.items()}
    flat["model_ema.decay"] = torch.tensor(0.999)
    notes = read({"state_dict": {**weights, **flat}}, path).config.notes
    assert (
        f"{len(flat)} keys are not the network's and not used: model_ema ({len(flat)} keys)"
        in notes
    )


@pytest.mark.parametrize("key", ["ema_state_dict", "model_ema", "state_dict_ema", "ema"])
def test_the_average_in_a_state_dict_of_its_own_is_noted(key: str, origin: str, path: Path) -> None:
    weights, average = small_weights(origin), small_weights(origin, seed=2)
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    beside = {key: {**under("module.", average), "steps": torch.tensor(8)}, "optimizer": optimizer}
    for wrapper in ("state_dict", "model"):
        checkpoint = read({wrapper: weights, **beside}, path)
        assert_same_weights(checkpoint, read(weights, path))
        (note,) = [note for note in checkpoint.config.notes if "EMA" in note]
        assert f"(EMA) under {key}.module. ({len(average)} keys); the raw ones without a" in note
        assert not any("not used" in note for note in checkpoint.config.notes)


def test_programs_that_keep_the_average_in_the_state_dict_are_noted(path: Path) -> None:
    """mmengine's EMAHook swaps the two when it saves, and Lightning's WeightAveraging, too."""
    weights, average = small_weights("mmsegmentation"), small_weights("mmsegmentation", seed=2)
    mmengine = {
        "meta": {"mmengine_version": "0.10.7"},
        "state_dict": average,
        "ema_state_dict": {**under("module.", weights), "steps": torch.tensor(8)},
    }
    lightning = {
        "state_dict": under("model.", average),
        "current_model_state": under("model.", weights),
        "averaging_state": {"n_averaged": torch.tensor(8)},
    }
    raw = {"mmengine": "ema_state_dict.module.", "lightning": "current_model_state.model."}
    kept = {"mmengine": "without a prefix", "lightning": "under model."}
    for name, file in (("mmengine", mmengine), ("lightning", lightning)):
        for chosen in (None, "ema"):
            checkpoint = read(file, path, weights=chosen)
            assert_same_weights(checkpoint, read(average, path))
            (note,) = [note for note in checkpoint.config.notes if "EMA" in note]
            assert note == (
                f"the weights are averages (EMA), those {kept[name]}; the raw ones under"
                f" {raw[name]} ({len(weights)} keys) are not used: --weights raw takes them"
            )
        checkpoint = read(file, path, weights="raw")
        assert_same_weights(checkpoint, read(weights, path))
        (note,) = [note for note in checkpoint.config.notes if "EMA" in note]
        assert note == (
            f"the file also holds an average of the weights (EMA) {kept[name]} ({len(average)}"
            f" keys); the raw ones under {raw[name]} are used: --weights ema takes the average"
        )


@pytest.mark.parametrize("key", ["", "ema_state_dict."])
def test_the_average_is_taken_when_it_is_asked_for(key: str, origin: str, path: Path) -> None:
    """Whether it is in the same state dict or in one of its own."""
    weights, average = small_weights(origin), small_weights(origin, seed=2)
    if key:
        file = {"state_dict": weights, "ema_state_dict": under("module.", average)}
    else:
        file = {"state_dict": {**under("model.", weights), **under("ema_model.module.", average)}}
    place = f"{key}module." if key else "ema_model.module."
    raw = "without a prefix" if key else "under model."
    for chosen, expected in ((None, weights), ("raw", weights), ("ema", average)):
        checkpoint = read(file, path, weights=chosen)
        assert_same_weights(checkpoint, read(expected, path))
    (note,) = [note for note in checkpoint.config.notes if "EMA" in note]
    assert note == (
        f"the weights are averages (EMA), those under {place}; the raw ones {raw} ({len(weights)}"
        " keys) are not used: --weights raw takes them"
    )


def test_weights_that_the_file_does_not_hold_are_refused(origin: str, path: Path) -> None:
    weights = small_weights(origin)
    assert refusal({"state_dict": weights}, path, weights="ema") == (
        "holds no average of the weights (EMA) that is a complete network; omit --weights ema, or"
        " give raw"
    )
    assert_same_weights(read(weights, path, weights="raw"), read(weights, path))
    assert refusal({"state_dict": under("ema.", weights)}, path, weights="raw") == (
        "holds averages of the weights (EMA) and no raw ones; omit --weights raw, or give ema"
    )
    with pytest.raises(ValueError, match="weights 'mean': choose one of raw, ema"):
        read(weights, path, weights="mean")


def test_a_state_dict_under_any_key_is_read(origin: str, path: Path) -> None:
    weights = small_weights(origin)
    for file in (
        {"net": weights, "epoch": 3},
        {"model": {"state_dict": under("module.", weights)}},
        {
            "model": "segformer",
            "network": {**under("model.", weights), "criterion.weight": torch.ones(3)},
        },
    ):
        checkpoint = read(file, path)
        assert_same_weights(checkpoint, read(weights, path))
    assert any("not used: network.criterion.weight" in n for n in checkpoint.config.notes)


def test_a_teacher_is_left_out_beside_the_network_that_it_taught(path: Path) -> None:
    weights, teacher = small_weights("transformers"), small_weights("nvlabs", seed=2)
    for prefix in ("teacher.", "model.teacher.", "teacher_model."):
        checkpoint = read({**under(prefix, teacher), **under("model.net.", weights)}, path)
        assert_same_weights(checkpoint, read(weights, path))
        assert (
            f"the file also holds a complete network under {prefix} ({len(teacher)} keys); the one"
            " under model.net. is used"
        ) in checkpoint.config.notes


@pytest.mark.parametrize("pair", [("student.", "teacher."), ("a.model.", "b."), ("", "second.")])
def test_two_networks_of_equal_right_are_refused(
    pair: tuple[str, str], origin: str, path: Path
) -> None:
    first, second = pair
    message = refusal(
        {**under(second, small_weights(origin, 2)), **under(first, small_weights(origin))}, path
    )
    places = re.fullmatch(
        r"holds 2 complete networks, under (.+) and (.+), and does not say which one to run; save"
        r" the state_dict\(\) of that one alone",
        message,
    )
    assert places
    assert set(places.groups()) == {first or "no prefix", second}


def test_one_network_under_two_names_is_one(origin: str, path: Path) -> None:
    """A module that is an attribute twice is in the state dict twice, its memory in the file once.

    The bytes that it claims are more than the file's then.
    """
    weights = small_weights(origin)
    state = {**under("model.", weights), **under("net.", weights)}
    checkpoint = read({"state_dict": state}, path)
    assert sum(t.numel() * t.element_size() for t in state.values()) > path.stat().st_size
    assert_same_weights(checkpoint, read(weights, path))
    state = under("model.", weights) | under("net.", {n: t.clone() for n, t in weights.items()})
    assert_same_weights(read({"state_dict": state}, path), checkpoint)


def test_ema_pytorchs_copies_are_told_apart(path: Path) -> None:
    weights, average = small_weights("transformers"), small_weights("transformers", seed=2)
    state = {
        **under("net.", weights),
        **under("ema.online_model.", weights),
        **under("ema.ema_model.", average),
        "ema.initted": torch.tensor(True),
        "ema.step": torch.tensor(7),
    }
    expected = read(weights, path)
    assert_same_weights(read({"state_dict": state}, path), expected)
    del state["net.decode_head.classifier.weight"]  # the copy in `ema` is complete
    checkpoint = read({"state_dict": state}, path)
    assert_same_weights(checkpoint, expected)
    assert any("the raw ones under ema.online_model." in note for note in checkpoint.config.notes)


def test_encoders_beside_the_network_are_no_networks(path: Path) -> None:
    weights = under("model.", small_weights("transformers"))
    encoder = {
        n: t for n, t in under("teacher.", small_weights("nvlabs")).items() if "backbone" in n
    }
    notes = read({"state_dict": {**encoder, **weights}}, path).config.notes
    count = len(encoder)
    assert f"{count} keys are not the network's and not used: teacher ({count} keys)" in notes


def test_the_networks_of_a_file_are_grouped_by_their_names() -> None:
    names = [f"{p}{n}" for p in ("ema.", "model.", "teacher.") for n in small_weights("nvlabs")]
    beside = [f"old.{name}" for name in small_weights("transformers")]
    networks = find_networks([*names, "criterion.weight"], beside)
    assert [(n.prefix, n.layout.origin, n.is_average, n.is_beside) for n in networks] == [
        ("ema.", "nvlabs", True, False),
        ("model.", "nvlabs", False, False),
        ("teacher.", "nvlabs", False, False),
        ("old.", "transformers", False, True),
    ]
    assert [name for network in networks for name in network.names] == [*names, *beside]
    assert choose_network(networks).prefix == "model."
    assert choose_network(networks[3:]).prefix == "old."
