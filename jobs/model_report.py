"""What `swath model inspect` says of a checkpoint, as JSON and as text. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs import text

if TYPE_CHECKING:
    from segformer import Checkpoint
    from segformer.checkpoints.hub.card import Card


def describe(path: str, checkpoint: Checkpoint, card: Card, window_px: int) -> dict[str, Any]:
    """The facts that `inspect` prints, as JSON."""
    from segformer.flops import gflop_per_window  # noqa: PLC0415
    from segformer.presets import size_name  # noqa: PLC0415

    config, norm = checkpoint.config, checkpoint.normalisation
    eps = config.norm_eps
    classes = zip(config.class_names, config.class_colors, strict=True)
    return {
        "checkpoint": path,
        "license": card.license,
        "card": card.words,
        "origin": checkpoint.origin,
        "size": size_name(config),
        "depths": config.depths,
        "hidden_sizes": config.hidden_sizes,
        "num_attention_heads": config.num_attention_heads,
        "sr_ratios": config.sr_ratios,
        "decoder_hidden_size": config.decoder_hidden_size,
        "parameters": sum(t.numel() for n, t in checkpoint.weights.items() if is_trained(n)),
        "channels": config.num_channels,
        "head": config.head,
        "align_corners": config.align_corners,
        "sigmoid": config.sigmoid,
        "layer_norm_eps": {
            "block": eps.block,
            "reduction": eps.reduction,
            "embedding": eps.embedding,
        },
        "normalisation": {
            "rescale": norm.rescale,
            "mean": norm.mean,
            "std": norm.std,
            "from": norm.sources._asdict(),
        },
        "window": window_px,
        "gflop_per_window": round(gflop_per_window(config, window_px), 3),
        "classes": [
            {"class_id": k, "name": name, "color": color} for k, (name, color) in enumerate(classes)
        ],
        "notes": config.notes,
    }


def is_trained(name: str) -> bool:
    """Whether a weight is a parameter, not a statistic of a batch norm."""
    return name.endswith((".weight", ".bias"))


def render(facts: dict[str, Any]) -> str:
    """The facts as lines of text."""
    eps, norm = facts["layer_norm_eps"], facts["normalisation"]
    head = {"mlp": "all-MLP", "conv": "mmsegmentation's (batch norm and ReLU per scale)"}
    corners = ", upsampled with align_corners" if facts["align_corners"] else ""
    lines = [
        ("checkpoint", facts["checkpoint"]),
        ("origin", facts["origin"]),
        ("size", f"{facts['size']}, {facts['parameters'] / 1e6:,.1f} million parameters"),
        ("stages", f"depths {_row(facts['depths'])}, widths {_row(facts['hidden_sizes'])}"),
        ("head", f"{head[facts['head']]}, width {facts['decoder_hidden_size']}{corners}"),
        ("channels", f"{facts['channels']}"),
        (
            "input",
            f"(value * {norm['rescale']:.6g} - mean) / std, mean {_row(norm['mean'])},"
            f" std {_row(norm['std'])}",
        ),
        ("input from", _sources(norm["from"])),
        (
            "norm eps",
            f"{eps['block']:g} in blocks, {eps['reduction']:g} in reductions,"
            f" {eps['embedding']:g} in embeddings",
        ),
        ("work", f"{facts['gflop_per_window']:,.1f} GFLOP per window of {facts['window']} px"),
        ("classes", _classes(facts)),
    ]
    lines[1:1] = [(name, facts[name]) for name in ("license", "card") if facts[name]]
    listed = [
        f"  {each['class_id']:>3}  {each['color'] or '-':<6}  {each['name']}"
        for each in facts["classes"]
    ]
    notes = [f"note: {note}" for note in facts["notes"]]
    return "\n".join([text.aligned(lines), *listed, *notes])


def _sources(sources: Mapping[str, str]) -> str:
    """Where each number of the normalization comes from; once, if it is one place for all."""
    if len(set(sources.values())) == 1:
        return sources["mean"]
    return ", ".join(f"{name}: {source}" for name, source in sources.items())


def _classes(facts: dict[str, Any]) -> str:
    count = f"{len(facts['classes'])}"
    return f"{count}, distinguished by one logit (sigmoid)" if facts["sigmoid"] else count


def _row(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in numbers)
