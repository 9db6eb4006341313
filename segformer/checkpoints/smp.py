"""Models of segmentation_models_pytorch (smp): which of them a checkpoint holds, and what it says.

Only one of smp's models is a SegFormer: its Segformer with a MiT encoder, all four scales and the
default upsampling. The others are told by their names, and by what files state: the config.json of
smp's save_pretrained and the hyper_parameters that Lightning keeps. From smp 0.6 (MIT):
base/heads.py, decoders/*/decoder.py, encoders/. Knows names and plain values; knows no tensor and
no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from segformer.errors import CheckpointError

_MODEL_CLASS = "_model_class"
"""The key by which smp's config.json is told from transformers'."""
_SEGFORMER = "Segformer"
_DECODERS = {
    "Segformer": r"(mlp_stage|fuse_stage)\.",
    "UnetPlusPlus": r"blocks\.x_",
    "Linknet": r"blocks\.\d+\.block\.",
    "MAnet": r"center\.top_conv\.|blocks\.\d+\.hl_conv\.",
    "Unet": r"blocks\.\d+\.conv1\.|center\.",
    "FPN": r"p5\.",
    "DeepLabV3": r"aspp\.convs\.|0\.convs\.",
    "DeepLabV3Plus": r"aspp\.0\.",
    "PAN": r"fpa\.",
    "UPerNet": r"feature_norms\.|fpn_",
    "PSPNet": r"psp\.",
    "DPT": r"projection_blocks\.",
}
"""The beginning of names of each model's decoder, after `decoder.`; the first that fits counts."""
_MIT_KIND = "a MiT encoder"
_ENCODERS = {
    _MIT_KIND: r"patch_embed1\.",
    "an encoder of timm": r"model\.",
    "an encoder of the ResNet kind": r"layer1\.",
    "an EfficientNet as encoder": r"_conv_stem\.",
}
"""The same of encoders, after `encoder.`."""
_MIT = re.compile("mit_b[0-5]")
_REMEDY = (
    "Swath runs SegFormer only, which in smp is smp.Segformer with an encoder_name of mit_b0 to"
    " mit_b5: give such a checkpoint"
)
_REBUILD = "load these weights into a model with {}, smp's default, and save that"
_ACTIVATIONS = (
    "sigmoid",
    "softmax",
    "softmax2d",
    "logsoftmax",
    "tanh",
    "argmax",
    "argmax2d",
    "clamp",
)
"""smp's names of what would follow the upsampling."""


def parse_config(data: bytes | None) -> dict[str, Any] | None:
    """The config.json of smp's save_pretrained; None if it is another one, or none."""
    try:
        fields = json.loads(data or b"")
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and _MODEL_CLASS in fields else None


def check_config(fields: Mapping[str, Any]) -> None:
    """Raise CheckpointError if smp's config.json is of a model that is no SegFormer."""
    kind, encoder = fields[_MODEL_CLASS], fields.get("encoder_name")
    if kind != _SEGFORMER:
        raise CheckpointError(f"config.json is of smp's {kind}, not of its Segformer; {_REMEDY}")
    if not _MIT.fullmatch(str(encoder)):
        raise CheckpointError(
            f"config.json is of smp's Segformer with the encoder {encoder!r}; {_REMEDY}"
        )
    _check_options(fields, "config.json")


def check_hyper_parameters(values: Mapping[Any, Any]) -> None:
    """Raise CheckpointError if what Lightning keeps of a task's arguments says that the output of
    smp's Segformer is not what its weights alone would give."""
    for options in (values, *(value for value in values.values() if isinstance(value, dict))):
        # terratorch has smp's arguments as backbone_smp_upsampling and the like.
        plain = {str(key).rpartition("smp_")[2]: value for key, value in options.items()}
        _check_options(plain, "hyper_parameters")


def classes_of(hyper_parameters: Mapping[Any, Any]) -> dict[str, Any]:
    """The names of the classes among the arguments of a task of terratorch's or torchgeo's, as
    mmsegmentation's `meta` has them."""
    return {"CLASSES": hyper_parameters.get("class_names") or hyper_parameters.get("labels")}


def task_notes(hyper_parameters: Mapping[Any, Any], channels: int) -> tuple[str, ...]:
    """Notes on a task for which a mask is not the whole answer. channels: of the classifier."""
    if hyper_parameters.get("task") != "multilabel" or channels == 1:
        return ()
    return (
        "the network was trained for labels that may overlap (task multilabel): the mask holds the"
        " one with the highest logit",
    )


def refusal(names: Iterable[str], hyper_parameters: Mapping[Any, Any]) -> str | None:
    """Why the model of smp that has these names, which are not those of a whole SegFormer, is not
    run; None if they are not those of another model of smp."""
    names = list(names)
    heads = (re.match(r"((?:.*\.)?)segmentation_head\.", name) for name in names)
    for prefix in dict.fromkeys(match[1] for match in heads if match):
        encoder, decoder = (_below(names, f"{prefix}{part}.") for part in ("encoder", "decoder"))
        if encoder and decoder:
            return _refusal(encoder, decoder, hyper_parameters)
    return None


def _refusal(
    encoder: list[str], decoder: list[str], hyper_parameters: Mapping[Any, Any]
) -> str | None:
    """The same, from the names below `encoder.` and `decoder.`."""
    model = _first_kind(_DECODERS, decoder) or f"model with decoder.{decoder[0]}"
    kind = _first_kind(_ENCODERS, encoder) or f"an encoder with encoder.{encoder[0]}"
    stated = hyper_parameters.get("backbone") or hyper_parameters.get("encoder_name")
    what = f"holds smp's {model} with {kind}"
    what += f" ({stated[:60]})" if isinstance(stated, str) else ""
    if (model, kind) != (_SEGFORMER, _MIT_KIND):
        return f"{what}; {_REMEDY}"
    scales = len({name.split(".")[1] for name in decoder if name.startswith("mlp_stage.")})
    if scales == 4:  # something else is missing
        return None
    return (
        f"{what}, whose decoder has {scales} scales (mlp_stage) of 4; Swath runs it with an"
        " encoder_depth of 5, smp's default: train it so"
    )


def _check_options(options: Mapping[str, Any], place: str) -> None:
    """Raise CheckpointError for arguments of smp's Segformer by which it computes something else
    than its weights alone would give."""
    numbers = {name: value for name, value in options.items() if isinstance(value, int | float)}
    for name, expected in (("encoder_depth", 5), ("output_stride", 32)):
        if numbers.get(name, expected) != expected:
            raise CheckpointError(
                f"{place}: {name} is {options[name]!r}; Swath runs smp's Segformer with"
                f" {expected}, smp's default: train it so"
            )
    if numbers.get("upsampling", 4) != 4:
        raise CheckpointError(
            f"{place}: upsampling is {options['upsampling']!r}, so that its masks are of another"
            f" size than the image; {_REBUILD.format('upsampling=4')}"
        )
    if options.get("activation") in _ACTIVATIONS:
        raise CheckpointError(
            f"{place}: activation is {options['activation']!r}, but windows are averaged before"
            f" one; {_REBUILD.format('activation=None')}"
        )


def _below(names: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _first_kind(kinds: Mapping[str, str], names: Iterable[str]) -> str | None:
    names = list(names)
    found = (kind for kind, start in kinds.items() if any(re.match(start, n) for n in names))
    return next(found, None)
