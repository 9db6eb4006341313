"""The shapes of the weights that a network of given sizes has, by our names.

Knows names and shapes; knows no file and no tensor. Linear weights are (out, in); the fusion and
the classifier of the head are 1x1 convolutions (out, in, 1, 1), as in transformers.
"""

from __future__ import annotations

from segformer.checkpoints.layouts import UNUSED_COUNT
from segformer.config import ModelConfig


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of a network of these sizes, by our names."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels, size = config.num_channels, config.decoder_hidden_size
    for s, width in enumerate(config.hidden_sizes):
        stage, kernel = f"stages.{s}", config.patch_sizes[s]
        _add(shapes, f"{stage}.embedding.proj", (width, channels, kernel, kernel))
        _add(shapes, f"{stage}.embedding.norm", (width,))
        for j in range(config.depths[s]):
            shapes |= _block_shapes(f"{stage}.blocks.{j}", config, s)
        _add(shapes, f"{stage}.norm", (width,))
        if config.head == "mlp":
            _add(shapes, f"head.linear.{s}", (size, width))
        else:
            shapes[f"head.convs.{s}.weight"] = (size, width)
            _add_batch_norm(shapes, f"head.norms.{s}", size)
        channels = width
    shapes["head.fuse.weight"] = (size, size * len(config.depths), 1, 1)
    _add_batch_norm(shapes, "head.batch_norm", size)
    _add(shapes, "head.classifier", (config.num_labels, size, 1, 1))
    return shapes


def _block_shapes(block: str, config: ModelConfig, s: int) -> dict[str, tuple[int, ...]]:
    width, ratio = config.hidden_sizes[s], config.sr_ratios[s]
    hidden = int(width * config.mlp_ratios[s])
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("query", "key", "value", "out"):
        _add(shapes, f"{block}.attention.{name}", (width, width))
    if ratio > 1:
        _add(shapes, f"{block}.attention.reduction", (width, width, ratio, ratio))
        _add(shapes, f"{block}.attention.reduction_norm", (width,))
    _add(shapes, f"{block}.norm1", (width,))
    _add(shapes, f"{block}.norm2", (width,))
    _add(shapes, f"{block}.ffn.expand", (hidden, width))
    _add(shapes, f"{block}.ffn.depthwise", (hidden, 1, 3, 3))
    _add(shapes, f"{block}.ffn.contract", (width, hidden))
    return shapes


def _add(shapes: dict[str, tuple[int, ...]], name: str, shape: tuple[int, ...]) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]


def _add_batch_norm(shapes: dict[str, tuple[int, ...]], name: str, size: int) -> None:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{name}.{leaf}"] = (size,)
    shapes[f"{name}.{UNUSED_COUNT}"] = ()
