"""The model card's held-out figures, east of 60 E, as Markdown on standard output.

    python -m examples.bluemarble.evaluate [--checkpoint FOLDER]

The model against two rules: a color rule for all water, and a rule of dark pixels for lakes, whose
threshold is tuned on the training area. Counts are of pixels; the Aral Sea is excluded.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

from examples.bluemarble import bluemarble as bm
from examples.bluemarble.reference import tile_logits
from segformer import load_model

LAKE_BINS_KM2 = (0, 100, 1_000, 10_000, 1_000_000)
LARGE_KM2 = 1_000
DARK_LEVELS = range(4, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default=str(Path(__file__).parent / "checkpoint"))
    options = parser.parse_args()
    torch.set_num_threads(2)
    picture, mask = bm.read_picture(), bm.read_mask()
    truth = bm.picture_labels(mask)
    scored = bm.with_ignored(truth) != bm.IGNORE
    level = best_dark_level(picture, truth, scored)
    ids, areas_km2 = bm.lakes(truth)
    area = bm.HELD_OUT.slices()
    model = load_model(options.checkpoint)
    predicted = tile_logits(model, picture, bm.HELD_OUT).argmax(axis=0)
    held_truth, held_scored = truth[area], scored[area]
    color, dark = color_rule(picture)[area], dark_rule(picture, level)[area]
    print_classes(predicted, color, held_truth, held_scored)
    held_lakes_km2 = np.where(held_scored, areas_km2[ids[area]], 0)
    print_lakes(predicted == bm.INLAND_WATER, dark, level, held_lakes_km2, held_scored)
    print_baikal(predicted == bm.INLAND_WATER, mask)


def color_rule(picture: bm.Uint8s) -> bm.Bools:
    """Water by color (issue 2). It finds the shaded bathymetry."""
    red, green, blue = (picture[..., k].astype(int) for k in range(3))
    return (blue > red + 10) & (blue > green) & (red < 60)


def dark_rule(picture: bm.Uint8s, level: int) -> bm.Bools:
    """Inland water by darkness: no channel reaches `level`, and the color rule sees no sea.

    Without the second condition the rule finds the deep ocean: precision .05 and less.
    """
    return (picture.max(axis=2) < level) & ~color_rule(picture)


def best_dark_level(picture: bm.Uint8s, truth: bm.Uint8s, scored: bm.Bools) -> int:
    """The level with the best F1 for inland water in the training area."""
    area = bm.TRAINING.slices()
    lake = (truth[area] == bm.INLAND_WATER)[scored[area]]

    def f1(level: int) -> float:
        predicted = dark_rule(picture[area], level)[scored[area]]
        return 2 * (predicted & lake).sum() / (predicted.sum() + lake.sum())

    return max(DARK_LEVELS, key=f1)


def iou(predicted: bm.Bools, true: bm.Bools) -> float:
    """Intersection over union."""
    return float((predicted & true).sum() / (predicted | true).sum())


def print_classes(
    predicted: bm.Uint8s, color: bm.Bools, truth: bm.Uint8s, scored: bm.Bools
) -> None:
    """Print the intersection over union of each class, for the model and the color rule."""
    predicted, color, truth = predicted[scored], color[scored], truth[scored]
    is_land, true_land = predicted == bm.LAND, truth == bm.LAND
    print("| held out, IoU | model | color rule |\n|---|---|---|")
    print(f"| land | {iou(is_land, true_land):.3f} | {iou(~color, true_land):.3f} |")
    print(f"| water | {iou(~is_land, ~true_land):.3f} | {iou(color, ~true_land):.3f} |")
    for k, name in enumerate(bm.CLASS_NAMES):
        print(f"| {name}, of three classes | {iou(predicted == k, truth == k):.3f} | |")


def print_lakes(
    predicted: bm.Bools, dark: bm.Bools, level: int, lakes_km2: bm.Floats, scored: bm.Bools
) -> None:
    """Print recall by size of lake, and precision. lakes_km2: area of each pixel's lake, or 0."""
    print(f"\n| recall of held-out lakes of | lake pixels | model | dark rule (below {level}) |")
    print("|---|---|---|---|")
    bins = list(itertools.pairwise(LAKE_BINS_KM2))
    for low, high in [*bins, (LARGE_KM2, LAKE_BINS_KM2[-1])]:
        lake = (lakes_km2 > 0) & (lakes_km2 >= low) & (lakes_km2 < high)
        name = f"{low:,} to {high:,} km2" if high < LAKE_BINS_KM2[-1] else f"{low:,} km2 and more"
        recalls = f"{predicted[lake].mean():.2f} | {dark[lake].mean():.2f}"
        print(f"| {name} | {lake.sum():,} | {recalls} |")
    true = lakes_km2 > 0
    for name, measure in (("precision", precision), ("share of all lake pixels found", recall)):
        figures = f"{measure(predicted & scored, true):.2f} | {measure(dark & scored, true):.2f}"
        print(f"| {name} | {true.sum():,} | {figures} |")


def precision(predicted: bm.Bools, true: bm.Bools) -> float:
    return float((predicted & true).sum() / max(1, predicted.sum()))


def recall(predicted: bm.Bools, true: bm.Bools) -> float:
    return float((predicted & true).sum() / true.sum())


def print_baikal(predicted: bm.Bools, mask: bm.Uint8s) -> None:
    """Print Lake Baikal's area in its bounding box, which contains a few small lakes, too."""
    truth = bm.picture_labels(mask)
    rows, cols = bm.BAIKAL.slices()
    row_km2 = bm.row_areas_km2(bm.WIDTH, bm.HEIGHT)[rows]
    offset = bm.HELD_OUT.slices()[1].start
    box = predicted[rows, cols.start - offset : cols.stop - offset]
    print("\n| Lake Baikal | km2 |\n|---|---|")
    print(f"| model, inland water in the box | {(box * row_km2).sum():,.0f} |")
    true_box = truth[rows, cols] == bm.INLAND_WATER
    print(f"| mask on the picture's grid, in the box | {(true_box * row_km2).sum():,.0f} |")
    for name, grid in (("on the picture's grid", truth), ("at its own resolution", mask)):
        ids, areas_km2 = bm.lakes(grid)
        lake = bm.lake_at(*bm.BAIKAL_CENTER, ids)
        print(f"| mask {name}, the lake alone | {areas_km2[lake]:,.0f} |")


if __name__ == "__main__":
    main()
