"""Groups of documents by a kept field, or by the input that they are in: what they are called."""

import json
from collections.abc import Collection
from typing import Any

SOURCE = "source"


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
    """Returns the name of a group by the value of a field: "" for null, else text, or JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
