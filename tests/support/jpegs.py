"""JPEG files as encoders and cameras write them, and with faults in their headers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def picture_HWC(seed: int = 0) -> np.ndarray:
    """Smooth colors and some texture, uint8 (120, 140, 3)."""
    rows, cols = np.mgrid[0:120, 0:140]
    planes = [
        np.sin(rows / a) * 60 + np.cos(cols / b) * 60 + 128 for a, b in ((7, 9), (5, 8), (9, 4))
    ]
    texture = np.random.default_rng(seed).integers(-9, 9, (120, 140, 3))
    return np.clip(np.stack(planes, -1) + texture, 0, 255).astype(np.uint8)


def encoded(mode: str = "RGB", **options: Any) -> bytes:
    """The picture as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(picture_HWC()).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def of_a_camera(**options: Any) -> bytes:
    """A JPEG without JFIF, whose EXIF holds a thumbnail with markers of its own."""
    thumbnail = io.BytesIO()
    Image.fromarray(picture_HWC()).resize((40, 30)).save(thumbnail, "JPEG")
    exif = b"Exif\0\0II*\0\x08" + bytes(9) + thumbnail.getvalue()
    return without_segment(encoded(exif=exif, **options), 0xE0)


def with_previews() -> bytes:
    """A file of three images with a multi-picture index."""
    file = io.BytesIO()
    image = Image.fromarray(picture_HWC())
    image.save(file, "MPO", save_all=True, append_images=[image.resize((40, 30))] * 2)
    return file.getvalue()


class Segment(NamedTuple):
    """A segment of the header."""

    at: int
    """The offset of its marker."""
    marker: int
    size: int
    """Bytes, with marker and length."""


def segments(data: bytes) -> Iterator[Segment]:
    """The segments between SOI and the data of the first scan."""
    at, marker = 2, 0
    while marker != 0xDA:
        marker, size = data[at + 1], 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield Segment(at, marker, size)
        at += size


def without_segment(data: bytes, marker: int) -> bytes:
    """The JPEG without the first segment of that marker."""
    at, _, size = next(segment for segment in segments(data) if segment.marker == marker)
    return data[:at] + data[at + size :]


def with_bytes(data: bytes, at: int, stray: bytes) -> bytes:
    """The JPEG with stray bytes in front of what was at `at`."""
    return data[:at] + stray + data[at:]


def with_scan_parameters(data: bytes, *parameters: int) -> bytes:
    """The JPEG with other parameters in its first scan header: first, last, bits."""
    *_, scan = segments(data)
    end = scan.at + scan.size
    return data[: end - 3] + bytes(parameters) + data[end:]


CLEAN = {
    "baseline": encoded(quality=90),
    "optimized": encoded(optimize=True),
    "extended": encoded().replace(b"\xff\xc0", b"\xff\xc1", 1),
    "progressive": encoded(progressive=True),
    "not subsampled": encoded(subsampling=0),
    "restart markers": encoded(restart_marker_blocks=4),
    "gray": encoded("L"),
    "camera": of_a_camera(),
    "multi-picture": with_previews(),
    "bytes after the end": encoded() + bytes(500),
    "bytes before the end": encoded()[:-2] + bytes(3000) + EOI,
    "fill bytes": with_bytes(encoded(), 2, b"\xff" * 7),
}
"""JPEG files in which GDAL finds no fault."""
