"""Pixels and their classes side by side, as a PNG. Knows colors, not what is segmented.

Suffixes: C channels, H W pixels, 3 red green blue.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

_GOLDEN = 0.618034
"""Step between hues as a fraction of the color circle, the golden ratio: consecutive hues stay far
apart."""
_NO_DATA = (0, 0, 0)


def palette(colors: Sequence[str | None]) -> np.ndarray:
    """uint8 (classes, 3): the checkpoint's colors (RRGGBB), ours for classes without one."""
    rows = []
    for number, color in enumerate(colors):
        if color is None:
            hue, value = number * _GOLDEN % 1, (0.95, 0.7)[number % 2]
            rows.append([round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, value)])
        else:
            rows.append(list(bytes.fromhex(color)))
    return np.array(rows, np.uint8)


def overlay(
    values_CHW: np.ndarray, class_ids_HW: np.ndarray, valid_HW: np.ndarray, colors_K3: np.ndarray
) -> bytes:
    """A PNG of twice the width: the first three channels, then the classes; nodata is black.

    values_CHW: as the network receives them before normalization, from 0, black, to 1, white; one
    or two channels are shown in gray. valid_HW: bool, True = data.
    """
    shown_CHW = values_CHW[:3] if len(values_CHW) >= 3 else values_CHW[:1].repeat(3, axis=0)
    pixels_CHW = np.nan_to_num(shown_CHW.clip(0, 1) * 255).round().astype(np.uint8)
    pixels_HW3 = pixels_CHW.transpose(1, 2, 0).copy()
    classes_HW3 = np.empty_like(pixels_HW3)
    classes_HW3[valid_HW] = colors_K3[class_ids_HW[valid_HW]]
    pixels_HW3[~valid_HW] = classes_HW3[~valid_HW] = _NO_DATA
    file = io.BytesIO()
    Image.fromarray(np.concatenate([pixels_HW3, classes_HW3], axis=1)).save(file, "PNG")
    return file.getvalue()
