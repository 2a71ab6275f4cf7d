"""Ids and passed-through fields, by the same rules for every format that has fields."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from blt.corpus.config import EncodeConfig
from blt.corpus.plain import id_text, strict_json

ABSENT = object()


class Fields(NamedTuple):
    """What a document has beside its text.

    Attributes:
      doc_id: None where one has to be made; it may hold unpaired surrogates.
      meta: the kept fields as a JSON object in UTF-8, None if it has none of them.
      found: which fields there are (null or not): bit 0 for the id, bit i + 1 for kept field i.
      changed: how kept fields were changed, of `blt.corpus.plain.CHANGED_COUNTS`.
    """

    doc_id: str | None
    meta: bytes | None
    found: int
    changed: tuple[str, ...]


NO_FIELDS = Fields(None, None, 0, ())


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


def read_fields(
    row: Mapping[str, Any], config: EncodeConfig, *, holds_bytes: bool = False
) -> Fields:
    """Returns the id and the kept fields of a row.

    Args:
      row: its values by name.
      config: names the fields.
      holds_bytes: surrogates in its text stand for bytes that are not UTF-8.

    Raises:
      RecursionError: a field is nested too deeply.
      UnicodeDecodeError: the id is of bytes that are not UTF-8.
    """
    value = get_field(row, config.id_field)
    found = 0 if value is ABSENT else 1
    doc_id = None if value is ABSENT else id_text(value)
    if not config.keep_fields:
        return Fields(doc_id, None, found, ())
    kept = {}
    for number, name in enumerate(config.keep_fields, 1):
        value = get_field(row, name)
        if value is not ABSENT:
            kept[name] = _decoded(value) if type(value) is bytes else value
            found |= 1 << number
    if not kept:
        return Fields(doc_id, None, found, ())
    text, changed = strict_json(kept, holds_bytes=holds_bytes)
    return Fields(doc_id, text.encode("utf-8"), found, changed)


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value
