"""The files beside an image that add to it, known by their names: a mask, an `.aux.xml`, an `.aux`
of Erdas and ArcGIS, a world file."""

from __future__ import annotations

_ENDINGS = (
    *(".msk", ".aux.xml", ".aux", ".ovr", ".wld"),
    *(".tfw", ".tifw", ".tiffw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".j2w", ".jp2w"),
)
"""Ends of the names of side-cars, overviews included, which decide nothing here."""


def sidecar_names(name: str) -> list[str]:
    """The names, or paths, of the files that may add to the image of this name or path.

    Masks, `.aux.xml` and `.aux` as GDAL 3.10 spells them; world files, which are read here, also
    beside an image whose name differs from theirs in case. The usual ones come first.
    """
    base = name.rpartition("/")[2]
    folder, stem, suffix = name[: -len(base)], *_split(base)
    rare = [f"{base}.MSK", f"{stem}.AUX", f"{base}.aux", f"{base}.AUX"]
    if suffix:
        rare += [
            f"{spelled}.{cased}"
            for spelled in (stem, stem.lower(), stem.upper())
            for ending in _world_endings(suffix)
            for cased in (ending.lower(), ending.upper())
        ]
    return list(dict.fromkeys([*usual_sidecar_names(name), *(f"{folder}{n}" for n in rare)]))


def usual_sidecar_names(name: str) -> list[str]:
    """Those of the names that programs give to side-cars, in the case of the image's own, for
    stores that have to be asked for each."""
    base = name.rpartition("/")[2]
    folder, stem, suffix = name[: -len(base)], *_split(base)
    names = [f"{base}.msk", f"{base}.aux.xml", f"{stem}.aux"]
    if suffix:
        names += [f"{stem}.{ending}" for ending in _world_endings(suffix)]
    return [f"{folder}{other}" for other in names]


def _split(base: str) -> tuple[str, str]:
    """A name as its stem and its suffix; the latter is empty if it has no stem."""
    stem, _, suffix = base.rpartition(".")
    return (stem, suffix) if stem else (base, "")


def _world_endings(suffix: str) -> tuple[str, str, str]:
    """The endings of a world file, in the order in which GDAL tries them."""
    wld = "WLD" if suffix.isupper() else "wld"
    w = wld[0]
    return f"{suffix[0]}{suffix[-1]}{w}", f"{suffix}{w}", wld


def is_mask(name: str) -> bool:
    return name.lower().endswith(".msk")


def is_aux(name: str) -> bool:
    """Whether a side-car is an `.aux.xml`, of which only a part decides anything."""
    return name.endswith(".aux.xml")


def is_erdas_aux(name: str) -> bool:
    """Whether a side-car is an `.aux`, which GDAL asks for where there is no `.aux.xml`."""
    return name.lower().endswith(".aux")


def is_world_file(name: str) -> bool:
    """Whether a side-car is none of the others."""
    return not is_mask(name) and not is_aux(name) and not is_erdas_aux(name)


def has_sidecar_name(name: str) -> bool:
    """Whether a file is a side-car by its name, whatever it belongs to."""
    return name.lower().endswith(_ENDINGS)
