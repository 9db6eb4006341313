"""The identity of an input's bytes: one answer for the survey, for runs and for side-cars.

A link is what it leads to. Knows names, sizes, times and ETags as a store gives them, and reads no
file but an `.aux.xml` and the start of an `.aux`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.doubt import Doubt
from pipeline.errors import DeniedError
from pipeline.imagery.aux_xml import MAX_BYTES, decisive_version, whole_version
from pipeline.imagery.sidecars import is_aux, is_erdas_aux, is_mask, sidecar_names
from pipeline.storage.access import Access, FileSystem
from pipeline.storage.local_tree import dead_link
from pipeline.storage.retry import call_store
from pipeline.storage.store import THREADS

Info = dict[str, Any]
"""fsspec's record of a file: name, type, size, mtime or ETag."""
Listing = Mapping[str, Info | None]
"""Files by their paths; None: known by name alone."""
NO_FILE = "no-file"
"""The version of a link that leads nowhere, and of a file that cannot be asked about."""
_ERDAS_MAGIC = b"EHFA_HEADER_TAG"
"""How an `.aux` of Erdas or ArcGIS begins; LaTeX leaves others."""


@dataclass(frozen=True)
class Identity:
    """What a file and its side-cars are at the moment."""

    version: str
    """As in InputFile."""
    sidecars: tuple[str, ...]
    """Names of the side-cars that decide something."""
    size_bytes: int | None
    """The size of the file without them; None: not known."""
    doubts: tuple[Doubt, ...]
    """About side-cars that decide nothing although they should."""


def version_of(url: str, sidecars: Sequence[str], access: Access) -> str:
    """The current version of a file and its side-cars, as in InputFile.

    On local disk, side-cars that have appeared meanwhile count, because GDAL would read them.
    Raises FileNotFoundError; TransientError and UsageError if the store does not say.
    """
    files = Files.of(url, access)
    folder = files.path.rpartition("/")[0]
    names = [f"{folder}/{name}" for name in sidecars]
    if files.is_local:
        there = [name for name in sidecar_names(files.path) if os.path.lexists(name)]
        names = _read_by_gdal(files.path, _distinct([*names, *there]), there)
    image = _version(files.info(files.path))
    parts = [files.sidecar_version(name, None)[0] for name in names]
    return " ".join([image, *filter(None, parts)])


@dataclass(frozen=True)
class Files:
    """The file system of one path or URL."""

    fs: FileSystem
    path: str
    """The path on it."""
    is_local: bool
    patience_s: float

    @classmethod
    def of(cls, url: str, access: Access) -> Files:
        fs, path = access.filesystem(url)
        return cls(fs, path, "://" not in access.absolute(url), access.patience_s)

    @property
    def is_web(self) -> bool:
        return self.path.startswith(("http://", "https://"))

    def info(self, name: str) -> Info:
        """The store's record of a file. Raises what `call_store` raises."""
        return call_store(name, lambda: dict(self.fs.info(name)), self.patience_s)

    def identity(self, name: str, listing: Listing) -> Identity:
        """The identity of a listed file, with those of its side-cars that are listed, too."""
        try:
            info = self._known(name, listing[name])
        except (FileNotFoundError, DeniedError):  # whoever opens it will say so
            info = None
        versions, doubts, sidecars = [_version(info)], [], []
        there = [other for other in sidecar_names(name) if other in listing]
        if self.is_local:
            there = _distinct(there)
        for other in _read_by_gdal(name, there, there):
            try:
                version, doubt = self.sidecar_version(other, listing[other])
            except (FileNotFoundError, DeniedError):  # gone since it was listed, or as good as that
                continue
            doubts += [doubt] if doubt else []
            if version:
                versions.append(version)
                sidecars.append(other.rpartition("/")[2])
        size_bytes = info["size"] if info else None
        return Identity(" ".join(versions), tuple(sidecars), size_bytes, tuple(doubts))

    def sidecar_version(self, name: str, info: Info | None) -> tuple[str | None, Doubt | None]:
        """The version of a side-car, None if it decides nothing, and what is doubtful about it.

        info: what a listing says of it. Raises FileNotFoundError if there is none, DeniedError if
        its store says no more than that, and what else `call_store` raises.
        """
        base = name.rpartition("/")[2]
        try:
            known = self._known(name, info)
        except (FileNotFoundError, DeniedError):
            if not (self.is_local and os.path.lexists(name)):
                raise
            if is_mask(base):  # whoever describes the image will say so
                return NO_FILE, None
            return None, Doubt("side_car", f"{base}: {dead_link(name) or 'it cannot be read'}")
        size = known.get("size")
        is_erdas = is_erdas_aux(base)
        if size is None or not (is_erdas or (is_aux(base) and size <= MAX_BYTES)):
            return _version(known), None
        try:
            data = self._read(name, min(size, len(_ERDAS_MAGIC)) if is_erdas else size)
        except DeniedError:
            return None, Doubt("side_car", f"{base}: it cannot be read")
        if is_erdas:
            return (_version(known) if data == _ERDAS_MAGIC else None), None
        return _aux_version(base, data)

    def _read(self, name: str, size: int) -> bytes:
        """The first `size` bytes of a file, in one request: without an end, s3fs asks for the size
        again."""

        def attempt() -> bytes:
            return bytes(self.fs.cat_file(name, start=0, end=size))

        return call_store(name, attempt, self.patience_s) if size else b""

    def _known(self, name: str, info: Info | None) -> Info:
        """The record of a file, asked for unless a listing has told it. (A page of links tells no
        sizes.)"""
        return info if info and info.get("size") is not None else self.info(name)

    def beside(self, names: Sequence[str]) -> dict[str, Info | None]:
        """Those of the named files that exist. A refused one is treated as absent; a store that
        fails says nothing about absence. A page of a web server that answers whatever it is asked
        for is no file."""
        if self.is_local:
            return dict.fromkeys(_distinct([name for name in names if os.path.lexists(name)]))
        with ThreadPoolExecutor(THREADS) as pool:
            infos = pool.map(self._info_or_none, names)
            pairs = list(zip(names, infos, strict=True))
        return {name: info for name, info in pairs if info}

    def _info_or_none(self, name: str) -> Info | None:
        try:
            info = self.info(name)
        except (FileNotFoundError, DeniedError):
            return None
        return None if info.get("mimetype") == "text/html" else info


def _distinct(names: Sequence[str]) -> list[str]:
    """The local paths without folders, and without those that are only other spellings of an
    earlier one: a disk that ignores case has a file under each."""
    distinct: dict[Any, str] = {}
    for name in names:
        if os.path.isdir(name):
            continue
        try:
            status = os.lstat(name)
        except OSError:  # whoever asks for it will say so
            distinct.setdefault(name, name)
        else:
            distinct.setdefault((status.st_dev, status.st_ino), name)
    return list(distinct.values())


def _read_by_gdal(image: str, names: Sequence[str], there: Sequence[str]) -> list[str]:
    """Those of an image's side-cars that may be read: where `there` has an `.aux.xml`, GDAL asks
    for no `.aux`, because it has put all of one into the other."""
    has_aux = f"{image}.aux.xml" in there
    return [name for name in names if not (has_aux and is_erdas_aux(name))]


def _aux_version(base: str, data: bytes) -> tuple[str | None, Doubt | None]:
    """See `Files.sidecar_version`, for an `.aux.xml` of this name with these bytes."""
    if not data.strip():
        return None, Doubt("side_car", f"{base}: it is empty")
    try:
        return decisive_version(data), None
    except ValueError as error:
        return whole_version(data), Doubt("no_xml", f"{base}: it is {error}")


def _version(info: Info | None) -> str:
    if info is None:
        return NO_FILE
    etag = info.get("ETag") or info.get("etag")
    if etag:
        return str(etag).strip('"')
    return f"{info['size']}-{info.get('mtime') or info.get('Last-Modified', '')}"
