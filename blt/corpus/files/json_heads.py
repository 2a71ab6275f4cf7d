"""The objects at the start of JSON Lines: looked at before the work, and for hints."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from blt.corpus.mends import BOM

JSON_BLANKS = b" \t\r\n"
_MAX_FIRST_LINE_BYTES = 64 << 20  # a longer first line is left to encode to judge


def head_objects(blocks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yields the objects among the first lines of a file: those of its first block, at least one.

    Args:
      blocks: of the file, from its start, as `read_blocks` yields them.

    Raises:
      DamagedInputError, OSError: it cannot be read.
    """
    head = b""
    for block in blocks:
        head = (head + block).removeprefix(BOM).lstrip(JSON_BLANKS)
        if b"\n" in head or len(head) > _MAX_FIRST_LINE_BYTES:
            break
    for line in head.split(b"\n"):
        row = _json_object(line)
        if row is not None:
            yield row


def _json_object(line: bytes) -> dict[str, Any] | None:
    """Returns the object in a line; None if there is none, or not all of it."""
    try:
        row = json.loads(line.decode("utf-8", "replace"), parse_int=float)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
