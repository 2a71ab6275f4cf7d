"""What can be told to be the user's mistake before any work is done."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.columns import UnusableFileError, check_text_column
from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import DamagedInputError, read_blocks
from blt.corpus.fields import ABSENT, get_field
from blt.corpus.jsonl_reader import BOM, JSON_BLANKS
from blt.corpus.plan import Entry
from blt.errors import UserError, near_names

_MAX_FIRST_LINE_BYTES = 64 << 20  # a longer first line is left to encode to judge


def check_inputs(payloads: Sequence[dict[str, Any]], config: EncodeConfig) -> None:
    """Checks that the text field is there, in one JSONL and one Parquet file at least.

    Cheap where all is well: it looks at the start of files until it has found the field. Files that
    cannot be judged (empty, damaged) are passed over; encoding will report them.

    Args:
      payloads: as `build_plan` made them.
      config: how they will be read.

    Raises:
      UserError: no JSONL file has the text field in its first object, or no Parquet file has the
        text column; names the first such file, the fields it has, and the nearest.
    """
    entries = [entry for payload in payloads for entry in payload["files"]]
    for format_name, fields_of in (("jsonl", _jsonl_fields), ("parquet", _parquet_fields)):
        _check_format(
            [entry for entry in entries if entry["format"] == format_name], fields_of, config
        )


def _check_format(
    entries: list[Entry], fields_of: Callable[[Entry, str], list[str] | None], config: EncodeConfig
) -> None:
    """Raises if some files were judged and none has the text field."""
    failed: tuple[Entry, list[str]] | None = None
    for entry in entries:
        try:
            missing = fields_of(entry, config.text_field)
        except (DamagedInputError, ValueError, RecursionError, OSError, pa.ArrowException):
            continue
        if missing is None:
            return
        failed = failed or (entry, missing)
    if failed is not None:
        entry, names = failed
        kind = "column" if entry["format"] == "parquet" else "field"
        others = f" (nor in {len(entries) - 1} other inputs)" if len(entries) > 1 else ""
        shown = ", ".join(ascii(name[:60])[1:-1] for name in names[:20]) or "none"
        raise UserError(
            f"--text-field {config.text_field}: no such {kind} in {entry['path']}{others}; "
            f"it has: {shown}.{near_names(config.text_field, names)}"
        )


def _jsonl_fields(entry: Entry, text_field: str) -> list[str] | None:
    """Returns the fields of the file's first object if the text is not among them, else None."""
    if "range" in entry and entry["range"][0] > 0:
        raise ValueError("not the start of its file")
    first = b""
    for block in read_blocks(entry["path"], entry["compression"]):
        first = (first + block).removeprefix(BOM).lstrip(JSON_BLANKS)
        if b"\n" in first or len(first) > _MAX_FIRST_LINE_BYTES:
            break
    row = json.loads(first.partition(b"\n")[0].decode("utf-8", "replace"))
    if not isinstance(row, dict):
        raise ValueError("not an object")
    return list(row) if get_field(row, text_field) is ABSENT else None


def _parquet_fields(entry: Entry, text_field: str) -> list[str] | None:
    """Returns the columns of the file if the text is not among them, else None."""
    with open(entry["path"], "rb") as file:
        schema = pq.read_schema(file)
    try:
        check_text_column(schema, text_field)
    except UnusableFileError as error:
        return schema.names if error.reason == "missing_column" else None
    return None
