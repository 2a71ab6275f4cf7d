"""What can be told to be the user's mistake before any work is done."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.arrow_reader import read_arrow_schema
from blt.corpus.columns import UnusableFileError, check_text_column
from blt.corpus.config import EncodeConfig
from blt.corpus.csv_reader import read_csv_header
from blt.corpus.decompress import DamagedInputError, check_package, read_blocks
from blt.corpus.fields import ABSENT, get_field
from blt.corpus.filesystems import open_input
from blt.corpus.jsonl_reader import JSON_BLANKS
from blt.corpus.mends import BOM
from blt.corpus.plan import Entry
from blt.errors import UserError, near_names

_MAX_FIRST_LINE_BYTES = 64 << 20  # a longer first line is left to encode to judge


def check_inputs(payloads: Sequence[dict[str, Any]], config: EncodeConfig) -> None:
    """Checks that what is needed to read the files is there.

    That is optional packages, and the text field: in one file at least of each format with fields.

    Cheap where all is well: it looks at the start of files until it has found the field. Files that
    cannot be judged (empty, damaged) are passed over; encoding will report them.

    Args:
      payloads: as `build_plan` made them.
      config: how they will be read.

    Raises:
      UserError: a package is missing; or no JSONL file has the text field in its first object, or
        no table has the text column: names the first such file, the fields it has, and the nearest.
    """
    entries = [entry for payload in payloads for entry in payload["files"]]
    for compression in {entry["compression"] for entry in entries}:
        check_package(compression)
    for format_name, fields_of in _FIELDS.items():
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
        kind = "field" if entry["format"] == "jsonl" else "column"
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
    with open_input(entry["path"]) as file:
        return _missing_column(pq.read_schema(file), text_field)


def _arrow_fields(entry: Entry, text_field: str) -> list[str] | None:
    return _missing_column(read_arrow_schema(entry, EncodeConfig()), text_field)


def _csv_fields(entry: Entry, text_field: str) -> list[str] | None:
    names = read_csv_header(entry, EncodeConfig())
    if names is None:
        raise ValueError("no header that can be read")
    return None if text_field in names else names


def _missing_column(schema: pa.Schema, text_field: str) -> list[str] | None:
    try:
        check_text_column(schema, text_field)
    except UnusableFileError as error:
        return schema.names if error.reason == "missing_column" else None
    return None


_FIELDS: dict[str, Callable[[Entry, str], list[str] | None]] = {
    "jsonl": _jsonl_fields,
    "parquet": _parquet_fields,
    "arrow": _arrow_fields,
    "csv": _csv_fields,
    "tsv": _csv_fields,
}
