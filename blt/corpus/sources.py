"""`sources.parquet`: what became of each input file. One row a file, in the order of the plan.

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
damaged      bool    it was given up before its end

The members of an archive are in its row. A file that several units read has a row in each unit's
table (`units/00012.sources.parquet`), one in the whole.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.filesystems import is_remote
from blt.corpus.plan import Entry
from blt.errors import WorkError
from blt.storage import atomic_path

SOURCES_NAME = "sources.parquet"
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
        pa.field("damaged", pa.bool_(), nullable=False),
    ]
)
_BATCH_ROWS = 4096
_COPY_BYTES = 1 << 20


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
    damaged: bool = False

    @classmethod
    def of_entry(cls, entry: Entry) -> "SourceRow":
        return cls(
            source=entry["source"],
            format=entry["format"],
            compression=entry["compression"],
            stored_bytes=entry["num_bytes"],
        )

    def check(self) -> None:
        """Checks that no record is lost.

        Raises:
          WorkError: one is.
        """
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


def unit_sources_path(output: Path, unit_index: int) -> Path:
    return output / "units" / f"{unit_index:05d}.sources.parquet"


def write_sources(path: str | os.PathLike[str], rows: Iterable[SourceRow]) -> None:
    """Writes a table of sources, atomically, a batch of rows at a time."""
    with atomic_path(path) as temporary, _open(temporary) as writer:
        rows = iter(rows)
        while batch := [dataclasses.asdict(row) for row in itertools.islice(rows, _BATCH_ROWS)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))


def _open(path: Path) -> contextlib.AbstractContextManager[pq.ParquetWriter]:
    return pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True)


def read_sources(path: str | os.PathLike[str]) -> Iterator[SourceRow]:
    """Yields the rows of a table of sources.

    Raises:
      WorkError: it cannot be read; names it.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield SourceRow(**row)
    except (pa.ArrowException, OSError, TypeError) as error:
        raise WorkError(
            f"{path}: cannot be read as a table of sources ({error}). Delete it and the unit's "
            "marker beside it, and run the command again."
        ) from error


def merge_sources(output: Path, num_units: int) -> None:
    """Writes `sources.parquet` from the tables of the units; memory holds a batch of rows."""
    rows = (
        row for index in range(num_units) for row in read_sources(unit_sources_path(output, index))
    )
    write_sources(output / SOURCES_NAME, _joined(rows))


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
    changes: dict[str, Any] = {"sha256": None, "damaged": first.damaged or second.damaged}
    for name in ("stored_bytes", "records", "documents", "bytes", "filtered", "rejects"):
        changes[name] = getattr(first, name) + getattr(second, name)
    return dataclasses.replace(first, **changes)
