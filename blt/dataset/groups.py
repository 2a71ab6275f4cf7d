"""Groups of documents by a kept field, or by the input that they are in: what they are called."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from blt.cli.console import count, format_bytes

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


def describe_bounds(summary: Mapping[str, Any]) -> list[str]:
    """Returns what a summary of scores does not show of its groups, and where it is inexact.

    Args:
      summary: from `blt.scoring.summary.summarize_scores`.
    """
    lines = []
    for name, groups in summary.get("by", {}).items():
        shown, left_out, other = len(groups["values"]), groups["left_out"], groups.get("other")
        if other is not None:
            number = "more than are followed" if left_out is None else f"{left_out:,}"
            lines.append(
                f"by {name}: {count(shown, 'group')} shown, the others ({number}) are summed as "
                f"other: {count(other['documents'], 'document')}, {format_bytes(other['bytes'])}"
            )
        if cut := groups.get("cut_names"):
            longest = f"longer than {MAX_NAME_CHARACTERS} characters, cut"
            lines.append(f"by {name}: {count(cut, 'name')} {longest}")
    if error := summary.get("percentile_error_bits"):
        lines.append(f"percentiles: within {error:g} bits, there being very many documents")
    return lines
