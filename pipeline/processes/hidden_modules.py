"""Modules that libraries import wherever they find them, hidden from them for a while.

For processes of ours alone: rasterio's boto3 and pyarrow's pandas take half a second, and nothing
here uses them. Knows no library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Hiding:
    """Finds that modules of these names are not installed."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        del path, target
        if fullname in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextmanager
def hidden_modules(*names: str) -> Iterator[None]:
    """While open, importing these modules raises ModuleNotFoundError in this process, unless they
    have been imported before."""
    finder = _Hiding(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
