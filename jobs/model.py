"""`swath model`: what a checkpoint holds, and its conversion to transformers' format.

Parses, calls, prints.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from jobs import options, text
from pipeline.errors import UsageError
from pipeline.storage.access import Access

if TYPE_CHECKING:
    from segformer import Checkpoint

path_arg = click.argument("path", metavar="PATH")


@click.group()
def model() -> None:
    """Inspect a SegFormer checkpoint, or convert it.

    PATH is a folder in the format of transformers or segmentation_models_pytorch, or one file of
    weights (.pth, .pt, .ckpt, .bin, .safetensors) as these, NVlabs' SegFormer or mmsegmentation
    write it; local or an fsspec URL. No code in a file is executed.
    """


@model.command()
@path_arg
@click.option(
    "--window",
    type=click.IntRange(min=32),
    default=512,
    show_default=True,
    metavar="PX",
    help="Edge of the window for which GFLOP are stated, in pixels.",
)
@options.weights_opt
@options.format_opt
@options.storage_opt
def inspect(
    path: str, window: int, weights: str | None, form: str, storage_options: str | None
) -> None:
    """Show what the checkpoint PATH holds: classes, sizes, origin, normalization, GFLOP per window.

    GFLOP are two for each multiplication and addition of the convolutions, the linear layers and
    the products of attention, in the network as Swath runs it.
    """
    facts = describe(path, _read(path, weights, storage_options), window)
    click.echo(text.to_json(facts) if form == "json" else render(facts))


@model.command()
@path_arg
@click.option(
    "--to",
    "folder",
    required=True,
    metavar="FOLDER",
    help="Folder for the new checkpoint, created if it does not exist.",
)
@click.option(
    "--force",
    is_flag=True,
    show_default="an existing checkpoint is not replaced",
    help="Replace the checkpoint that is in FOLDER.",
)
@options.weights_opt
@options.storage_opt
def convert(
    path: str, folder: str, force: bool, weights: str | None, storage_options: str | None
) -> None:
    """Write the checkpoint PATH to FOLDER in transformers' format, complete in itself.

    Writes config.json, model.safetensors (float32) and preprocessor_config.json. What transformers
    does not have goes into keys of config.json that it ignores and Swath reads: colors, layer-norm
    eps, align_corners of smp's head. With mmsegmentation's head the folder is Swath's alone:
    transformers has no such network. Notes say what differs.
    """
    from pipeline.checkpoint import call_on_checkpoint  # noqa: PLC0415  so that help does not wait for it
    from segformer.checkpoints.checkpoint import existing_files, write_checkpoint  # noqa: PLC0415

    access = Access.parse(storage_options).impatient()
    present = call_on_checkpoint(existing_files, folder, access)
    if _is_itself(path, folder, access):
        raise UsageError(f"--to {folder}: is the checkpoint being read; give another folder")
    if present and not force:
        raise UsageError(
            f"{folder} holds a checkpoint already ({', '.join(present)}); give another folder, or"
            " --force to replace it"
        )
    checkpoint = _read(path, weights, storage_options)

    def write(url: str, **how: Any) -> None:
        write_checkpoint(checkpoint, url, **how)

    call_on_checkpoint(write, folder, access)
    click.echo(f"{folder}: {', '.join(call_on_checkpoint(existing_files, folder, access))}")
    for note in (*checkpoint.config.notes, *_differences(checkpoint)):
        click.echo(f"note: {note}", err=True)


def _is_itself(path: str, folder: str, access: Access) -> bool:
    """Whether a file of the checkpoint would be replaced by its own conversion."""
    from segformer.checkpoints.folder import CONFIG, PREPROCESSOR, SAFETENSORS  # noqa: PLC0415

    def files(folder: str) -> set[str]:
        return {f"{folder}/{name}" for name in (CONFIG, PREPROCESSOR, SAFETENSORS)}

    def real(url: str) -> str:
        url = access.absolute(url)
        return url if "://" in url else os.path.realpath(url)

    read, written = {path, *files(path.rstrip("/"))}, files(folder.rstrip("/"))
    return not {real(url) for url in read}.isdisjoint(real(url) for url in written)


def _read(path: str, weights: str | None, storage_options: str | None) -> Checkpoint:
    from pipeline.checkpoint import call_on_checkpoint  # noqa: PLC0415  so that help does not wait for it
    from segformer.checkpoints.checkpoint import read_checkpoint  # noqa: PLC0415

    access = Access.parse(storage_options).impatient()
    return call_on_checkpoint(read_checkpoint, path, access, weights=weights)


def _differences(checkpoint: Checkpoint) -> list[str]:
    """Notes on how a converted checkpoint differs: what transformers computes with it, and what
    Swath does."""
    from segformer.norm_eps import TRANSFORMERS_EPS  # noqa: PLC0415

    eps, notes = checkpoint.config.norm_eps, []
    if eps != TRANSFORMERS_EPS:
        notes.append(
            f"the network was trained with layer-norm eps of {eps.block:g} in blocks,"
            f" {eps.reduction:g} in reductions and {eps.embedding:g} in embeddings; Swath computes"
            f" with these, transformers with {TRANSFORMERS_EPS.block:g} whatever the file says:"
            " their logits differ a little"
        )
    if checkpoint.config.align_corners:
        notes.append(
            "smp's head samples the logits of a window from corner to corner (align_corners true in"
            " config.json); Swath does so, too, and takes windows whose edge is a multiple of"
            f" {checkpoint.config.window_step_px} px. transformers gives the same logits at a"
            " quarter of the size; upsampled as usual (align_corners false) they are shifted by up"
            " to 1.5 px"
        )
    if checkpoint.config.head != "mlp":
        notes.append(
            "transformers cannot read the folder: it has no network with mmsegmentation's head (a"
            " batch norm and a ReLU on every scale); Swath can"
        )
    if checkpoint.normalisation.is_of_stored_values:
        notes.append(
            "the network takes values of more than 8 bits as stored; the folder says so"
            f" (do_rescale false): give it --scale 1 where the file takes"
            f" --scale {checkpoint.normalisation.rescale:.8g}"
        )
    return notes


def describe(path: str, checkpoint: Checkpoint, window_px: int) -> dict[str, Any]:
    """The facts that `inspect` prints, as JSON."""
    from segformer.flops import gflop_per_window  # noqa: PLC0415
    from segformer.presets import size_name  # noqa: PLC0415

    config, norm = checkpoint.config, checkpoint.normalisation
    eps = config.norm_eps
    classes = zip(config.class_names, config.class_colors, strict=True)
    return {
        "checkpoint": path,
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
        "normalisation": {"rescale": norm.rescale, "mean": norm.mean, "std": norm.std},
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
        (
            "norm eps",
            f"{eps['block']:g} in blocks, {eps['reduction']:g} in reductions,"
            f" {eps['embedding']:g} in embeddings",
        ),
        ("work", f"{facts['gflop_per_window']:,.1f} GFLOP per window of {facts['window']} px"),
        ("classes", _classes(facts)),
    ]
    listed = [
        f"  {each['class_id']:>3}  {each['color'] or '-':<6}  {each['name']}"
        for each in facts["classes"]
    ]
    notes = [f"note: {note}" for note in facts["notes"]]
    return "\n".join([text.aligned(lines), *listed, *notes])


def _classes(facts: dict[str, Any]) -> str:
    count = f"{len(facts['classes'])}"
    return f"{count}, distinguished by one logit (sigmoid)" if facts["sigmoid"] else count


def _row(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in numbers)
