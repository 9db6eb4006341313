"""Forms of weights: raw or averaged; adapters and quantized ones, which are told by their names.

What a refusal says of the latter. Knows names; knows no tensor and no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from segformer.errors import CheckpointError

RAW, EMA = WEIGHTS = ("raw", "ema")
"""The weights that can be asked for where a checkpoint holds both: as they were trained, or an
average of them, exponential or other."""
ADAPTER_CONFIG = "adapter_config.json"
"""The file that PEFT writes beside an adapter's weights."""
_ADAPTER = re.compile(
    r"(^|\.)(lora_\w+|hada_\w+|lokr_\w+|ia3_l|oft_\w+|boft_\w+|vera_\w+|base_layer"
    r"|modules_to_save)(\.|$)"
)
"""Parts of the names that PEFT gives adapters, and networks with adapters in them
(peft/utils/save_and_load.py, tuners/*/layer.py; Apache-2.0)."""
_QUANTIZED = {
    "bitsandbytes": r"\.(SCB|weight_format|(nested_)?absmax|(nested_)?quant_map)$|\.quant_state\.",
    "GPTQ or AWQ": r"\.(qweight|qzeros|g_idx)$",
    "compressed-tensors or FP8": r"\.(weight_(scale|scale_inv|packed|zero_point)|input_scale)$",
    "quanto": r"\.weight\._(data|scale|shift)$",
    "torch": r"\._packed_params|\.zero_point$",
}
"""Names that each program of quantization adds to those of the network."""


def check_names(names: Iterable[str]) -> None:
    """Raise CheckpointError if these are the names of an adapter or of quantized weights."""
    names = list(names)
    adapters = [name for name in names if _ADAPTER.search(name)]
    if adapters:
        raise CheckpointError(f"holds an adapter ({_shown(adapters)}){_MERGE}")
    for program, pattern in _QUANTIZED.items():
        if quantized := [name for name in names if re.search(pattern, name)]:
            raise CheckpointError(quantized_refusal(program, quantized))


def quantized_refusal(program: str, names: Iterable[str]) -> str:
    """Why quantized weights are refused, and what to do about it."""
    return (
        f"holds weights that {program} has quantized ({_shown(list(names))}), which are not"
        " supported; give the network as it was before, or model.dequantize() and"
        " save_pretrained(FOLDER)"
    )


def adapter_refusal(adapter_config: bytes) -> str:
    """Why a folder with this `adapter_config.json` is refused, and what to do about it."""
    try:
        fields = json.loads(adapter_config)
        kind, base = fields.get("peft_type"), fields.get("base_model_name_or_path")
    except (ValueError, AttributeError):
        kind = base = None
    of = f" for {str(base)[:100]!r}" if base else ""
    return f"holds an adapter ({kind or 'PEFT'}, {ADAPTER_CONFIG}){of}{_MERGE}"


_MERGE = (
    ", not a network of its own; load it with PEFT, merge it and give the result:"
    " model.merge_and_unload().save_pretrained(FOLDER)"
)


def _shown(names: list[str]) -> str:
    return f"{len(names)} key{'s' * (len(names) > 1)} such as {names[0]}"
