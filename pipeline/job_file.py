"""A job as a TOML file: INPUTs, checkpoint, output and the options of `run`, by their names.

Its keys and types are the fields of Settings and Execution; what their values may be, these say.
Knows where in its text a key stands, and how a job is written, nothing of what is done with it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Self, get_type_hints

import tomli_w

from pipeline.errors import DeniedError, UsageError
from pipeline.settings import Execution, Settings, format_replicas
from pipeline.share import Share
from pipeline.storage.access import Access
from pipeline.storage.retry import call_store
from pipeline.storage.store import Store

PATHS = ("inputs", "checkpoint", "output")
OPTIONS = "storage-options"
_HEAD = "# A job of Swath, as it was run: swath run --job FILE\n"
_LEFT_OPEN = re.compile(r"character '\\n'|Unterminated|Unclosed|Expected '\]'|Expected \"'")
"""What tomllib says then."""
_SYNTAX = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


@dataclass(frozen=True)
class _Kind:
    """What a value may be."""

    words: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


_TEXT = _Kind('text in quotes, such as "/data"', _is_text)
_KINDS: dict[Any, _Kind] = {
    str: _TEXT,
    bool: _Kind("true or false", lambda value: isinstance(value, bool)),
    int: _Kind("a whole number", _is_whole),
    float: _Kind("a number", lambda value: _is_whole(value) or isinstance(value, float)),
    tuple[int, ...]: _Kind(
        "a list of whole numbers, one or more, such as [4, 3, 2]", _list_of(_is_whole)
    ),
    int | tuple[int, int]: _Kind(
        'a whole number, or text such as "2:8"', lambda value: _is_whole(value) or _is_text(value)
    ),
    Share: _Kind('text such as "1/4"', _is_text),
    Access: _Kind("a table of options", lambda value: isinstance(value, dict)),
}
"""By the type of a field, without its None."""


def _kinds() -> dict[str, _Kind]:
    """Of every key."""
    known = {"inputs": _Kind('a list of texts, one or more, such as ["/data"]', _list_of(_is_text))}
    known |= dict.fromkeys(PATHS[1:], _TEXT)
    for of in (Settings, Execution):
        for name, hint in get_type_hints(of).items():
            known[_key(name)] = next(k for t, k in _KINDS.items() if hint in (t, t | None))
    return known


def _key(field: str) -> str:
    return OPTIONS if field == "access" else field.replace("_", "-")


@dataclass(frozen=True)
class JobFile:
    """One that has been read and checked."""

    name: str
    """As it was named."""
    text: str
    values: dict[str, Any]
    """By key. Paths are absolute or URLs."""

    @classmethod
    def read(cls, url: str, access: Access) -> Self:
        """Raises UsageError, with the line, for what is no job; what `call_store` raises."""
        fs, path = access.filesystem(url)
        try:
            text = bytes(call_store(url, lambda: fs.cat_file(path), access.patience_s)).decode()
        except FileNotFoundError as error:
            raise UsageError(f"--job {url}: no such file") from error
        except DeniedError as error:
            raise UsageError(f"--job {error}; name a TOML file that can be read") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"--job {url}: not a text file in UTF-8") from error
        file = cls(url, text, _parsed(url, text))
        file._check()
        folder = access.absolute(url).rpartition("/")[0]
        for key in set(PATHS) & file.values.keys():
            value = file.values[key]
            file.values[key] = (
                [_from(folder, path) for path in value] if key == "inputs" else _from(folder, value)
            )
        return file

    def place(self, *keys: str) -> str:
        """Where the key stands, or with several the last, which is in the table of the one before:
        `job.toml, line 7`; where it does not, the file."""
        begin = 1
        lines = self.text.splitlines(keepends=True)
        for number in range(1, len(lines) + 1):
            try:
                so_far = tomllib.loads("".join(lines[:number]))
            except tomllib.TOMLDecodeError:
                continue  # within a value of several lines
            if _holds(so_far, keys):
                return f"{self.name}, line {begin}"
            begin = number + 1
        return self.name

    def _check(self) -> None:
        known = _kinds()
        for key, value in self.values.items():
            if key not in known:
                near = get_close_matches(key.replace("_", "-").lower(), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise UsageError(f"{self.place(key)}: unknown key {key}; {hint}")
            if not known[key].fits(value):
                raise UsageError(f"{self.place(key)}: {key} must be {known[key].words}")
        self._check_access(self.values.get(OPTIONS, {}), OPTIONS)

    def _check_access(self, table: dict[str, Any], *keys: str) -> None:
        for name, value in table.items():
            if isinstance(value, dict):
                self._check_access(value, *keys, name)
            try:
                Access(((name, value),))
            except UsageError as error:
                raise UsageError(f"{self.place(*keys, name)}: {error}") from error


def _holds(table: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True


def _parsed(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Python 3.14 has them as attributes, too; "(at end of document)" has no line.
        if found := _SYNTAX.fullmatch(str(error)):
            what, line, column = found.groups()
            where = f"{name}, line {line}: not TOML: {what} (column {column})"
        else:
            where = f"{name}, line {max(1, len(text.splitlines()))}: not TOML: {error}"
        hint = "; is a quote or a bracket left open?" if _LEFT_OPEN.search(str(error)) else ""
        raise UsageError(f"{where}{hint}") from error


def _from(folder: str, path: str) -> str:
    """A relative path is one from the job file's folder."""
    if "://" in path or path.startswith(("/", "~")) or not path.strip():
        return path
    return f"{folder}/{path}"


def job_file_text(
    inputs: Sequence[str], checkpoint: str, output: str, settings: Settings, execution: Execution
) -> str:
    """The job file that repeats a run. What was left to Swath is left out, but the batch."""
    access = execution.access
    values: dict[str, Any] = {
        "inputs": [access.absolute(path) for path in inputs],
        "checkpoint": access.absolute(checkpoint),
        "output": access.absolute(output),
    }
    for told in (settings, execution):
        for field in fields(told):
            values[_key(field.name)] = _plain(field.name, getattr(told, field.name))
    values[OPTIONS] = dict(access.options) or None
    return _HEAD + tomli_w.dumps(_without_none(values))


def write_job_file(store: Store, name: str, text: str) -> None:
    """A run's own job file stays beside its receipt; the latest run's stands at the top."""
    for path in (f"runs/{name}.toml", "job.toml"):
        store.write(path, text.encode())


def _plain(name: str, value: Any) -> Any:
    """A field's value as TOML has it."""
    if name == "replicas" and value is not None:
        return value if isinstance(value, int) else format_replicas(value)
    if isinstance(value, Share):
        return None if value.whole else str(value)
    return value


def _without_none(value: Any) -> Any:
    """TOML has no null."""
    if isinstance(value, dict):
        return {k: _without_none(item) for k, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value if item is not None]
    return value
