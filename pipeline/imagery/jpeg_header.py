"""The header of a JPEG file, up to its first scan: faults that cameras leave in it although every
pixel is there, and how many more images follow.

libjpeg reports only the first fault of an image, so a file with a harmless one cannot be read with
warnings allowed: the next could be damage. Instead the harmless ones are mended in what GDAL gets
to see, and all others stay errors. A fault is harmless if no pixel can depend on it:

- Stray bytes between two segments, which decoders skip, up to 15: the segments that decide pixels
  are longer, except for DRI, without which the restart markers in the data are errors. They become
  fill bytes (ITU T.81, B.1.1.2), so that nothing moves.
- Parameters of a sequential scan other than 0, 63, 0, 0, which decoders ignore (B.2.3).
- An unknown version of JFIF.

Only a header that is otherwise complete is mended: every segment as long as its contents, every
table of the scan defined, no arithmetic coding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline.storage.range_file import RangeFile

MAX_STRAY_BYTES = 15
"""One less than the shortest segment that can change a color unnoticed: Adobe's APP14."""
_READ_BYTES = 4096
"""Bytes that are read at the start of a segment."""
_SOI, _SOS, _DHT, _DQT, _DRI = 0xD8, 0xDA, 0xC4, 0xDB, 0xDD
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_PARAMETERLESS = (0x01, *range(0xD0, 0xD8))
"""TEM and restart markers."""
_SKIPPED = (0xDC, *range(0xE0, 0xF0), 0xFE)
"""DNL, application segments and comments."""
_JFIF, _JFIF_VERSIONS = b"JFIF\0", (1, 2)
_MPF = b"MPF\0"
_MPF_ENTRIES = 0xB002
_LARGE_THUMBNAILS = (0x010001, 0x010002)


@dataclass(frozen=True)
class JpegHeader:
    """What Swath wants to know of a JPEG header beside what GDAL says."""

    patches: tuple[tuple[int, bytes], ...] = ()
    """Bytes to put over those at an offset, so that no harmless fault is left."""
    faults: tuple[str, ...] = ()
    """The faults that these mend, in words."""
    more_images: int = 0
    """Further images of the same file that its multi-picture index names, without thumbnails."""


class _UnusualError(Exception):
    """A header that is damaged, cut or of a kind that is not mended."""


def read_jpeg_header(file: RangeFile) -> JpegHeader:
    """The header of an open JPEG file, without patches if the file is none, or if its header has
    other faults than harmless ones: the decoder reports these."""
    walk = _Walk(file)
    try:
        walk.run()
    except (_UnusualError, struct.error, IndexError, ValueError):
        return JpegHeader(more_images=walk.more_images)
    return JpegHeader(tuple(walk.patches), tuple(walk.faults), walk.more_images)


def jpeg_patches(file: RangeFile) -> tuple[tuple[int, bytes], ...]:
    """The patches of `read_jpeg_header`."""
    return read_jpeg_header(file).patches


@dataclass
class _Walk:
    """The walk through the segments."""

    file: RangeFile
    patches: list[tuple[int, bytes]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    more_images: int = 0
    process: int = 0
    """The marker of the frame header; 0: none yet."""
    quantization: dict[int, int] = field(default_factory=dict)
    """The quantization table of each component."""
    tables: set[tuple[str, int]] = field(default_factory=set)
    """Kind and number of the tables that are defined."""

    def run(self) -> None:
        """Walk to the end of the first scan header. Raises _UnusualError, or struct.error,
        IndexError or ValueError for a file that ends before."""
        _require(self._read(0, 2) == bytes((0xFF, _SOI)))
        at, marker = 2, 0
        while marker != _SOS:
            at, marker = self._next_marker(at)
            if marker in _PARAMETERLESS:
                continue
            (length,) = struct.unpack_from(">H", self._read(at, 2))
            body = self._read(at + 2, min(length - 2, _READ_BYTES))
            self._segment(at + 2, marker, length - 2, body)
            at += length

    def _read(self, at: int, size: int) -> bytes:
        self.file.seek(at)
        return self.file.read(size)

    def _next_marker(self, at: int) -> tuple[int, int]:
        """The offset after the next marker, and the marker, found as libjpeg finds it."""
        data = self._read(at, MAX_STRAY_BYTES + 256)
        place = 0
        while True:
            place = fill = data.index(0xFF, place)
            while data[place] == 0xFF:
                place += 1
            if data[place]:
                break
            place += 1  # a stuffed byte is no marker
        if fill:
            _require(fill <= MAX_STRAY_BYTES)
            self.patches.append((at, b"\xff" * fill))
            self.faults.append(f"{fill} stray bytes before its marker {data[place]:02X}")
        return at + place + 1, data[place]

    def _segment(self, at: int, marker: int, size: int, body: bytes) -> None:
        """Check a segment whose contents of this size start at `at`."""
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            _require(not self.process and size == 6 + 3 * body[5])
            self.process = marker
            components = zip(body[6::3], body[8::3], strict=True)
            self.quantization = dict(components)
            _require(len(self.quantization) == body[5])
        elif marker == _DQT:
            for start in _steps(body, lambda at: 1 + 64 * (1 + (body[at] >> 4))):
                _require(body[start] >> 4 > 0 or 0 not in body[start + 1 : start + 65])
                self.tables.add(("Q", body[start] & 15))
        elif marker == _DHT:
            for start in _steps(body, lambda at: 17 + sum(body[at + 1 : at + 17])):
                symbols = body[start + 17 : start + 17 + sum(body[start + 1 : start + 17])]
                _require(len(set(symbols)) == len(symbols))
                self.tables.add(("AC" if body[start] >> 4 else "DC", body[start] & 15))
        elif marker == _DRI:
            _require(size == 2)
        elif marker == _SOS:
            self._scan(at, size, body)
        elif marker in _SKIPPED:
            _require(not body.startswith(b"Adobe") or size == 12)
            if body.startswith(_JFIF):
                _require(size == 14 + 3 * body[12] * body[13])
                if body[5] not in _JFIF_VERSIONS:
                    self.patches.append((at + 5, bytes(_JFIF_VERSIONS[:1])))
                    self.faults.append(f"JFIF version {body[5]}")
            if body.startswith(_MPF):
                with suppress(struct.error):
                    self.more_images = _more_images(body[len(_MPF) :])
        else:
            raise _UnusualError

    def _scan(self, at: int, size: int, body: bytes) -> None:
        """Check that every table of the scan is defined; mend its parameters, if sequential.

        These are mended only in a scan of all components that uses every table, and whose data do
        not start with 0: a run of zeros over a part of the header would change more than them.
        """
        count = body[0]
        _require(bool(self.process) and size == 4 + 2 * count)
        first, last, bits = body[1 + 2 * count :]
        sequential = self.process in _SEQUENTIAL
        used = set()
        for component, selectors in zip(body[1:-3:2], body[2:-3:2], strict=True):
            used.add(("Q", self.quantization.get(component, -1)))
            if sequential or first == 0:
                used.add(("DC", selectors >> 4))
            if sequential or first > 0:
                used.add(("AC", selectors & 15))
        _require(used <= self.tables)
        if sequential and (first, last, bits) != (0, 63, 0):
            _require(count == len(self.quantization) and used == self.tables)
            _require(self._read(at + size, 1) != b"\0")
            self.patches.append((at + 1 + 2 * count, bytes((0, 63, 0))))
            self.faults.append(f"scan parameters {first}, {last}, {bits} instead of 0, 63, 0")


def _require(is_so: bool) -> None:
    if not is_so:
        raise _UnusualError


def _steps(body: bytes, size_at: Callable[[int], int]) -> list[int]:
    """The starts of the tables in a segment, which must end with the last of them."""
    starts, at = [], 0
    while at < len(body):
        starts.append(at)
        at += size_at(at)
    _require(at == len(body))
    return starts


def _more_images(index: bytes) -> int:
    """The images after the first one in a multi-picture index (CIPA DC-007), without thumbnails."""
    order = "<" if index[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", index, 4)
    (count,) = struct.unpack_from(f"{order}H", index, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, _, size, offset = struct.unpack_from(f"{order}HHII", index, entry)
        if tag == _MPF_ENTRIES:
            kinds = [
                struct.unpack_from(f"{order}I", index, at)[0] & 0xFFFFFF
                for at in range(offset + 16, offset + size, 16)
            ]
            return sum(kind not in _LARGE_THUMBNAILS for kind in kinds)
    return 0
