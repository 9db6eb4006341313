"""The arithmetic that a window takes: of the network as it is run, from its sizes alone.

Counts the layers of `network` (Xie et al. 2021, arXiv 2105.15203) as `folding` leaves them. Knows
numbers; knows no tensor.
"""

from __future__ import annotations

from segformer.config import ModelConfig


def gflop_per_window(config: ModelConfig, window_px: int) -> float:
    """2 x multiply-accumulates of the folded network on one square window, in GFLOP.

    Counts convolutions, linear layers and the two products of attention; not the norms, activations
    and upsampling, whose share is a few per cent and limited by memory bandwidth.
    """
    mac = 0
    channels, edge_px = config.num_channels, window_px
    for s, width in enumerate(config.hidden_sizes):
        kernel = config.patch_sizes[s]
        edge_px = (edge_px + 2 * (kernel // 2) - kernel) // config.strides[s] + 1
        mac += edge_px**2 * kernel**2 * channels * width
        mac += config.depths[s] * _block(config, s, edge_px)
        mac += edge_px**2 * _head(config, s)
        channels = width
    return 2 * mac / 1e9


def _block(config: ModelConfig, s: int, edge_px: int) -> int:
    """Multiply-accumulates of one transformer block of stage s."""
    width, ratio = config.hidden_sizes[s], config.sr_ratios[s]
    tokens, reduced = edge_px**2, (edge_px // ratio) ** 2
    hidden = int(width * config.mlp_ratios[s])
    # With one head the values carry the output projection.
    projections = tokens if config.num_attention_heads[s] == 1 else 2 * tokens
    attention = (projections + 2 * reduced) * width**2 + 2 * tokens * reduced * width
    reduction = reduced * ratio**2 * width**2 if ratio > 1 else 0
    mix_ffn = 2 * tokens * width * hidden + tokens * hidden * 9
    return attention + reduction + mix_ffn


def _head(config: ModelConfig, s: int) -> int:
    """Multiply-accumulates of the head per token of scale s: its projection, and on the finest
    scale the classifier."""
    size = config.decoder_hidden_size
    projection = config.hidden_sizes[s] * size
    if config.head == "conv":  # a ReLU separates it from the fusion
        projection += size**2
    return projection + (size * config.num_labels if s == 0 else 0)
