"""Ids and passed-through fields, by the same rules for JSONL and Parquet."""

import json
from collections.abc import Mapping
from typing import Any

ABSENT = object()


def get_field(row: Mapping[str, Any], name: str) -> Any:
    """Returns a field's value, or `ABSENT`.

    A field of the very name comes first; else dots lead into objects: "doc.text" is
    `row["doc"]["text"]`.
    """
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return ABSENT
        value = value[key]
    return value


def id_text(value: Any) -> str | None:
    """Returns an id as a string; None where one has to be made (null or absent).

    A string stays as it is, the empty one too; a whole number becomes its digits; anything else
    becomes its JSON text.
    """
    if value is None or value is ABSENT:
        return None
    if isinstance(value, str):
        return value
    return _json_text(value)


def meta_json(row: Mapping[str, Any], names: tuple[str, ...]) -> bytes | None:
    """Returns the fields `names` of a row as a JSON object, None if it has none of them.

    Raises:
      UnicodeEncodeError: a value holds an unpaired surrogate.
    """
    values = {name: get_field(row, name) for name in names}
    present = {name: value for name, value in values.items() if value is not ABSENT}
    return _json_text(present).encode("utf-8") if present else None


def _json_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    """Returns values of Parquet that JSON does not have (bytes, times, decimals) as strings."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
