"""Masks on local disk, until their turn in a table comes: each is written and read once.

Knows neither rows nor tables. The file has no name, so nothing of it survives the process.
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
    """The place of a mask in the spool, in bytes."""

    offset: int
    size: int
    """The size on disk, compressed."""
    mask_size: int
    """The size of the mask, decompressed."""


class Spool:
    """A nameless file of compressed masks."""

    def __init__(self, folder: str | None) -> None:
        """folder: where the file is; None: the folder for temporary files, which TMPDIR names.
        Raises UnfinishedError if no file can be created there."""
        self._folder = folder or "a temporary file"
        try:
            self._folder = folder or tempfile.gettempdir()
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - __exit__ closes it
        except OSError as error:
            raise self._unfinished(error) from error
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
        except OSError:  # a full disk fails once more
            if error is None:
                raise

    def put(self, mask: pa.Buffer) -> Spooled:
        """Append a mask. Raises UnfinishedError if the disk is full or fails."""
        compressed = pa.compress(mask, codec=_CODEC)
        try:
            self._file.seek(self._end)
            self._file.write(compressed)
            self._file.flush()
        except OSError as error:
            raise self._unfinished(error) from error
        spooled = Spooled(self._end, compressed.size, mask.size)
        self._end += compressed.size
        return spooled

    def get(self, spooled: Spooled) -> bytes:
        """A mask that was put."""
        self._file.seek(spooled.offset)
        compressed = self._file.read(spooled.size)
        mask: bytes = pa.decompress(compressed, spooled.mask_size, codec=_CODEC, asbytes=True)
        return mask

    def _unfinished(self, error: OSError) -> UnfinishedError:
        return UnfinishedError(
            f"{self._folder}: {error.strerror}, while masks are put in order there; free some"
            " space (if OUT is in an object store, TMPDIR can name another folder), and run the"
            " same command again"
        )
