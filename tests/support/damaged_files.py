"""Damaged image files: sound ones of each format, and the same after bit rot, broken transfers and
mixed-up headers."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiled": ("tif", TILED),
    "striped": ("tif", {"blockysize": 16}),
    "big": ("tif", {**TILED, "BIGTIFF": "YES", "interleave": "band"}),
    "cog": ("tif", {"driver": "COG", "BLOCKSIZE": 64, "COMPRESS": "DEFLATE"}),
    "jpegtiff": ("tif", {**TILED, "compress": "jpeg", "photometric": "ycbcr"}),
    "deflate": ("tif", {**TILED, "compress": "deflate", "predictor": 2}),
    "lzw": ("tif", {"blockysize": 8, "compress": "lzw"}),
    "png": ("png", {"driver": "PNG"}),
    "jpeg": ("jpg", {"driver": "JPEG"}),
    "jp2": ("jp2", {"driver": "JP2OpenJPEG"}),
}
"""Name -> file suffix and GDAL's creation options."""
HEADER_BYTES = 400
"""Bytes at the start of a file that count as its header: the directories of small TIFFs, the
markers of JPEG and JPEG 2000."""


def write_good(path: Path, form: str, seed: int) -> None:
    """Write a small image of the format: smooth colors and some texture."""
    rng = np.random.default_rng(seed)
    width, height = (int(edge) for edge in rng.integers(96, 161, 2))
    rows, cols = np.mgrid[0:height, 0:width]
    planes = [np.sin(rows / a + cols / b) * 80 + 128 for a, b in rng.uniform(5, 40, (3, 2))]
    values = (np.stack(planes) + rng.integers(-8, 9, (3, height, width))).astype(np.uint8)
    profile = {"width": width, "height": height, "count": 3, "dtype": "uint8"}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    options = FORMATS[form][1]
    if "driver" not in options:
        with rasterio.open(path, "w", driver="GTiff", **profile, **options) as file:
            file.write(values)
        return
    with MemoryFile() as memory:  # these drivers only copy
        with memory.open(driver="GTiff", **profile) as file:
            file.write(values)
        with memory.open() as file:
            rasterio.shutil.copy(file, path, **options)
    path.with_name(path.name + ".aux.xml").unlink(missing_ok=True)


def flipped(data: bytes, _: bytes, rng: random.Random, end: int | None = None) -> bytes:
    """A few bytes before `end` set to random values."""
    damaged = bytearray(data)
    for _n in range(rng.choice([1, 1, 2, 4, 16])):
        damaged[rng.randrange(min(end or len(data), len(data)))] = rng.randrange(256)
    return bytes(damaged)


def flipped_header(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return flipped(data, other, rng, HEADER_BYTES)


def extreme_number(data: bytes, _: bytes, rng: random.Random) -> bytes:
    """A number in the header replaced by an extreme one."""
    width = rng.choice([2, 4, 8])
    value = rng.choice([0, 1, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1]) % 256**width
    at = rng.randrange(min(HEADER_BYTES, len(data)) - width)
    packed = value.to_bytes(width, rng.choice(["little", "big"]))
    return data[:at] + packed + data[at + width :]


def wrong_tag(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One entry of a classic TIFF's first directory with a wrong type, count or value."""
    if data[:4] != b"II*\0":
        return extreme_number(data, other, rng)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entry = at + 2 + 12 * rng.randrange(count)
    offset, form = rng.choice([(2, "<H"), (4, "<I"), (8, "<I")])
    damaged = bytearray(data)
    value = rng.choice([0, 1, 7, 255, 4096, 65535, 10**6, 2**31 - 1, 2**32 - 1])
    struct.pack_into(form, damaged, entry + offset, value % 256 ** struct.calcsize(form))
    return bytes(damaged)


def truncated(data: bytes, _: bytes, rng: random.Random) -> bytes:
    """The file cut at any place or within the header, sometimes to nothing."""
    return data[: rng.randrange(rng.choice([len(data), len(data), HEADER_BYTES]))]


def zeroed(data: bytes, _: bytes, rng: random.Random) -> bytes:
    """A run of zeros, as a lost disk block leaves it."""
    at, length = rng.randrange(len(data)), rng.choice([16, 512, 4096])
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def swapped_header(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The header of another format followed by the body of this file."""
    length = rng.choice([4, 16, 64, HEADER_BYTES])
    return other[:length] + data[length:]


Mutation = Callable[[bytes, bytes, random.Random], bytes]
MUTATIONS: dict[str, tuple[int, Mutation]] = {
    "flipped": (20, flipped),
    "flipped header": (20, flipped_header),
    "extreme number": (15, extreme_number),
    "wrong tag": (15, wrong_tag),
    "truncated": (12, truncated),
    "zeroed": (8, zeroed),
    "swapped header": (10, swapped_header),
}
"""Name -> weight and function; half of the mutations hit only the header."""


def has_all_pixels(pair: tuple[Path, Path]) -> bool:
    """Whether rasterio, by its own settings, reads from the second file every value and mask of the
    first one."""
    with rasterio.open(pair[0]) as sound, rasterio.open(pair[1]) as damaged:
        if (sound.shape, sound.dtypes) != (damaged.shape, damaged.dtypes):
            return False
        same = np.array_equal(sound.read(), damaged.read())
        return bool(same and np.array_equal(sound.read_masks(), damaged.read_masks()))


def write_mutants(
    folder: Path, count: int, sound: list[tuple[str, Path]], rng: random.Random
) -> dict[str, tuple[str, str]]:
    """Write `count` mutants of the sound files, (format, path), in turn: the one numbered N is of
    `sound[N % len(sound)]`.

    Returns file name -> format and mutation.
    """
    mutants = {}
    names = list(MUTATIONS)
    weights = [MUTATIONS[name][0] for name in names]
    for number in range(count):
        form, path = sound[number % len(sound)]
        _, other = rng.choice([file for file in sound if file[0] != form])
        (kind,) = rng.choices(names, weights)
        name = f"{number:04}_{form}_{kind.replace(' ', '-')}{path.suffix}"
        damaged = MUTATIONS[kind][1](path.read_bytes(), other.read_bytes(), rng)
        (folder / name).write_bytes(damaged)
        mutants[name] = (form, kind)
    return mutants
