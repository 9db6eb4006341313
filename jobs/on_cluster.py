"""The program of a submitted job: `swath`, or one line if the cluster's Python cannot run it.

Imports nothing at its top, and is a text that earlier versions of Python can read.
"""

from __future__ import annotations

import sys
from typing import NoReturn

_OLDEST = (3, 11)
_USAGE = 2


def main() -> None:
    """Run one command and exit with its code. Never returns."""
    if sys.version_info < _OLDEST:
        _refuse(f"Swath needs Python {_OLDEST[0]}.{_OLDEST[1]} or later")
    try:
        from jobs.cli import main as swath  # noqa: PLC0415

        swath()
    except ImportError as error:
        _refuse(" ".join(str(error).split()))


def _refuse(why: str) -> NoReturn:
    version = ".".join(map(str, sys.version_info[:3]))
    print(
        f"swath: error: {sys.executable} (Python {version}) is the `python` on the PATH of the"
        f" cluster's head, and cannot run Swath: {why}; install Swath's dependencies for it, or put"
        " the Python that has them first on the PATH on which `ray start` is called",
        file=sys.stderr,
    )
    sys.exit(_USAGE)


if __name__ == "__main__":
    main()
