"""Swath as one zip that a cluster unpacks: the content of its wheel except deploy/, whether Swath
is installed or runs from a checkout.

Written here and not by pip, which would need a build backend and an index to fetch it from. The
same files give the same bytes, so that a cluster keeps one copy of them.
"""

from __future__ import annotations

import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

import jobs
import pipeline
import segformer

PACKAGES = (segformer, pipeline, jobs)
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold."""


def version() -> str:
    """The version of Swath."""
    return metadata.version("swath")


def write_package(folder: Path) -> Path:
    """Write a zip into the folder, named by its content: the packages as they are imported here,
    and the metadata, which holds the version."""
    target = folder / "swath.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(_files().items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    return target.rename(folder / f"swath-{digest[:16]}.zip")


def _files() -> dict[str, bytes]:
    files = {f"swath-{version()}.dist-info/METADATA": _metadata().encode()}
    for package in PACKAGES:
        (root,) = package.__path__
        for path in Path(root).rglob("*.py"):
            files[path.relative_to(Path(root).parent).as_posix()] = path.read_bytes()
    return files


def _metadata() -> str:
    """The metadata of the installed wheel, or of the checkout."""
    swath = metadata.distribution("swath")
    text = swath.read_text("METADATA") or swath.read_text("PKG-INFO")
    assert text is not None
    return text
