"""`_rejects.parquet`: every record read that is not in what was made of it, and why.

source    string   the input it was in (never null)
position  int64    byte offset of its line in the (decompressed) input, or row number; null if
                   the whole input was given up
reason    string   a key of `REASONS`
detail    string   what exactly was wrong, in words
sample    binary   the first 200 bytes of the record, or null
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from blt.dataset.storage import PlaceLike, atomic_path, fetch_all, fetched
from blt.errors import WorkError

REASONS = {
    "damaged_input": "the input, or a part of it, is cut short or altered, or is not in the format "
    "it claims",
    "too_compressed": "the input grows to more than --max-decompression-ratio times its size",
    "missing_column": "the table has no such text column; the whole file is left out",
    "column_type": "the text column holds neither text nor bytes; the whole file is left out",
    "unread_format": "an archive, compression or database of a kind that is not read (zip, ORC, …)",
    "nested_archive": "the archive's member is an archive itself, which is not opened",
    "bad_row": "the row of CSV or TSV is not well formed, or has another number of fields",
    "bad_record": "the record of TFRecord or WARC, or the head of a member of tar, fails its "
    "checksum, or is not well formed",
    "invalid_json": "the line is not JSON",
    "too_deep": "the JSON is nested too deeply to be read",
    "not_an_object": "the line is JSON, but not an object",
    "missing_text": "the object has no such text field",
    "null_text": "the text is null",
    "text_not_string": "the text is not a string",
    "lone_surrogate": "an unpaired surrogate, which UTF-8 cannot hold",
    "invalid_id": "the id is not valid Unicode",
    "too_long": "the record, or the document, is longer than the limit",
    "invalid_utf8": "the document is not UTF-8, which --utf8 reject or the format exported to asks",
    "duplicate_id": "an earlier document has the same id (--on-duplicate-id reject)",
}
SAMPLE_BYTES = 200
SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("position", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("sample", pa.binary()),
    ]
)
_BATCH_ROWS = 4096
_MAX_DETAIL = 300  # characters of it in a message


class RejectsWriter:
    """Writes rejects as they come; made by `open_rejects`."""

    def __init__(self, path: PlaceLike, resources: contextlib.ExitStack) -> None:
        self._path = path
        self._resources = resources
        self._rows: list[dict[str, object]] = []
        self._writer: pq.ParquetWriter | None = None
        self.num_rejects = 0

    def add(
        self,
        *,
        source: str,
        position: int | None,
        reason: str,
        detail: str,
        sample: bytes | None = None,
    ) -> None:
        """Adds one row; the sample is cut to `SAMPLE_BYTES`."""
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}; the reasons are {', '.join(REASONS)}")
        row = {"source": source, "position": position, "reason": reason, "detail": detail}
        self._rows.append({**row, "sample": None if sample is None else sample[:SAMPLE_BYTES]})
        self.num_rejects += 1
        if len(self._rows) >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes what was added, if anything was."""
        if not self._rows:
            return
        if self._writer is None:
            temporary = self._resources.enter_context(atomic_path(self._path))
            self._writer = self._resources.enter_context(_open(temporary))
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []


@contextlib.contextmanager
def open_rejects(path: PlaceLike) -> Iterator[RejectsWriter]:
    """Yields a writer whose file takes its place when the block ends well.

    No rejects make no file.
    """
    with contextlib.ExitStack() as resources:
        writer = RejectsWriter(path, resources)
        yield writer
        writer.flush()


def _open(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True)


def merge_rejects(paths: Sequence[PlaceLike], out: PlaceLike) -> int:
    """Writes the rows of all `paths`, in order, to `out`, which is made even if there are none.

    Returns:
      The number of rows.

    Raises:
      WorkError: one of the files cannot be read; names it.
    """
    num_rows = 0
    with atomic_path(out) as temporary, _open(temporary) as writer:
        here = fetch_all(paths)
        for path in paths:
            try:
                with pq.ParquetFile(next(here), page_checksum_verification=True) as file:
                    for batch in file.iter_batches(_BATCH_ROWS):
                        writer.write_batch(batch.cast(SCHEMA))
                        num_rows += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise WorkError(
                    f"{path}: cannot be read as rejects ({error}). Delete it and the unit's "
                    "marker beside it, and run the command again."
                ) from error
    return num_rows


def describe_rejects(path: PlaceLike) -> str:
    """Words how many there are of which reason, and the first of them, in one line.

    Raises:
      WorkError: the file is damaged or of another kind.
    """
    reasons = count_rejects(path)
    words = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    with fetched(path) as here, pq.ParquetFile(here) as file:
        first = next(file.iter_batches(1), None)
    if first is None:
        return "none"
    row = first.to_pylist()[0]
    where = row["source"] if row["position"] is None else f"{row['source']} at {row['position']}"
    return f"{words}; the first is {where}: {row['detail'][:_MAX_DETAIL]}"


def count_rejects(path: PlaceLike) -> Counter[str]:
    """Counts rejects by reason.

    Raises:
      WorkError: the file is damaged or of another kind.
    """
    counts: Counter[str] = Counter()
    try:
        with fetched(path) as here, pq.ParquetFile(here) as file:
            for batch in file.iter_batches(columns=["reason"]):
                counts.update(batch.column("reason").to_pylist())
    except (pa.ArrowException, OSError, KeyError) as error:
        raise WorkError(f"{path}: cannot be read as rejects ({error}).") from error
    return counts
