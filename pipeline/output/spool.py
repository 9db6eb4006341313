"""Masks on local disk until their place in a table has come: each is written and read once.

Knows neither rows nor tables; the file has no name, so nothing of it survives the process.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa

from pipeline.errors import UnfinishedError

_CODEC = "lz4"


@dataclass(frozen=True)
class Spooled:
    """Where a mask lies: three numbers of bytes."""

    offset: int
    size: int
    mask_size: int


class Spool:
    """In this folder; None: in the one for temporary files, which TMPDIR names."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder or tempfile.gettempdir()
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - __exit__ closes it
        self._end = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except OSError:  # of a full disk, once more
            if error is None:
                raise

    def put(self, mask: pa.Buffer) -> Spooled:
        """Raises UnfinishedError where the disk is full or fails."""
        compressed = pa.compress(mask, codec=_CODEC)
        try:
            self._file.seek(self._end)
            self._file.write(compressed)
            self._file.flush()
        except OSError as error:
            raise UnfinishedError(
                f"{self._folder}: {error.strerror}, while masks are put in order there; free some"
                " of it (TMPDIR names another folder where OUT is an object store), and run the"
                " same command again"
            ) from error
        spooled = Spooled(self._end, compressed.size, mask.size)
        self._end += compressed.size
        return spooled

    def get(self, spooled: Spooled) -> bytes:
        self._file.seek(spooled.offset)
        compressed = self._file.read(spooled.size)
        mask: bytes = pa.decompress(compressed, spooled.mask_size, codec=_CODEC, asbytes=True)
        return mask
