"""The classes of a checkpoint: names and colors, and their substitutes if they are missing.

Knows transformers' `config.json` and mmsegmentation's `meta`; knows no network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from segformer.errors import CheckpointError

BACKGROUND = "background"
"""Default name of class 0 of a classifier with one channel."""
Names = tuple[str, ...]
"""One per class, by class id."""
Notes = tuple[str, ...]
"""What a person should know, one line each."""


def class_names(fields: Mapping[str, Any]) -> tuple[Names, Notes]:
    """The names in a parsed `config.json`, one per channel of the classifier, and a note if some
    are missing. transformers' default is two classes. Raises CheckpointError if they contradict
    num_labels."""
    names = {int(k): str(name) for k, name in (fields.get("id2label") or {}).items()}
    named = max(len(names), max(names, default=-1) + 1)
    count = int(fields.get("num_labels") or named or 2)
    if count < named or min(names, default=0) < 0:
        raise CheckpointError(
            f"config.json: id2label names class ids {min(names)} to {max(names)},"
            f" but num_labels is {count}"
        )
    missing = [k for k in range(count) if not names.get(k, "").strip()]
    full = tuple(f"class_{k}" if k in missing else names[k] for k in range(count))
    if not missing:
        return full, ()
    return full, (
        f"config.json names {count - len(missing)} of {count} classes; the others are called"
        f" class_{missing[0]}" + (f" to class_{missing[-1]}" if len(missing) > 1 else ""),
    )


def with_background(background: str, names: Names, notes: Notes) -> tuple[Names, Notes]:
    """The two classes of a classifier with one channel, of which `names` has one."""
    if not notes:
        return (background, *names), ()
    return (background, "class_1"), ("config.json names no class; it is called class_1",)


def classes_of_meta(
    meta: Mapping[Any, Any], channels: int
) -> tuple[Names, tuple[str | None, ...], Notes]:
    """Names, colors and notes for a classifier, from what mmsegmentation says of the data set: 0.x
    `CLASSES` and `PALETTE`, 1.x `dataset_meta`. Substitutes names that are missing."""
    dataset = meta.get("dataset_meta")
    if not isinstance(dataset, dict):
        dataset = {"classes": meta.get("CLASSES"), "palette": meta.get("PALETTE")}
    classes, palette = _texts(dataset.get("classes")), dataset.get("palette")
    count = max(channels, 2)  # one channel tells two classes apart
    if len(classes) not in (channels, count):
        names = tuple(f"class_{k}" for k in range(count))
        said = f"names {len(classes)} classes" if classes else "names no classes"
        note = f"the file {said}; the {count} that the network tells apart are called"
        return names, (None,) * count, (f"{note} class_0 to class_{count - 1}",)
    colors: tuple[str | None, ...] = (None,) * len(classes)
    if isinstance(palette, list | tuple) and len(palette) == len(classes):
        colors = tuple(map(_rrggbb, palette))
    if len(classes) == count:
        return classes, colors, ()
    return (BACKGROUND, *classes), (None, *colors), ()


def _texts(values: Any) -> Names:
    """The texts of a list; () for anything else."""
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        return ()
    return tuple(values)


def _rrggbb(color: Any) -> str | None:
    """A color of a palette as RRGGBB; None if it is not three numbers from 0 to 255."""
    if not isinstance(color, list | tuple) or len(color) != 3:
        return None
    if not all(isinstance(value, int) and 0 <= value <= 255 for value in color):
        return None
    return "{:02X}{:02X}{:02X}".format(*color)


def class_colors(colors: Any, count: int) -> tuple[str | None, ...]:
    """RRGGBB or None per class, from the key `class_colors`. Raises CheckpointError."""
    if colors is None:
        return (None,) * count
    cleaned = tuple(c if c is None else str(c).removeprefix("#").upper() for c in colors)
    for color in cleaned:
        if color is not None and not re.fullmatch("[0-9A-F]{6}", color):
            raise CheckpointError(
                f"config.json: class_colors has {color!r}; write RRGGBB, e.g. 1F77B4, or null"
            )
    return cleaned
