"""What can be told to be the user's mistake before any work is done."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.arrow_reader import read_arrow_schema
from blt.corpus.columns import UnusableFileError, check_text_column
from blt.corpus.config import EncodeConfig
from blt.corpus.csv_reader import read_csv_header
from blt.corpus.decompress import DamagedInputError, check_package
from blt.corpus.fields import ABSENT, get_field
from blt.corpus.filesystems import open_input
from blt.corpus.json_heads import head_objects
from blt.corpus.plan import Entry
from blt.errors import UserError, near_names

_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}


def check_inputs(payloads: Sequence[dict[str, Any]], config: EncodeConfig) -> None:
    """Checks that what is needed to read the files is there.

    That is optional packages, and the text field: in one file at least of each format with fields.

    Cheap where all is well: it looks at the start of files until it has found the field. Files that
    cannot be judged (empty, damaged) are passed over; encoding will report them.

    Args:
      payloads: as `build_plan` made them.
      config: how they will be read.

    Raises:
      UserError: a package is missing; or no JSONL file has the text field in an object near its
        start, or no table has the text column once: names the first such file, the fields it has,
        and the nearest.
    """
    entries = [entry for payload in payloads for entry in payload["files"]]
    for compression in {entry["compression"] for entry in entries}:
        check_package(compression)
    for format_name, fields_of in _FIELDS.items():
        _check_format(
            [entry for entry in entries if entry["format"] == format_name], fields_of, config
        )


def _check_format(
    entries: list[Entry],
    fields_of: Callable[[Entry, EncodeConfig], list[str] | None],
    config: EncodeConfig,
) -> None:
    """Raises if some files were judged and none has the text field."""
    failed: tuple[Entry, list[str]] | None = None
    for entry in entries:
        try:
            missing = fields_of(entry, config)
        except (DamagedInputError, ValueError, RecursionError, OSError, pa.ArrowException):
            continue
        if missing is None:
            return
        failed = failed or (entry, missing)
    if failed is not None:
        entry, names = failed
        kind = "field" if entry["format"] == "jsonl" else "column"
        how_many = "more than one such" if config.text_field in names else "no such"
        others = f" (nor in {len(entries) - 1} other inputs)" if len(entries) > 1 else ""
        shown = ", ".join(ascii(name[:60])[1:-1] for name in names[:20]) or "none"
        raise UserError(
            f"--text-field {config.text_field}: {how_many} {kind} in {entry['path']}{others}; "
            f"it has: {shown}.{_hint(entry, config.text_field, names)}"
        )


def _hint(entry: Entry, text_field: str, names: list[str]) -> str:
    """Returns what may be wrong: the encoding, the delimiter, or the name."""
    if names and names[0].startswith((r"\xff\xfe", r"\xfe\xff")):
        return " It seems to be UTF-16; convert it to UTF-8."
    if entry["format"] in ("csv", "tsv") and len(names) == 1:
        for delimiter, called in _OTHER_DELIMITERS.items():
            if delimiter in names[0]:
                return (
                    f" Its fields seem to be delimited by {called}; CSV is read with commas, and "
                    "TSV (--format tsv) with tabs, but for --csv-delimiter."
                )
    if entry["format"] in ("csv", "tsv") and f'"{text_field}"' in names:
        return " Its names are quoted; --csv-quoting quotes reads quoted fields."
    return "" if text_field in names else near_names(text_field, names)


def _jsonl_fields(entry: Entry, config: EncodeConfig) -> list[str] | None:
    """Returns the fields of the file's first object, or None if one near its start has the text."""
    if "range" in entry and entry["range"][0] > 0:
        raise ValueError("not the start of its file")
    names = None
    for row in head_objects(entry):
        if get_field(row, config.text_field) is not ABSENT:
            return None
        names = list(row) if names is None else names
    if names is None:
        raise ValueError("no object")
    return names


def _parquet_fields(entry: Entry, config: EncodeConfig) -> list[str] | None:
    """Returns the columns of the file if the text is not among them, else None."""
    with open_input(entry["path"]) as file:
        return _missing_column(pq.read_schema(file), config.text_field)


def _arrow_fields(entry: Entry, config: EncodeConfig) -> list[str] | None:
    return _missing_column(read_arrow_schema(entry, config), config.text_field)


def _csv_fields(entry: Entry, config: EncodeConfig) -> list[str] | None:
    names = read_csv_header(entry, config)
    if names is None:
        raise ValueError("no header that can be read")
    return None if names.count(config.text_field) == 1 else names


def _missing_column(schema: pa.Schema, text_field: str) -> list[str] | None:
    try:
        check_text_column(schema, text_field)
    except UnusableFileError as error:
        return schema.names if error.reason == "missing_column" else None
    return None


_FIELDS: dict[str, Callable[[Entry, EncodeConfig], list[str] | None]] = {
    "jsonl": _jsonl_fields,
    "parquet": _parquet_fields,
    "arrow": _arrow_fields,
    "csv": _csv_fields,
    "tsv": _csv_fields,
}
