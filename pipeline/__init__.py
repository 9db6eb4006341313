"""Swath's pipeline: archives of imagery in, queryable Parquet tables out.

`plan`, `run`, `status`, `query` and `open_output` do what the commands do. Each is imported when it
is first asked for, because torch and Ray take seconds to load and SQL needs neither.
"""

import os
from importlib import import_module
from typing import Any

# A thread of Ray Data that outlives its cluster, as after Ctrl-C, would start a new one by itself.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

# Formats that are a few lines of text naming a server or other files: an archive could hide them
# under any name, and reading it would send our requests.
os.environ.setdefault(
    "GDAL_SKIP", "DAAS EEDA EEDAI ESRIC GTI HTTP MRF PLMOSAIC STACIT STACTA WCS WMS WMTS"
)

_HOMES = {
    "plan": "api",
    "run": "api",
    "status": "output.status",
    "query": "output.query",
    "open_output": "output.query",
}

__all__ = ["open_output", "plan", "query", "run", "status"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipeline.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
