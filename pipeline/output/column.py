"""Words about a column as Arrow field metadata: what it means, its unit, when it is null.

The keys are `description`, `unit` and `null`. Knows no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa


def described(
    name: str, kind: pa.DataType, description: str, *, unit: str = "", null: str = ""
) -> pa.Field:
    """A field that carries its words; unit: empty for what is not measured; null: when the value is
    null, empty for never."""
    words = {"description": description, "unit": unit, "null": null}
    return pa.field(name, kind, metadata={key: text for key, text in words.items() if text})


def without_metadata(schema: pa.Schema) -> pa.Schema:
    """The schema without descriptions, those of nested fields included."""
    return pa.schema([_plain(field) for field in schema])


def _plain(field: pa.Field) -> pa.Field:
    kind = field.type
    if pa.types.is_struct(kind):
        kind = pa.struct([_plain(child) for child in kind])
    elif pa.types.is_list(kind):
        kind = pa.list_(_plain(kind.value_field))
    return pa.field(field.name, kind)


@dataclass(frozen=True)
class Column:
    """A column, or a field inside one, for people to read."""

    name: str
    """Fields of a nested column follow it as `bbox.xmin`."""
    type: str
    """Arrow's name of the type; of a nested one without its fields."""
    unit: str
    """Empty for what is not measured."""
    null: str
    """When the value is null; empty: never."""
    description: str


def columns(schema: pa.Schema) -> Iterator[Column]:
    """The columns in order, each nested one followed by its fields."""
    yield from _described(schema, "")


def _described(fields: Iterable[pa.Field], prefix: str) -> Iterator[Column]:
    for field in fields:
        words = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        is_list = pa.types.is_list(field.type)
        kind = field.type.value_type if is_list else field.type
        nested = pa.types.is_struct(kind)
        name = "struct" if nested else str(kind)
        yield Column(
            prefix + field.name,
            f"list of {name}" if is_list else name,
            words.get("unit", ""),
            words.get("null", ""),
            words.get("description", ""),
        )
        if nested:
            yield from _described(kind, f"{prefix}{field.name}.")
