"""`_sources.parquet`: what became of each input file. One row a file, in the order of the plan.

source       string  its name, as in the byte shards (never null)
format       string  what it was read as
compression  string
stored_bytes int64   as stored, before decompression
sha256       string  of these bytes; null if several units read the file, or it is in a store
records      int64   = documents + filtered + rejects
documents    int64
bytes        int64   of the documents
filtered     int64
rejects      int64
lost_records int64   what the rejects stand for, where the format tells; and documents dropped for
                     damage
lost_bytes   int64   of stored_bytes: what the rejects stand for
members      int64   of an archive, that were read
lost_members int64   of these, given up before their end
given_up     string  why the file was given up before its end, a reason of rejects; null if not
damaged      bool    it, or a member of it, is cut short or altered
invalid_utf8 int64   of the documents, as they were read: not UTF-8
first_invalid_utf8 string  the id of the first of these (its first 200 characters); null if none
told         map     the members whose format was told by their content, or with a note (a name that
                     means another, a format that is doubtful), and that format; null if there are
                     none

An empty input has no records. The members of an archive are in its row. A file that several units
read has a row in each unit's table (`_units/00012.sources.parquet`), one in the whole.
"""

import contextlib
import dataclasses
import hashlib
import heapq
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.entry import Entry
from blt.corpus.files.filesystems import is_remote
from blt.corpus.files.meter import Meter
from blt.corpus.records import Filtered, Record, Reject
from blt.dataset.loss import Findings
from blt.dataset.plan_file import UNITS_FOLDER
from blt.dataset.storage import Place, PlaceLike, atomic_path, fetch_all
from blt.errors import WorkError

SOURCES_NAME = "_sources.parquet"
SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("compression", pa.string(), nullable=False),
        pa.field("stored_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("records", "documents", "bytes", "filtered", "rejects")
        ),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("lost_records", "lost_bytes", "members", "lost_members")
        ),
        pa.field("given_up", pa.string()),
        pa.field("damaged", pa.bool_(), nullable=False),
        pa.field("invalid_utf8", pa.int64(), nullable=False),
        pa.field("first_invalid_utf8", pa.string()),
        pa.field("told", pa.map_(pa.string(), pa.string())),
    ]
)
_BATCH_ROWS = 4096
_COPY_BYTES = 1 << 20
_SUMMED = (
    "stored_bytes",
    "records",
    "documents",
    "bytes",
    "filtered",
    "rejects",
    "lost_records",
    "lost_bytes",
    "members",
    "lost_members",
    "invalid_utf8",
)
_MAX_LISTED = 100
_NOT_READ = ("unread_member", "left_out_member")
_MAX_ID_CHARACTERS = 200


@dataclasses.dataclass(kw_only=True)
class SourceRow:
    """A row; its counts grow while the file is read."""

    source: str
    format: str
    compression: str
    stored_bytes: int
    sha256: str | None = None
    records: int = 0
    documents: int = 0
    bytes: int = 0
    filtered: int = 0
    rejects: int = 0
    lost_records: int = 0
    lost_bytes: int = 0
    members: int = 0
    lost_members: int = 0
    given_up: str | None = None
    damaged: bool = False
    invalid_utf8: int = 0
    first_invalid_utf8: str | None = None
    told: list[tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        # No fields, so not written: the member whose records are being read, and bytes of content.
        self._member = ""
        self._lost_content = 0

    @classmethod
    def of_entry(cls, entry: Entry) -> "SourceRow":
        return cls(
            source=entry["source"],
            format=entry["format"],
            compression=entry["compression"],
            stored_bytes=entry["num_bytes"],
        )

    def see_member(self, record: Record) -> None:
        """Counts the member of an archive that a record is the first of, if it is."""
        source = record.source
        if source == self.source or source == self._member:
            return
        if not (isinstance(record, Filtered) and record.reason in _NOT_READ):
            self._member = source
            self.members += 1

    def lose(self, reject: Reject) -> None:
        """Counts a reject, measured by a `Meter`, and what it stands for."""
        self.rejects += 1
        self.lost_records += reject.num_records
        if reject.stored_bytes is not None:
            self.lost_bytes += reject.stored_bytes
        else:
            self._lost_content += reject.num_bytes or 0
        self.damaged |= reject.is_damage
        if reject.ends_input and reject.source == self.source:
            self.given_up = reject.reason
        elif reject.ends_input:
            self.lost_members += 1

    def see_invalid_utf8(self, doc_id: str) -> None:
        """Counts a document that is not UTF-8."""
        self.invalid_utf8 += 1
        if self.first_invalid_utf8 is None:
            self.first_invalid_utf8 = doc_id[:_MAX_ID_CHARACTERS]

    def finish(self, meter: Meter, *, drops_damaged: bool) -> None:
        """Ends the counting of a file that is read, and checks that no record is unaccounted for.

        Args:
          meter: of the file.
          drops_damaged: if it is damaged, no document of it was kept.

        Raises:
          WorkError: one is.
        """
        lost = self.lost_bytes + meter.as_stored(self._lost_content)
        if self.damaged and drops_damaged:
            self.given_up = self.given_up or "damaged_input"
            lost = self.stored_bytes
        self.lost_bytes = min(meter.total, lost)
        self.told = list(meter.told.items()) or None
        accounted = self.documents + self.filtered + self.rejects
        if self.records != accounted:
            raise WorkError(
                f"{self.source}: {self.records} records were read, but {accounted} are accounted "
                "for as documents, rejects or filtered. This is a bug; please report it."
            )


def digest_entry(entry: Entry) -> str | None:
    """Returns the sha256 of the bytes that an entry stands for, read again from its file.

    None where they are not simply those of the file or of a byte range of it (row groups of
    Parquet), and for files in a store, from which all would have to be fetched again.
    """
    start, end = 0, entry["size"]
    if "range" in entry and entry["format"] != "parquet":
        start, end = entry["range"]
    path = entry["path"]
    if end - start != entry["num_bytes"] or is_remote(path) or not os.path.isfile(path):
        return None
    digest, left = hashlib.sha256(), end - start
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left and (block := file.read(min(left, _COPY_BYTES))):
            digest.update(block)
            left -= len(block)
    return None if left else digest.hexdigest()


def unit_sources_path(output: Place, unit_index: int) -> Place:
    return output / UNITS_FOLDER / f"{unit_index:05d}.sources.parquet"


def write_sources(path: PlaceLike, rows: Iterable[SourceRow]) -> None:
    """Writes a table of sources, atomically, a batch of rows at a time."""
    with atomic_path(path) as temporary, _open(temporary) as writer:
        rows = iter(rows)
        while batch := [dataclasses.asdict(row) for row in itertools.islice(rows, _BATCH_ROWS)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))


def _open(path: Path) -> contextlib.AbstractContextManager[pq.ParquetWriter]:
    return pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True)


def read_sources(path: PlaceLike) -> Iterator[SourceRow]:
    """Yields the rows of a table of sources.

    Raises:
      WorkError: it cannot be read; names it.
    """
    yield from _rows_of(path, fetch_all([path]))


def _rows_of(place: PlaceLike, here: Iterator[Path]) -> Iterator[SourceRow]:
    """Yields the rows of the table at a place, whose path here is the next of `here`."""
    try:
        with pq.ParquetFile(next(here), page_checksum_verification=True) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield SourceRow(**row)
    except (pa.ArrowException, OSError, TypeError) as error:
        raise WorkError(
            f"{place}: cannot be read as a table of sources ({error}). Delete it and the unit's "
            "marker beside it, and run the command again."
        ) from error


def merge_sources(output: Place, num_units: int) -> Findings:
    """Writes `_sources.parquet` from the tables of the units; memory holds a batch of rows.

    Returns:
      How many files there are, were given up, are damaged, have rejects, and have documents that
      are not UTF-8 (`input_files`, `lost_files`, `damaged_files`, `reject_files`,
      `invalid_utf8_files`); the inputs that lost most, and those with most documents that are not
      UTF-8, at most 100 of either.
    """
    kinds = ("input", "lost", "damaged", "reject", "invalid_utf8")
    totals = dict.fromkeys((f"{kind}_files" for kind in kinds), 0)
    lost, invalid = _Worst(), _Worst()

    def counted(rows: Iterator[SourceRow]) -> Iterator[SourceRow]:
        for row in rows:
            totals["input_files"] += 1
            totals["lost_files"] += row.given_up is not None
            totals["damaged_files"] += row.damaged
            totals["reject_files"] += row.rejects > 0
            totals["invalid_utf8_files"] += row.invalid_utf8 > 0
            if row.lost_records or row.rejects or row.given_up is not None:
                lost.add((row.lost_records, row.lost_bytes), row)
            if row.invalid_utf8:
                invalid.add((row.invalid_utf8, 0), row)
            yield row

    tables = [unit_sources_path(output, index) for index in range(num_units)]
    here = fetch_all(tables)
    rows = itertools.chain.from_iterable(_rows_of(table, here) for table in tables)
    write_sources(output / SOURCES_NAME, counted(_joined(rows)))
    return Findings(
        totals=totals,
        lost_inputs=[
            {
                "source": row.source,
                "reason": row.given_up,
                "records": row.lost_records,
                "bytes": row.lost_bytes,
            }
            for row in lost.rows()
        ],
        invalid_utf8_inputs=[
            {
                "source": row.source,
                "documents": row.documents,
                "invalid_utf8": row.invalid_utf8,
                "first": row.first_invalid_utf8,
            }
            for row in invalid.rows()
        ],
    )


class _Worst:
    """The rows of the highest rank, `_MAX_LISTED` at most; of equals, those that came first."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], int, SourceRow]] = []
        self._order = itertools.count()

    def add(self, rank: tuple[int, int], row: SourceRow) -> None:
        push = heapq.heappush if len(self._heap) < _MAX_LISTED else heapq.heappushpop
        push(self._heap, (rank, -next(self._order), row))

    def rows(self) -> list[SourceRow]:
        return [row for *_, row in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


def _joined(rows: Iterator[SourceRow]) -> Iterator[SourceRow]:
    """Makes one row of those of a file's pieces, which follow one another in the plan."""
    whole: SourceRow | None = None
    for row in rows:
        if whole is None or whole.source != row.source:
            if whole is not None:
                yield whole
            whole = row
            continue
        whole = _sum(whole, row)
    if whole is not None:
        yield whole


def _sum(first: SourceRow, second: SourceRow) -> SourceRow:
    changes: dict[str, Any] = {
        "sha256": None,
        "damaged": first.damaged or second.damaged,
        "given_up": first.given_up or second.given_up,
        "first_invalid_utf8": first.first_invalid_utf8 or second.first_invalid_utf8,
    }
    for name in _SUMMED:
        changes[name] = getattr(first, name) + getattr(second, name)
    return dataclasses.replace(first, **changes)
