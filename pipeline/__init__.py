"""Swath's pipeline: archives of imagery in, queryable Parquet tables out.

`plan`, `run`, `status`, `query` and `open_output` do what the commands do. Each is imported when it
is first used, because torch and Ray take seconds to load and SQL needs neither.

Its files and rooms; each imports only those above it:

errors.py      the exceptions, and the log of warnings
version.py     the version of Swath
scene.py       Scene, Rect: a raster on one pixel grid, a rectangle of it
processes/     available cores and memory, limits, workers that may crash
earth/         areas and outlines of pixel grids on the Earth
storage/       local and remote files: retries, atomic writes, locks
doubt.py       Doubt: what a user should look at in an input that is segmented all the same
failure.py     Failure: a row of `quarantine`
progress.py    Progress: the state of a run at one moment
share.py       Share, --shards I/N: one driver's part of an output
settings.py    Settings, Execution, Trial: the options of a job
receipt.py     Receipt, Status: the record of a run, the state of an output
estimate.py    Estimate: work, time, memory and cost of a plan
grid.py        WindowGrid: windows, blocks, halos and mask tiles, in pixels
unit.py        Unit: the unit of work, and its forms between the stages
verdict.py     whose fault an error of a library is
job.py         Job: everything that decides the rows, its fingerprint
model.py       Model: what a plan needs to know of a checkpoint
job_file.py    JobFile: a job as a TOML file
job_writer.py  job.toml: a run as a job file
checkpoint.py  reading a checkpoint through a store
imagery/       inputs, headers and pixels of raster files
output/        the tables, and the records that resume a run
planning/      the division into shards and units; predicted memory and time
engine/        windows through the network, blended into masks
stages.py      read, segment, finish, publish: what each stage does to a unit
cluster/       the stages on Ray
trial/         what `plan` computes: calibration and samples
driver/        preparing a run, watching it, its receipt
api.py         plan and run
"""

import os
from importlib import import_module
from typing import Any

from pipeline.processes.variables import settle_variables

# A thread of Ray Data that outlives its cluster, as after Ctrl-C, would start a new cluster.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

# In every process, before GDAL, PROJ and torch start.
settle_variables()

_MODULES = {
    "plan": "api",
    "run": "api",
    "status": "output.status",
    "query": "output.query",
    "open_output": "output.query",
}

__all__ = ["open_output", "plan", "query", "run", "status"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipeline.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
