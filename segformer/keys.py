"""The names of the weights in a checkpoint, as one table, and the check that they fit.

Knows names and shapes; knows no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from segformer.errors import CheckpointError

_OLD, _NEW = "segformer.encoder.block.{s}.{j}", "segformer.stages.{s}.blocks.{j}"
_NEW_SR = f"{_NEW}.attention.sequence_reduction"
TABLE: tuple[tuple[str, str, str], ...] = (
    # ours, transformers' files (and modules up to 4), transformers' modules from 5 on
    (
        "stages.{s}.embedding.proj",
        "segformer.encoder.patch_embeddings.{s}.proj",
        "segformer.stages.{s}.patch_embeddings.proj",
    ),
    (
        "stages.{s}.embedding.norm",
        "segformer.encoder.patch_embeddings.{s}.layer_norm",
        "segformer.stages.{s}.patch_embeddings.layer_norm",
    ),
    ("stages.{s}.blocks.{j}.norm1", f"{_OLD}.layer_norm_1", f"{_NEW}.layernorm_before"),
    (
        "stages.{s}.blocks.{j}.attention.query",
        f"{_OLD}.attention.self.query",
        f"{_NEW}.attention.q_proj",
    ),
    (
        "stages.{s}.blocks.{j}.attention.key",
        f"{_OLD}.attention.self.key",
        f"{_NEW}.attention.k_proj",
    ),
    (
        "stages.{s}.blocks.{j}.attention.value",
        f"{_OLD}.attention.self.value",
        f"{_NEW}.attention.v_proj",
    ),
    (
        "stages.{s}.blocks.{j}.attention.reduction",
        f"{_OLD}.attention.self.sr",
        f"{_NEW_SR}.sequence_reduction",
    ),
    (
        "stages.{s}.blocks.{j}.attention.reduction_norm",
        f"{_OLD}.attention.self.layer_norm",
        f"{_NEW_SR}.layer_norm",
    ),
    (
        "stages.{s}.blocks.{j}.attention.out",
        f"{_OLD}.attention.output.dense",
        f"{_NEW}.attention.o_proj",
    ),
    ("stages.{s}.blocks.{j}.norm2", f"{_OLD}.layer_norm_2", f"{_NEW}.layernorm_after"),
    ("stages.{s}.blocks.{j}.ffn.expand", f"{_OLD}.mlp.dense1", f"{_NEW}.mlp.fc1"),
    (
        "stages.{s}.blocks.{j}.ffn.depthwise",
        f"{_OLD}.mlp.dwconv.dwconv",
        f"{_NEW}.mlp.dwconv.dwconv",
    ),
    ("stages.{s}.blocks.{j}.ffn.contract", f"{_OLD}.mlp.dense2", f"{_NEW}.mlp.fc2"),
    ("stages.{s}.norm", "segformer.encoder.layer_norm.{s}", "segformer.stages.{s}.layer_norm"),
    ("head.linear.{s}", "decode_head.linear_c.{s}.proj", "decode_head.linear_projections.{s}.proj"),
    ("head.fuse", "decode_head.linear_fuse", "decode_head.linear_fuse"),
    ("head.batch_norm", "decode_head.batch_norm", "decode_head.batch_norm"),
    ("head.classifier", "decode_head.classifier", "decode_head.classifier"),
)
_LEAVES = "weight|bias|running_mean|running_var|num_batches_tracked"
_OPTIONAL_LEAF = ".num_batches_tracked"
"""Counts training steps; not used, and absent from some files."""
_NAMES_SHOWN = 3


def _row_pattern(ours: str) -> re.Pattern[str]:
    pattern = re.escape(ours).replace(r"\{s\}", r"(?P<s>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
    return re.compile(rf"{pattern}\.(?P<leaf>{_LEAVES})")


_ROWS = tuple((_row_pattern(ours), old, new) for ours, old, new in TABLE)


def transformers_names(ours: str) -> tuple[str, str]:
    """The old and the new name in transformers of one of our weights."""
    for pattern, old, new in _ROWS:
        if match := pattern.fullmatch(ours):
            fields = match.groupdict()
            leaf = fields.pop("leaf")
            return f"{old.format(**fields)}.{leaf}", f"{new.format(**fields)}.{leaf}"
    raise KeyError(ours)


def to_transformers(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under transformers' old names, which every version of it reads."""
    return {transformers_names(name)[0]: tensor for name, tensor in ours.items()}


def from_transformers(
    theirs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights under our names, complete and of the shapes of `expected` (our own state dict).

    Raises CheckpointError that names what is missing, unexpected or of another shape.
    """
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    new_style = any(name.startswith("segformer.stages.") for name in theirs)
    for ours, like in expected.items():
        names = transformers_names(ours)
        present = [name for name in dict.fromkeys(names) if name in theirs]
        if not present:
            if ours.endswith(_OPTIONAL_LEAF):
                found[ours] = like.new_zeros((), device="cpu")
            else:
                missing.append(names[new_style])
            continue
        # A file with both names of one weight leaves the second unused: reported as unexpected.
        used.add(present[0])
        found[ours] = theirs[present[0]]
        if found[ours].shape != like.shape:
            raise CheckpointError(
                f"{present[0]} has the shape {list(found[ours].shape)}, but config.json asks for"
                f" {list(like.shape)}; the weights belong to another config.json"
                + _hint(ours, found[ours], like)
            )
    unexpected = [name for name in theirs if name not in used]
    if missing or unexpected:
        lacks = f"lacks {_listed(missing)}" if missing else ""
        has = f"has the unexpected {_listed(unexpected)}" if unexpected else ""
        raise CheckpointError(
            f"the file {' and '.join(filter(None, (lacks, has)))};"
            " the weights belong to another config.json or another kind of network"
        )
    return found


def _hint(ours: str, tensor: Tensor, like: Tensor) -> str:
    if ours.startswith("head.classifier"):
        return f" (id2label has {like.shape[0]} classes, the weights {tensor.shape[0]})"
    return ""


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} key{'s' if len(names) > 1 else ''} {shown}{more}"
