"""The files beside an image that add to it, known by their names: a mask, an `.aux.xml`, a world
file."""

from __future__ import annotations

_ENDINGS = (
    *(".msk", ".aux.xml", ".ovr", ".wld"),
    *(".tfw", ".tifw", ".tiffw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".j2w", ".jp2w"),
)
"""Ends of the names of side-cars, overviews included, which decide nothing here."""


def sidecar_names(name: str) -> list[str]:
    """The names, or paths, of the files that may add to the image of this name or path.

    Masks and `.aux.xml` as GDAL 3.10 spells them; world files, which are read here, also beside an
    image whose name differs from theirs in case.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.rpartition(".")
    names = [f"{base}.msk", f"{base}.MSK", f"{base}.aux.xml"]
    if stem and suffix:
        endings = (f"{suffix[0]}{suffix[-1]}w", f"{suffix}w", "wld")
        names += [
            f"{spelled}.{cased}"
            for spelled in (stem, stem.lower(), stem.upper())
            for ending in endings
            for cased in (ending.lower(), ending.upper())
        ]
    return [f"{folder}{slash}{other}" for other in dict.fromkeys(names)]


def is_mask(name: str) -> bool:
    return name.lower().endswith(".msk")


def is_aux(name: str) -> bool:
    """Whether a side-car is an `.aux.xml`, of which only a part decides anything."""
    return name.endswith(".aux.xml")


def is_world_file(name: str) -> bool:
    """Whether a side-car is neither of the others."""
    return not is_mask(name) and not is_aux(name)


def has_sidecar_name(name: str) -> bool:
    """Whether a file is a side-car by its name, whatever it belongs to."""
    return name.lower().endswith(_ENDINGS)
