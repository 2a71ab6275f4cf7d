"""What each input file is taken as, before any of it is encoded."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq

from blt.cli.console import count, format_bytes, printable
from blt.corpus.entry import Entry
from blt.corpus.files.decompress import PLAIN
from blt.corpus.files.detect import UNREAD
from blt.corpus.files.filesystems import open_input
from blt.corpus.readers.arrow_reader import count_rows
from blt.corpus.readers.columns import PYARROW_ERRORS
from blt.dataset.units import Progress, no_progress

_MAX_SHOWN = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file of the plan.

    Attributes:
      source: its name in the dataset.
      format: what it is taken as.
      compression: "plain" for none.
      stored_bytes: as stored, before decompression.
      records: rows, where the format tells without reading the file; None if it does not.
    """

    source: str
    format: str
    compression: str
    stored_bytes: int
    records: int | None


def list_files(
    payloads: Sequence[dict[str, Any]], progress: Progress = no_progress
) -> list[ListedFile]:
    """Returns the files of a plan, in its order; `progress` is told of files."""
    listed = []
    for entry in _whole_files(payloads):
        listed.append(
            ListedFile(
                source=entry["source"],
                format=entry["format"],
                compression=entry["compression"],
                stored_bytes=entry["size"],
                records=_count_records(entry),
            )
        )
        progress(1)
    return listed


def listing_lines(files: Sequence[ListedFile]) -> list[str]:
    """Returns a line for each kind of file, then one for each file, at most 50 of them."""
    lines = [f"{count(len(files), 'file')}:"]
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for file in files:
        kinds[_kind(file)] += 1
        sizes[_kind(file)] += file.stored_bytes
    for kind, number in kinds.most_common():
        lines.append(f"  {count(number, 'file')} as {kind}, {format_bytes(sizes[kind])}")
    shown = files[:_MAX_SHOWN]
    rows = [(_kind(file), format_bytes(file.stored_bytes), _records(file)) for file in shown]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for (kind, size, records), file in zip(rows, shown, strict=True):
        columns = f"{kind:<{widths[0]}}  {size:>{widths[1]}}  {records:>{widths[2]}}"
        lines.append(f"  {columns.rstrip()}  {printable(file.source)}")
    if len(files) > len(shown):
        lines.append(f"  … and {len(files) - len(shown):,} more (--json lists all)")
    return lines


def _whole_files(payloads: Sequence[dict[str, Any]]) -> Iterator[Entry]:
    """Yields an entry of each file; the pieces of one follow one another."""
    last = None
    for payload in payloads:
        for entry in payload["files"]:
            if entry["source"] != last:
                yield entry
            last = entry["source"]


def _count_records(entry: Entry) -> int | None:
    counted = _COUNTED.get(entry["format"])
    return counted(entry) if counted and entry["compression"] == PLAIN else None


def _count_parquet_rows(entry: Entry) -> int | None:
    try:
        with open_input(entry["path"]) as file:
            return pq.read_metadata(file).num_rows
    except PYARROW_ERRORS:
        return None  # encoding will tell what is wrong


_COUNTED: dict[str, Callable[[Entry], int | None]] = {
    "parquet": _count_parquet_rows,
    "arrow": count_rows,
}


def _kind(file: ListedFile) -> str:
    if file.format == UNREAD:
        return "none that is read"
    return file.format if file.compression == PLAIN else f"{file.format} in {file.compression}"


def _records(file: ListedFile) -> str:
    return "" if file.records is None else count(file.records, "row")
