"""The records of the crash campaign: one JSON line for each case, their summary and table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.support.fault_cases import FAULTS, PHASES, Case

Record = dict[str, Any]
VERDICTS = ("survived", "resumed", "failed")


class Results:
    """A file of JSON lines, one per finished case."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.records: dict[int, Record] = {r["number"]: r for r in map(json.loads, lines)}

    def check(self, cases: Iterable[Case]) -> None:
        """Exit the program if the file is about another list of cases."""
        for case in cases:
            record = self.records.get(case.number, {})
            if any(record.get(name, value) != value for name, value in asdict(case).items()):
                sys.exit(
                    f"{self._path}: its case {case.number} is another one; name a new --results"
                )

    def add(self, record: Record) -> None:
        """Append a record, so that it survives a crash of this machine."""
        self.records[record["number"]] = record
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def requests_struck(log: list[Record]) -> int:
    """The number of requests that the proxy damaged or that the server did not answer."""
    return sum(e["status"] is None or not _undisturbed(e) for e in log)


def units_written_twice(log: list[Record]) -> int:
    """The number of units whose file was put more than once with undisturbed requests.

    Not wrong in itself: Ray repeats a task whose worker has died, and a client repeats a request
    that was not answered in time.
    """
    puts = [e for e in log if e["line"].startswith("PUT ") and "/work/" in e["line"]]
    sound = Counter(e["line"] for e in puts if e["status"] == 200 and _undisturbed(e))
    return sum(count > 1 for count in sound.values())


def _undisturbed(entry: Record) -> bool:
    return not {*entry["faults"]} - {"hold"}


def summary(records: list[Record]) -> Record:
    """The numbers of cases that survived, resumed and failed, in total and by fault and phase."""
    by_kind: dict[str, dict[str, dict[str, int]]] = {}
    for fault in FAULTS:
        for phase in PHASES:
            matching = [r for r in records if (r["fault"], r["phase"]) == (fault, phase)]
            if matching:
                by_kind.setdefault(fault, {})[phase] = dict(Counter(map(verdict, matching)))
    verdicts = Counter(map(verdict, records))
    return {
        "cases": len(records),
        **{name: verdicts[name] for name in VERDICTS},
        "by_runner": dict(Counter(r["runner"] for r in records)),
        "requests_struck": sum(r.get("requests_struck", 0) for r in records),
        "units_written_twice": sum(r.get("units_written_twice", 0) for r in records),
        "failed_cases": [r["number"] for r in records if r["problems"]],
        "commits": sorted({r["commit"] for r in records}),
        "by_fault_and_phase": by_kind,
    }


def verdict(record: Record) -> str:
    """One of VERDICTS: what a case came to."""
    return "failed" if record["problems"] else str(record["outcome"])


def table(report: Record) -> str:
    """A text table of faults and phases: survived+resumed, and the number that failed."""
    lines = [["survived+resumed", *PHASES]]
    for fault, phases in report["by_fault_and_phase"].items():
        lines.append([fault, *(_cell(phases.get(phase)) for phase in PHASES)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "-"
    failed = counts.get("failed", 0)
    good = f"{counts.get('survived', 0)}+{counts.get('resumed', 0)}"
    return f"{good}, {failed} failed" if failed else good


def commit() -> str:
    """The commit of the running code by `git describe`; "unknown" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
