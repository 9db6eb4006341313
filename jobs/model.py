"""`swath model`: what a checkpoint holds, and its conversion to transformers' format.

Parses, calls, prints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from jobs import options, text
from jobs.model_report import describe, render
from pipeline.checkpoint import call_on_checkpoint, pinned_checkpoint
from pipeline.errors import UsageError
from pipeline.storage.access import Access
from segformer.checkpoints.hub.name import is_hub_name
from segformer.normalisation_options import NormalisationOptions

if TYPE_CHECKING:
    from segformer import Checkpoint

path_arg = click.argument("path", metavar="PATH")


@click.group()
def model() -> None:
    """Inspect a SegFormer checkpoint, or convert it.

    PATH is a folder in the format of transformers or segmentation_models_pytorch, or one file of
    weights (.pth, .pt, .ckpt, .bin, .safetensors) as these, NVlabs' SegFormer or mmsegmentation
    write it; local or an fsspec URL. hf:ORG/NAME[@REVISION] is a model on the Hugging Face Hub. No
    code in a file is executed.
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
@options.reading_options
@options.format_opt
@options.storage_opt
def inspect(path: str, window: int, form: str, **parsed: Any) -> None:
    """Show what the checkpoint PATH holds: classes, sizes, origin, normalization, GFLOP per window;
    of its card the license and the first words.

    GFLOP are two for each multiplication and addition of the convolutions, the linear layers and
    the products of attention, in the network as Swath runs it.
    """
    from segformer.checkpoints.hub.card import read_card  # noqa: PLC0415  so that help does not wait for it

    path, access, checkpoint = _read(path, parsed)
    card = call_on_checkpoint(read_card, path, access)
    facts = describe(path, checkpoint, card, window)
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
@options.reading_options
@options.storage_opt
def convert(path: str, folder: str, force: bool, **parsed: Any) -> None:
    """Write the checkpoint PATH to FOLDER in transformers' format, complete in itself.

    Writes config.json, model.safetensors (float32) and preprocessor_config.json. What transformers
    does not have goes into keys of config.json that it ignores and Swath reads: colors, layer-norm
    eps, align_corners of smp's head. With mmsegmentation's head the folder is Swath's alone:
    transformers has no such network. Notes say what differs.
    """
    from segformer.checkpoints.checkpoint import existing_files, write_checkpoint  # noqa: PLC0415  so that help does not wait for it

    access = Access.parse(parsed["storage_options"]).impatient()
    if is_hub_name(folder):
        raise UsageError(f"--to {folder}: is a name on the Hub; give a folder, local or a URL")
    present = call_on_checkpoint(existing_files, folder, access)
    if _is_itself(path, folder, access):
        raise UsageError(f"--to {folder}: is the checkpoint being read; give another folder")
    if present and not force:
        raise UsageError(
            f"{folder} holds a checkpoint already ({', '.join(present)}); give another folder, or"
            " --force to replace it"
        )
    path, _, checkpoint = _read(path, parsed)

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

    if is_hub_name(path):
        return False
    read, written = {path, *files(path.rstrip("/"))}, files(folder.rstrip("/"))
    return not {real(url) for url in read}.isdisjoint(real(url) for url in written)


def _read(path: str, parsed: Mapping[str, Any]) -> tuple[str, Access, Checkpoint]:
    """The path, a name on the Hub with the commit; how it is reached; and the checkpoint."""
    from segformer.checkpoints.checkpoint import read_checkpoint  # noqa: PLC0415  so that help does not wait for it

    numbers = NormalisationOptions(parsed["rescale"], parsed["mean"], parsed["std"])
    access = Access.parse(parsed["storage_options"]).impatient()
    path = pinned_checkpoint(path, None, access)
    checkpoint = call_on_checkpoint(
        read_checkpoint, path, access, weights=parsed["weights"], normalisation=numbers
    )
    return path, access, checkpoint


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
