"""A job as a TOML file: INPUTs, checkpoint, output and the options of `run`, by their names.

Its keys and types are the fields of Settings and Execution, which also decide what values are
possible. Knows on which line of the text a key is, and how a job is written.
"""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Self, get_type_hints

from pipeline.errors import DeniedError, UsageError
from pipeline.settings import FILE, Execution, Settings
from pipeline.share import Share
from pipeline.storage.access import Access
from pipeline.storage.retry import call_store
from segformer.checkpoints.hub.name import PREFIX

PATHS = ("inputs", "checkpoint", "output")
OPTIONS = "storage-options"
_LEFT_OPEN = re.compile(r"character '\\n'|Unterminated|Unclosed|Expected '\]'|Expected \"'")
"""What tomllib's messages say if a quote or a bracket is not closed."""
_SYNTAX = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


@dataclass(frozen=True)
class _Kind:
    """A type of value."""

    words: str
    """What a value must be, for messages."""
    fits: Callable[[Any], bool]
    """Whether a TOML value is of this type."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


_TEXT = _Kind('text in quotes, such as "/data"', _is_text)
_KINDS: dict[Any, _Kind] = {
    str: _TEXT,
    bool: _Kind("true or false", lambda value: isinstance(value, bool)),
    int: _Kind("a whole number", _is_whole),
    float | Literal["file"]: _Kind('a number, or "file"', lambda v: _is_number(v) or v == FILE),
    float: _Kind("a number", _is_number),
    tuple[int, ...]: _Kind(
        "a list of whole numbers, one or more, such as [4, 3, 2]", _list_of(_is_whole)
    ),
    tuple[float, ...]: _Kind("a list of numbers, such as [0.4, 0.4, 0.4]", _list_of(_is_number)),
    int | tuple[int, int]: _Kind(
        'a whole number, or text such as "2:8"', lambda value: _is_whole(value) or _is_text(value)
    ),
    Share: _Kind('text such as "1/4"', _is_text),
    Access: _Kind("a table of options", lambda value: isinstance(value, dict)),
}
"""The kind of value for each type of a field, without its None."""


def _kinds() -> dict[str, _Kind]:
    """The type of value of every key."""
    kinds = {"inputs": _Kind('a list of texts, one or more, such as ["/data"]', _list_of(_is_text))}
    kinds |= dict.fromkeys(PATHS[1:], _TEXT)
    for options in (Settings, Execution):
        for name, hint in get_type_hints(options).items():
            kinds[key_of(name)] = next(k for t, k in _KINDS.items() if hint in (t, t | None))
    return kinds


def key_of(field: str) -> str:
    return OPTIONS if field == "access" else field.replace("_", "-")


@dataclass(frozen=True)
class JobFile:
    """A job file that has been read and checked."""

    name: str
    """The path or URL as the user gave it."""
    text: str
    """The whole file."""
    values: dict[str, Any]
    """The values by key. Paths are absolute or URLs."""

    @classmethod
    def read(cls, url: str, access: Access) -> Self:
        """Read and check a file. Raises UsageError, which names the line, if it is not a job, and
        what `call_store` raises."""
        fs, path = access.filesystem(url)
        try:
            data = bytes(call_store(url, lambda: fs.cat_file(path), access.patience_s))
        except FileNotFoundError as error:
            raise UsageError(f"--job {url}: no such file") from error
        except DeniedError as error:
            raise UsageError(f"--job {error}; name a TOML file that can be read") from error
        text = _decoded(url, data)
        file = cls(url, text, _parse(url, text))
        file._check()
        folder = access.absolute(url).rpartition("/")[0]
        for key, value in file.values.items():
            if key == "inputs":
                file.values[key] = [_resolve(folder, path) for path in value]
            elif key in PATHS:
                file.values[key] = _resolve(folder, value)
        return file

    def place(self, *keys: str) -> str:
        """The place where a key is set, as `job.toml, line 7`; several keys name a nested one,
        outermost first. The file's name alone if it is not set.

        tomllib keeps no positions, so this parses ever more lines until the key appears. That is
        quadratic, but only for a message, and job files are short; a line number that is right for
        every notation (dotted keys, tables, values of several lines) is worth it.
        """
        first = 1
        lines = self.text.splitlines(keepends=True)
        for number in range(1, len(lines) + 1):
            try:
                so_far = tomllib.loads("".join(lines[:number]))
            except tomllib.TOMLDecodeError:
                continue  # inside a value of several lines
            if _holds(so_far, keys):
                return f"{self.name}, line {first}"
            first = number + 1
        return self.name

    def _check(self) -> None:
        kinds = _kinds()
        for key, value in self.values.items():
            if key not in kinds:
                near = get_close_matches(key.replace("_", "-").lower(), kinds, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(kinds)}"
                raise UsageError(f"{self.place(key)}: unknown key {key}; {hint}")
            if not kinds[key].fits(value):
                raise UsageError(f"{self.place(key)}: {key} must be {kinds[key].words}")
        self._check_access(self.values.get(OPTIONS, {}), OPTIONS)

    def _check_access(self, table: dict[str, Any], *keys: str) -> None:
        for name, value in table.items():
            if isinstance(value, dict):
                self._check_access(value, *keys, name)
            try:
                Access(((name, value),))
            except UsageError as error:
                raise UsageError(f"{self.place(*keys, name)}: {error}") from error


def _decoded(url: str, data: bytes) -> str:
    """The text, without Windows' byte order mark. Raises UsageError if it is not in UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        kind = "a text file in UTF-16, as PowerShell's > writes"
        raise UsageError(f"--job {url}: {kind}; save it as UTF-8: Set-Content -Encoding utf8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"--job {url}: not a text file in UTF-8; save it as UTF-8") from error


def _holds(table: Any, keys: Sequence[str]) -> bool:
    """Whether a table holds the nested key."""
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Python 3.14 has them as attributes, too; "(at end of document)" has no line.
        if match := _SYNTAX.fullmatch(str(error)):
            what, line, column = match.groups()
            message = f"{name}, line {line}: not TOML: {what} (column {column})"
        else:
            message = f"{name}, line {max(1, len(text.splitlines()))}: not TOML: {error}"
        hint = "; is a quote or a bracket left open?" if _LEFT_OPEN.search(str(error)) else ""
        raise UsageError(f"{message}{hint}") from error


def _resolve(folder: str, path: str) -> str:
    """A path in a job file; relative ones start from the file's folder."""
    if "://" in path or path.startswith(("/", "~", PREFIX)) or not path.strip():
        return path
    return f"{folder}/{path}"
