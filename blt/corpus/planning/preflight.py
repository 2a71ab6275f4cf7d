"""What can be told to be the user's mistake before any work is done."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from blt.cli.console import count
from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.fields import ABSENT, get_field
from blt.corpus.files.decompress import (
    DamagedInputError,
    check_package,
    read_blocks,
    strip_compression_suffix,
)
from blt.corpus.files.detect import EMPTY, UNREAD
from blt.corpus.files.filesystems import open_input
from blt.corpus.files.json_heads import head_objects
from blt.corpus.readers.arrow_reader import count_rows, read_arrow_schema
from blt.corpus.readers.columns import UnusableFileError, check_text_column
from blt.corpus.readers.csv_reader import read_csv_header
from blt.dataset.units import Progress, no_progress
from blt.errors import UserError, near_names

_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
_WITHOUT_FIELDS = ("text", "bytes", "warc", UNREAD, EMPTY)
_UNJUDGED = (DamagedInputError, ValueError, RecursionError, OSError, pa.ArrowException)


@dataclasses.dataclass(frozen=True)
class _Fault:
    """Why the text of a file cannot be read.

    Attributes:
      what: is wrong with the text field, in words.
      names: of the fields that there are.
      num_rows: that would be lost; None if the format does not tell.
    """

    what: str
    names: list[str]
    num_rows: int | None = None


def check_inputs(
    payloads: Sequence[dict[str, Any]],
    config: EncodeConfig,
    *,
    tables: Sequence[dict[str, Any]] | None = None,
    progress: Progress = no_progress,
) -> None:
    """Checks that what is needed to read the files is there.

    That is optional packages; the text field in one JSONL file at least, if there are any; and the
    text column, once and as text, in every table that has rows.

    It looks at the start of JSONL files until it has found the field, and at the schema of every
    table. Files that cannot be judged (empty, damaged) are passed over; encoding will report them.

    Args:
      payloads: as `build_plan` made them.
      config: how they will be read.
      tables: the payloads whose tables must all have the column; None for all. Of others, one table
        of each format must have it.
      progress: is told of tables, not of bytes.

    Raises:
      UserError: a package is missing; or no JSONL file has the text field in an object near its
        start, or a table has no usable text column: names the first such file, the fields it has,
        and the nearest.
    """
    entries = [entry for payload in payloads for entry in payload["files"]]
    for compression in {entry["compression"] for entry in entries}:
        check_package(compression)
    _check_jsonl([entry for entry in entries if entry["format"] == "jsonl"], config)
    _check_named_field(entries, config)
    strict = payloads if tables is None else tables
    paths = {entry["path"] for payload in strict for entry in payload["files"]}
    for format_name in _TABLES:
        of_format = {e["path"]: e for e in entries if e["format"] == format_name}
        _check_tables(list(of_format.values()), paths, config, progress)


def _check_jsonl(entries: list[Entry], config: EncodeConfig) -> None:
    """Raises if some files were judged and none has the text field."""
    failed: tuple[Entry, list[str]] | None = None
    for entry in entries:
        try:
            missing = _jsonl_fields(entry, config)
        except _UNJUDGED:
            continue
        if missing is None:
            return
        failed = failed or (entry, missing)
    if failed is not None:
        others = f" (nor in {len(entries) - 1} other inputs)" if len(entries) > 1 else ""
        _refuse(failed[0], _Fault("no such field", failed[1]), others, config, _as_text(failed[0]))


def _check_named_field(entries: list[Entry], config: EncodeConfig) -> None:
    """Raises if the user names the text field, but nothing has fields beside what lacks it.

    Files that only look like JSON Lines are texts then, which is not what was meant.
    """
    if config.text_field == EncodeConfig.text_field:
        return
    if not all(entry["format"] in _WITHOUT_FIELDS for entry in entries):
        return
    for entry in entries:
        if "lacks_text" in entry:
            with contextlib.suppress(*_UNJUDGED):
                names = _jsonl_fields(entry, config)
                _refuse(entry, _Fault("no such field", names or []), "", config, _as_text(entry))


def _as_text(entry: Entry) -> str:
    """Returns how files like one are taken as texts."""
    name = os.path.basename(entry["source"])
    stem = strip_compression_suffix(name)[0]
    suffix = os.path.splitext(stem)[1] + name[len(stem) :]
    pattern = f"*{suffix}" if suffix else name
    return f" To take such files as texts, --format-of '{pattern}=text'."


def _check_tables(
    entries: list[Entry], strict: set[str], config: EncodeConfig, progress: Progress
) -> None:
    """Raises if one of the `strict` files is faulty, or all of the files are."""
    faults: list[tuple[Entry, _Fault]] = []
    num_good = 0
    for entry in entries:
        is_strict = entry["path"] in strict
        if not is_strict and num_good:
            continue
        try:
            fault = _TABLES[entry["format"]](entry, config)
        except _UNJUDGED:
            continue
        finally:
            progress(1)
        if fault is None:
            num_good += 1
        elif fault.num_rows != 0:
            faults.append((entry, fault))
    refused = [(entry, fault) for entry, fault in faults if entry["path"] in strict]
    if faults and not num_good:
        others = f" (nor in {len(faults) - 1} other inputs)" if len(faults) > 1 else ""
        _refuse(*faults[0], others, config)
    if refused:
        rows = sum(fault.num_rows or 0 for _, fault in refused)
        lost = f", {count(rows, 'row')}" if rows else ""
        which = f" ({len(refused)} of {count(len(entries), 'input')} of this format{lost})"
        fix = (
            " Rename the column or leave the file out (--exclude); or give --on-unusable-table "
            "reject to go on without it." + _as_text(refused[0][0])
        )
        _refuse(*refused[0], which, config, fix)


def _refuse(
    entry: Entry, fault: _Fault, which: str, config: EncodeConfig, fix: str = ""
) -> NoReturn:
    shown = ", ".join(ascii(name[:60])[1:-1] for name in fault.names[:20]) or "none"
    raise UserError(
        f"--text-field {config.text_field}: {fault.what} in {entry['path']}{which}; "
        f"it has: {shown}.{_hint(entry, config.text_field, fault.names)}{fix}"
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
    ratio = config.max_decompression_ratio
    for row in head_objects(read_blocks(entry["path"], entry["compression"], max_ratio=ratio)):
        if get_field(row, config.text_field) is not ABSENT:
            return None
        names = list(row) if names is None else names
    if names is None:
        raise ValueError("no object")
    return names


def _parquet_fault(entry: Entry, config: EncodeConfig) -> _Fault | None:
    with open_input(entry["path"]) as file:
        metadata = pq.read_metadata(file)
        schema = metadata.schema.to_arrow_schema()
        return _column_fault(schema, config.text_field, metadata.num_rows)


def _arrow_fault(entry: Entry, config: EncodeConfig) -> _Fault | None:
    fault = _column_fault(read_arrow_schema(entry, config), config.text_field, None)
    return fault and dataclasses.replace(fault, num_rows=count_rows(entry))


def _csv_fault(entry: Entry, config: EncodeConfig) -> _Fault | None:
    names = read_csv_header(entry, config)
    if names is None:
        raise ValueError("no header that can be read")
    found = names.count(config.text_field)
    return None if found == 1 else _Fault(_HOW_MANY[found > 0], names)


def _column_fault(schema: pa.Schema, text_field: str, num_rows: int | None) -> _Fault | None:
    try:
        check_text_column(schema, text_field)
    except UnusableFileError as error:
        what = _HOW_MANY[text_field in schema.names]
        if error.reason == "column_type":
            what = str(error)
        return _Fault(what, schema.names, num_rows)
    return None


_HOW_MANY = {False: "no such column", True: "more than one such column"}
_TABLES: dict[str, Callable[[Entry, EncodeConfig], _Fault | None]] = {
    "parquet": _parquet_fault,
    "arrow": _arrow_fault,
    "csv": _csv_fault,
    "tsv": _csv_fault,
}
