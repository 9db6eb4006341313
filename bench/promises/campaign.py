"""Do runs on a real S3 server, each hit by one fault, give the rows of the undisturbed run?

    python -m bench.promises.campaign [--only NUMBER|RUNNER|FAULT|PHASE ...] [--limit N]
                                  [--results FILE]

Each case (see tests/support/fault_cases.py) is a run of a small job that is disturbed once, then,
unless it survives, the same command again. The rows of all tables are compared with those of the
undisturbed run, bit for bit. Nothing may be computed twice, and no object and no multipart upload
may be left over. A finished case is a line of the results, so the program can be stopped and
started again. It prints what was hit and how it ended; the last line is one JSON document. Exit
code 0: every requested case is done and went well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support import s3_server
from tests.support.archives import write_scene
from tests.support.campaign_records import (
    Record,
    Results,
    commit,
    requests_struck,
    summary,
    table,
    units_written_twice,
)
from tests.support.checkpoints import save_small
from tests.support.fault_cases import BUCKET, Case, cases
from tests.support.fault_injection import Proxy, Run, StoreBroken, Trouble, reach, strike
from tests.support.outputs import differences, outcomes, receipts, recomputed_by_last, stray_files

RESULTS = Path(__file__).parents[1] / "results" / "campaign_epyc_2026-11.jsonl"
LIMIT_S = 300
"""The longest that a run may take before it counts as hanging."""
SIZES = [(700, 600), (1100, 520), (200, 150), (300, 260), (260, 200), (180, 190), (400, 330)]
"""Widths and heights in pixels: two scenes of several blocks, and small ones that share units."""
OPTIONS = ["--window", "64", "--stride", "48", "--block", "512"]
_SETTLES_WITHIN_S = 30
_IN = f"s3://{BUCKET}/in"
_CALM = f"s3://{BUCKET}/calm"


@dataclass(frozen=True)
class Site:
    """The place of the cases: the server, with the inputs and the output of the undisturbed run."""

    server: s3_server.Server
    proxy: Proxy
    folder: Path
    checkpoint: str
    sessions: str
    """The folder of Ray's sessions. Its name is short because the paths of Ray's sockets begin with
    it and may have 107 bytes. The sessions of killed drivers are deleted by this program."""

    def run(self, runner: str, out: str, log: Path) -> Run:
        """Start `swath run`, which reaches the server through the proxy."""
        arguments = [_IN, "--checkpoint", self.checkpoint, "--output", out, "--runner", runner]
        environment = {
            **self.server.environment(),
            "AWS_ENDPOINT_URL": self.proxy.url,
            "RAY_TMPDIR": self.sessions,
            "RAY_AUTH_MODE": "disabled",
            "OMP_WAIT_POLICY": "passive",
        }
        return Run([*arguments, *OPTIONS], environment, log, LIMIT_S)


@contextlib.contextmanager
def open_site(server: s3_server.Server, folder: Path) -> Iterator[Site]:
    """Put the inputs into a new bucket, and run over them undisturbed."""
    server.make_bucket(BUCKET)
    for number, size in enumerate(SIZES):
        path = write_scene(folder / "in" / f"{number}.tif", *size, seed=number, tiled=number != 3)
        s3_server.client().put_file(str(path), f"{_IN}/{path.name}")
    proxy, sessions = Proxy(server.url), tempfile.mkdtemp(prefix="ray-")
    try:
        site = Site(server, proxy, folder, save_small(folder / "checkpoint"), sessions)
        calm = site.run("local", _CALM, folder / "calm.log")
        calm.wait()
        if calm.process.returncode:
            raise Trouble(f"the undisturbed run: {calm.stderr_end()}")
        yield site
    finally:
        proxy.close()
        shutil.rmtree(sessions, ignore_errors=True)


def carry_out(case: Case, site: Site) -> Record:
    """Carry out one case and return its record.

    Its list of problems is empty if all is well; otherwise the case's folder holds what its runs
    printed, their requests and their output. Raises StoreBroken.
    """
    out, folder = f"s3://{BUCKET}/{case.number:03d}", site.folder / f"{case.number:03d}"
    folder.mkdir()
    record: Record = asdict(case)
    started = time.monotonic()
    runs: list[Run] = []
    site.proxy.clear()
    try:
        record |= _disturbed(case, site, out, runs)
        if record["exit_codes"] != [0]:
            record |= _again(case, site, out, runs)
        record["problems"] = problems_of(record, out)
    except StoreBroken:
        raise
    except Trouble as error:
        record["problems"] = [str(error)]
    except Exception as error:  # noqa: BLE001 - a verdict on this case only; the others are still run
        record["problems"] = [f"cannot be checked: {error!r}"]
    finally:
        for run in runs:
            run.end()
        (folder / "last.json").write_text(json.dumps(site.proxy.log(), indent=1))
        site.proxy.clear()
        shutil.rmtree(Path(site.sessions) / "ray", ignore_errors=True)
    record["seconds"] = round(time.monotonic() - started, 1)
    if record["problems"]:
        _fetch(out, folder)
    else:
        shutil.rmtree(folder)
        s3_server.client().rm(out, recursive=True)
    return record


def _disturbed(case: Case, site: Site, out: str, runs: list[Run]) -> Record:
    folder = site.folder / f"{case.number:03d}"
    run = site.run(case.runner, out, folder / "first.log")
    runs.append(run)
    struck_at = reach(case, run, site.proxy, out.removeprefix("s3:/"))
    strike(case, run, site.server, site.proxy)
    run.wait()
    _let_settle(site.proxy)
    log = site.proxy.log()
    (folder / "first.json").write_text(json.dumps(log, indent=1))
    return {
        "struck_at": struck_at,
        "requests_struck": requests_struck(log),
        "units_written_twice": units_written_twice(log),
        "exit_codes": [run.process.returncode],
        "said": (run.stderr_end().splitlines() or [""])[-1] if run.process.returncode else "",
        "outcome": "resumed" if run.process.returncode else "survived",
    }


def _let_settle(proxy: Proxy) -> None:
    """Wait for the requests that outlive their sender: what the next run finds must not change."""
    end = time.monotonic() + _SETTLES_WITHIN_S
    while proxy.state()["active"] and time.monotonic() < end:
        time.sleep(0.05)


def _again(case: Case, site: Site, out: str, runs: list[Run]) -> Record:
    """Run the same command undisturbed."""
    site.proxy.clear()
    before = outcomes(out)
    leave_an_upload(out)
    folder = site.folder / f"{case.number:03d}"
    run = site.run(case.runner, out, folder / "second.log")
    runs.append(run)
    run.wait()
    return {
        "units_done_before": before,
        "exit_codes": [runs[0].process.returncode, run.process.returncode],
    }


def leave_an_upload(out: str) -> None:
    """Leave a multipart upload, as a killed writer of a table of 100 MB or more does. The tables of
    this job have one part."""
    key = f"{out.removeprefix(f's3://{BUCKET}/')}/masks/000000.parquet"
    s3_server.client().call_s3("create_multipart_upload", Bucket=BUCKET, Key=key)


def problems_of(record: Record, out: str) -> list[str]:
    first, last = record["exit_codes"][0], record["exit_codes"][-1]
    problems = []
    if first in (2, 3):
        problems.append(f"a transient failure was taken for a verdict: exit code {first}")
    if last:
        return [*problems, f"the same command again: exit code {last}"]
    record["units"] = receipts(out)[-1]["units"]
    twice = recomputed_by_last(out, record.get("units_done_before", 0))
    if twice > 0:
        problems.append(f"{twice} units computed though they were done")
    problems += [f"differs: {column}" for column in differences(_CALM, out)]
    problems += [f"stray: {name}" for name in stray_files(out)]
    prefix = f"{out.removeprefix(f's3://{BUCKET}/')}/"
    page = s3_server.client().call_s3("list_multipart_uploads", Bucket=BUCKET, Prefix=prefix)
    problems += [f"multipart upload: {upload['Key']}" for upload in page.get("Uploads", ())]
    return problems


def _fetch(out: str, folder: Path) -> None:
    fs, root = s3_server.client(), out.removeprefix("s3://")
    for name in fs.find(root):
        target = folder / "out" / name.removeprefix(f"{root}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(name, str(target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NUMBER|RUNNER|FAULT|PHASE")
    parser.add_argument("--limit", type=int, help="do at most this many cases")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    chosen = [case for case in cases() if case.is_one_of(options.only)]
    results = Results(options.results)
    results.check(chosen)
    todo = [case for case in chosen if case.number not in results.records][: options.limit]
    if todo:
        try:
            _work_off(todo, results)
        except (KeyboardInterrupt, StoreBroken) as error:
            print(f"stopped: {error!r}; the same command resumes the run", file=sys.stderr)
    left = [case.number for case in todo if case.number not in results.records]
    records = [results.records[c.number] for c in chosen if c.number in results.records]
    report = {**summary(records), "asked_for_and_not_done": len(left)}
    print(table(report))
    print(json.dumps(report))
    sys.exit(1 if left or report["failed"] else 0)


def _work_off(todo: list[Case], results: Results) -> None:
    # A short path: a Unix socket's, which Ray makes below it, has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="swath-"))
    bad = 0
    try:
        with s3_server.running() as server, open_site(server, folder) as site:
            for number, case in enumerate(todo, 1):
                record = {**carry_out(case, site), "commit": commit()}
                results.add(record)
                bad += bool(record["problems"])
                verdict = "; ".join(record["problems"])[:2000] or record["outcome"]
                what = f"{case.runner}, {case.fault}, {case.phase}, {record['seconds']} s"
                print(
                    f"{number} of {len(todo)}: case {case.number}, {what}: {verdict}",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        if bad:
            print(f"the output of the bad cases is kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
