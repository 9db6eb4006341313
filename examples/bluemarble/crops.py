"""Training crops: where they are cut and how they are varied. Knows no network.

Half of them contain a lake, because lakes are only 0.3 % of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from examples.bluemarble import bluemarble as bm

Float32s = npt.NDArray[np.float32]

LAKE_SHARE = 0.5
"""The share of crops that are cut around a lake pixel."""
LAKE_CAP_KM2 = 20_000.0
"""The size above which a lake is drawn no more often. Otherwise lakes are drawn by area, and the
Caspian alone is a quarter of all lake pixels of the training area."""
GAIN_RANGE = 0.1
"""Brightness is scaled by a factor of 1 plus or minus this."""


@dataclass(frozen=True)
class Crops:
    """The training area's pixels and labels. Nothing east of it is kept.

    The validation band's labels are IGNORE, so its pixels are seen as surroundings at most.
    """

    picture: bm.Uint8s
    labels: bm.Uint8s
    lake_pixels: npt.NDArray[np.int64]
    """(n, 2) rows and columns of the lake pixels."""
    lake_probs: bm.Floats
    """(n,) probability that each is the anchor of a crop."""

    @classmethod
    def training(cls) -> Crops:
        labels = bm.with_ignored(bm.picture_labels(bm.read_mask()))
        labels[bm.VALIDATION.slices()] = bm.IGNORE
        ids, areas_km2 = bm.lakes(labels)
        area = bm.TRAINING.slices()
        ids = ids[area]
        pixels = np.argwhere(ids > 0)
        lake = ids[ids > 0]
        weights = np.minimum(areas_km2, LAKE_CAP_KM2)[lake] / np.bincount(lake)[lake]
        return cls(
            picture=bm.read_picture()[area].copy(),
            labels=labels[area].copy(),
            lake_pixels=pixels,
            lake_probs=weights / weights.sum(),
        )

    def batch(
        self, count: int, size_px: int, rng: np.random.Generator
    ) -> tuple[Float32s, bm.Uint8s]:
        """Pixels (count, size, size, 3), float32 of 0 to 255, and labels (count, size, size)."""
        pairs = [self._crop(size_px, rng) for _ in range(count)]
        return np.stack([p for p, _ in pairs]), np.stack([t for _, t in pairs])

    def _crop(self, size_px: int, rng: np.random.Generator) -> tuple[Float32s, bm.Uint8s]:
        row, col = self._origin(size_px, rng)
        window = np.s_[row : row + size_px, col : col + size_px]
        pixels, labels = self.picture[window], self.labels[window]
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        pixels, labels = np.rot90(pixels, turns), np.rot90(labels, turns)
        if mirrored:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        gain = 1 + rng.uniform(-GAIN_RANGE, GAIN_RANGE)
        return (pixels * gain).clip(0, 255).astype(np.float32), labels

    def _origin(self, size_px: int, rng: np.random.Generator) -> tuple[int, int]:
        """Row and column of the upper left pixel."""
        height, width = self.labels.shape
        last_row, last_col = height - size_px, width - size_px
        if rng.random() >= LAKE_SHARE:
            return int(rng.integers(last_row + 1)), int(rng.integers(last_col + 1))
        anchor = self.lake_pixels[rng.choice(len(self.lake_pixels), p=self.lake_probs)]
        shift = rng.integers(size_px, size=2)
        row, col = np.clip(anchor - shift, 0, (last_row, last_col))
        return int(row), int(col)
