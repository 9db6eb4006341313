"""Does Swath read every readable raster in a folder as rasterio reads it?

    python -m bench.promises.corpus FOLDER [--lines FILE] [--results FILE]

Every file below FOLDER that rasterio opens, or that has a suffix that Swath looks for, is described
and read window by window with default settings (--scale 1 for other types than uint8), then once
more with all its bands. Pixels and validity are compared with rasterio's masks, color tables, few
bits and negatives also with Pillow, areas of pixels with pyproj. Images above 30 Mpx are compared
in 16 windows. FILE gets a JSON line for each file. The last line on stdout is one JSON document.
Exit code 1: something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.support.comparison import Reading, compare, identify, why_unreadable
from pipeline.errors import UsageError
from pipeline.failure import Rejected
from pipeline.imagery.header_pool import HeaderPool
from pipeline.imagery.image_files import IMAGE_SUFFIXES
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.source import describe_inputs, find_inputs
from pipeline.processes.host import available_cores
from pipeline.processes.sandbox import Limits, Returned, run_in_sandbox
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.raster_oracle import Header

SIDECARS = (".msk", ".ovr", ".aux.xml", ".aux", ".hdr", ".prj")
"""The endings of files that rasterio opens by themselves, but that belong to others."""
MAX_BANDS = 32
ITEM_S, MEMORY_BYTES = 300.0, 4_000_000_000
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=Path, help="gets a JSON line for each file")
    parser.add_argument("--results", type=Path, help="gets the summary")
    options = parser.parse_args()
    records = examine(options.folder)
    if options.lines:
        options.lines.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    summary = summarize(records)
    print(table(summary), file=sys.stderr)
    if options.results:
        options.results.write_text(json.dumps(summary) + "\n")
    print(json.dumps(summary))
    sys.exit(1 if summary["disagreements"] else 0)


def examine(folder: Path) -> list[Record]:
    """One record for each raster below a folder: its verdict, reasons and disagreements."""
    folder = folder.absolute()
    paths = sorted(_files(folder))
    headers: dict[str, Header] = {}
    records: dict[str, Record] = {}
    for path, header in _sandboxed(identify, paths, "headers"):
        looks = path.lower().endswith(IMAGE_SUFFIXES)
        if isinstance(header, Header):
            headers[path] = header
        if isinstance(header, Header) or looks:
            records[path] = _record(Path(path).relative_to(folder), header)
    default = {path: _default(headers.get(path)) for path in records}
    scenes = _describe(default, records)
    refused = [path for path in headers if path not in scenes]
    for path, fault in _sandboxed(why_unreadable, refused, "refused files"):
        records[path]["rasterio"] = fault
    _compare(scenes, records)
    every_band = {}
    for path, scene in scenes.items():
        header, (settings, _) = headers.get(path), default[path]
        bands = header and _bands_of_one_type(header)
        if bands and len(bands) > len(scene.bands):
            every_band[path] = Settings(bands=bands, scale=settings.scale), len(bands)
    _compare(_describe(every_band, records), records)
    return [record | {"verdict": _verdict(record)} for record in records.values()]


def _files(folder: Path) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path) and not name.lower().endswith(SIDECARS):
                yield path


def _record(name: Path, header: Header | str) -> Record:
    """A record of a file that nothing has been compared of yet."""
    record: Record = {"file": str(name), "rasterio": header if isinstance(header, str) else None}
    if isinstance(header, Header):
        names = ("driver", "compression", "width", "height", "dtypes")
        record |= {name: getattr(header, name) for name in names}
    lists = ("refused", "disagreements", "decided")
    return record | {name: [] for name in lists} | {"windows": 0, "refused_by_both": 0, "areas": 0}


def _default(header: Header | None) -> tuple[Settings, int]:
    """The settings under which a file should be read, and the number of channels."""
    if header is None:
        return Settings(), 3
    bands = header.color_bands[: header.channels] or (1,)
    is_uint8 = header.table is not None or all(header.dtypes[b - 1] == "uint8" for b in bands)
    return Settings(scale=None if is_uint8 else 1.0), header.channels


def _bands_of_one_type(header: Header) -> tuple[int, ...]:
    """All bands but alpha, or all colors of a table, that have the first one's type."""
    if header.table is not None:
        return ()
    kinds = list(zip(header.dtypes, header.bits, strict=True))
    bands = [b for b in header.color_bands if kinds[b - 1] == kinds[header.color_bands[0] - 1]]
    return tuple(bands[:MAX_BANDS])


def _describe(
    wanted: dict[str, tuple[Settings, int]], records: dict[str, Record]
) -> dict[str, Scene]:
    """The scenes of files, those of equal settings together; what is refused is recorded."""
    groups: dict[tuple[Settings, int], list[InputFile]] = defaultdict(list)
    path_of: dict[str, str] = {}
    for path, key in wanted.items():
        try:
            (file,) = find_inputs([path], DEFAULT_ACCESS)
        except UsageError as error:
            records[path]["refused"].append(str(error))
        else:
            groups[key].append(file)
            path_of[file.url] = path
    scenes: dict[str, Scene] = {}
    for (settings, channels), files in groups.items():
        described = describe_inputs(files, settings, channels, DEFAULT_ACCESS, HeaderPool())
        for result in described.results:
            if isinstance(result, Rejected):
                path = path_of[result.failure.url]
                records[path]["refused"].append(result.failure.message)
            else:
                scenes[path_of[result.url]] = result
    return scenes


def _ignore(done: int, total: int) -> None:
    del done, total


def _compare(scenes: dict[str, Scene], records: dict[str, Record]) -> None:
    """Compare the scenes with their files, and record what differs."""
    readings = [Reading(path, scene) for path, scene in scenes.items()]
    for reading, report in _sandboxed(compare, readings, "files"):
        record = records[reading.path]
        if isinstance(report, str):
            record["disagreements"].append(report)
            continue
        for name, value in report.items():
            record[name] += value


def _sandboxed(
    function: Callable[[Any], Any], items: Sequence[Any], what: str
) -> Iterator[tuple[Any, Any]]:
    """Each item and the function's value in a process that may die; or how it died, as text."""
    limits = Limits(available_cores(), threads=1, item_s=ITEM_S, memory_bytes=MEMORY_BYTES)
    with closing(run_in_sandbox(function, items, limits)) as outcomes:
        for done, (index, outcome) in enumerate(outcomes, start=1):
            if done % 100 == 0:
                print(f"{what}: {done:,} of {len(items):,}", file=sys.stderr, flush=True)
            value = (
                outcome.value
                if isinstance(outcome, Returned)
                else f"{function.__name__}: {outcome}"
            )
            yield items[index], value


def _verdict(record: Record) -> str:
    if record["disagreements"]:
        return "disagrees"
    if record["rasterio"] is not None or (record["refused_by_both"] and not record["refused"]):
        return "refused by both"
    return "refused" if record["refused"] else "agrees"


def reason_of(message: str) -> str:
    """The kind of refusal: a message without its file, its numbers and its remedy."""
    text = message.split(": ", maxsplit=1)[-1] if message.startswith("/") else message
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\b[\w-]+(\.[\w-]+)+\b", "...", text)
    text = re.sub(r"-?\d[\d.,]*( ?x ?\d+)?", "#", text)
    return text.partition(";")[0][:100]


def summarize(records: Sequence[Record]) -> Record:
    """Counts of files by verdict, driver, compression and reason, and every disagreement."""
    verdicts = Counter(record["verdict"] for record in records)
    known = [record for record in records if "driver" in record]
    refused = [record for record in records if record["verdict"] == "refused"]
    reasons = Counter(reason_of(record["refused"][0]) for record in refused)
    examples = {reason_of(r["refused"][0]): f"{r['file']}: {r['refused'][0]}" for r in refused}
    return {
        "tried": len(records),
        "verdicts": dict(verdicts.most_common()),
        "drivers": dict(Counter(record["driver"] for record in known).most_common()),
        "compressions": dict(Counter(record["compression"] for record in known).most_common()),
        "windows": sum(record["windows"] for record in records),
        "areas": sum(record["areas"] for record in records),
        "decided": dict(Counter(k for r in records for k in set(r["decided"])).most_common()),
        "refused": {
            reason: {"files": count, "example": examples[reason]}
            for reason, count in reasons.most_common()
        },
        "disagreements": {
            record["file"]: record["disagreements"] for record in records if record["disagreements"]
        },
    }


def table(summary: Record) -> str:
    """The summary as lines of text."""
    lines = [f"{summary['tried']:>7,}  rasters tried"]
    for name in ("verdicts", "drivers", "compressions", "decided"):
        lines += [f"{count:>7,}  {name}: {kind}" for kind, count in summary[name].items()]
    lines += [f"{each['files']:>7,}  refused: {kind}" for kind, each in summary["refused"].items()]
    lines += [f"DIFFERS  {file}: {why[0]}" for file, why in summary["disagreements"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
