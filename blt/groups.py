"""Groups of documents by a kept field, or by the input that they are in: what they are called."""

import hashlib
import json
from collections.abc import Collection
from typing import Any

SOURCE = "source"
MAX_NAME_CHARACTERS = 200
_DIGITS = 8  # of the sha256 of a name that is cut, so that names that differ go on to differ
_ELLIPSIS = "…"


def input_group(kept: Collection[str]) -> str:
    """Returns what grouping by input is called: "source", unless a kept field has that name.

    >>> input_group(["lang"]), input_group(["source"]), input_group(["source", "input_source"])
    ('source', 'input_source', '_input_source')
    """
    name = SOURCE
    while name in kept:
        name = "input_source" if name == SOURCE else f"_{name}"
    return name


def group_name(value: Any) -> str:
    """Returns the name of a group by the value of a field: "" for null, else text, or JSON.

    A name of more than `MAX_NAME_CHARACTERS` is cut to as many: its beginning, an ellipsis, and
    digits that tell it from others with this beginning.
    """
    if value is None:
        return ""
    name = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(name) <= MAX_NAME_CHARACTERS:
        return name
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{name[: MAX_NAME_CHARACTERS - _DIGITS - 1]}{_ELLIPSIS}{digits}"


def is_cut(name: str) -> bool:
    """Tells whether `group_name` has cut a name."""
    return len(name) == MAX_NAME_CHARACTERS and name[-_DIGITS - 1] == _ELLIPSIS
