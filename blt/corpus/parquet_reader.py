"""Parquet inputs: a document per row, read in batches bounded in bytes, page checksums checked."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.columns import (
    PYARROW_ERRORS,
    UnusableFileError,
    damage,
    needed_columns,
    read_batch,
)
from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import PLAIN, DamagedInputError
from blt.corpus.filesystems import open_input
from blt.corpus.plan import Entry, row_group_bytes
from blt.corpus.records import Record, Reject
from blt.units import Progress

_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 1024


def read_parquet(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each row of the entry's row groups.

    A file whose text column is missing or holds no text gives one reject.
    """
    source = entry["source"]
    if entry["compression"] != PLAIN:
        raise DamagedInputError(
            f"a Parquet file inside {entry['compression']} cannot be read; decompress it first"
        )
    with open_input(entry["path"]) as file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            schema = parquet.schema_arrow
            sizes = row_group_bytes(parquet.metadata, entry["size"])
        except PYARROW_ERRORS as error:
            raise damage(error, "Parquet file") from error
        try:
            columns = needed_columns(schema, config)
        except UnusableFileError as error:
            yield Reject(source, None, error.reason, str(error), ends_input=True)
            return
        start, end = entry.get("range") or (0, len(sizes))
        position = sum(parquet.metadata.row_group(index).num_rows for index in range(start))
        for index in range(start, end):
            for batch in _batches(parquet, index, columns):
                yield from read_batch(batch, source, position, config)
                position += batch.num_rows
            progress(sizes[index])


def _batches(
    parquet: pq.ParquetFile, row_group: int, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    try:
        group = parquet.metadata.row_group(row_group)
        mean_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
        rows = min(_MAX_BATCH_ROWS, max(1, _BATCH_BYTES // mean_bytes))
        batches = parquet.iter_batches(rows, row_groups=[row_group], columns=columns)
        while (batch := next(batches, None)) is not None:
            yield batch
    except PYARROW_ERRORS as error:
        raise damage(error, "Parquet file") from error
