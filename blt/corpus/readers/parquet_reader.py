"""Parquet inputs: a document per row, read in batches bounded in bytes, page checksums checked.

What is left of a damaged row group is passed over, and reading goes on with the next one.
"""

import itertools
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.decompress import PLAIN, DamagedInputError, check_growth
from blt.corpus.files.filesystems import open_input
from blt.corpus.readers.columns import (
    PYARROW_ERRORS,
    Batch,
    Gap,
    UnusableFileError,
    damage,
    needed_columns,
    read_rows,
)
from blt.corpus.records import Record, Reject
from blt.dataset.units import Progress

_BATCH_BYTES = 8 << 20
# A value of a dictionary may be long and stand in every row, where the row group has it once.
_MAX_BATCH_ROWS = 64
_USUAL_GROWTH = 20
_WIDE_BATCH_BYTES = 1 << 30
_MAX_GROUP_ROWS = 1 << 40  # more are damage
_FEWER_ROWS = "not a whole Parquet file (a row group has fewer rows)"
# What a row group may take decompressed, whatever the ratio. It is held in part (a page, a
# dictionary), and the texts that it gives batch by batch: so their length in all is not limited.
_FREE_GROUP_BYTES = 512 << 20


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
            groups = map(parquet.metadata.row_group, range(len(sizes)))
            rows = [min(max(0, group.num_rows), _MAX_GROUP_ROWS) for group in groups]
        except PYARROW_ERRORS as error:
            raise damage(error, "Parquet file") from error
        try:
            columns = needed_columns(schema, config)
        except UnusableFileError as error:
            num_rows = sum(rows[slice(*(entry.get("range") or (None, None)))])
            if num_rows:
                yield Reject(
                    source,
                    None,
                    error.reason,
                    str(error),
                    ends_input=True,
                    num_records=num_rows,
                    stored_bytes=entry["num_bytes"],
                )
            return
        start, end = entry.get("range") or (0, len(sizes))
        first_row = sum(rows[:start])

        def batches() -> Iterator[Batch]:
            # Where the number of rows of a row group is altered, that of the file tells.
            missing = parquet.metadata.num_rows - sum(rows)
            if start == 0 and 0 < missing < _MAX_GROUP_ROWS:
                yield Gap(missing, DamagedInputError(_FEWER_ROWS), 0)
            for index in range(start, end):
                num_read = 0
                error = None
                try:
                    for batch in _batches(parquet, index, columns, entry["size"], config):
                        num_read += batch.num_rows
                        yield batch
                except DamagedInputError as raised:
                    error = raised
                left = rows[index] - num_read
                if error is not None or left > 0:
                    # Where the head of a page is altered, pyarrow may end as if all were read; and
                    # the number of rows may be altered too.
                    error = error or DamagedInputError(_FEWER_ROWS)
                    left = max(1, left)
                    yield Gap(left, error, sizes[index] * left // max(left, rows[index]))
                progress(sizes[index])

        yield from read_rows(batches(), entry, config, first_row)


def _batches(
    parquet: pq.ParquetFile, row_group: int, columns: list[str], size: int, config: EncodeConfig
) -> Iterator[pa.RecordBatch]:
    try:
        group = parquet.metadata.row_group(row_group)
        num_bytes = group.total_byte_size  # decompressed, but as it is encoded
        if num_bytes > _FREE_GROUP_BYTES:
            check_growth(num_bytes, size, config.max_decompression_ratio)
        rows = min(_MAX_BATCH_ROWS, max(1, _BATCH_BYTES * group.num_rows // max(1, num_bytes)))
        if num_bytes > _USUAL_GROWTH * size:
            rows = min(rows, max(1, _WIDE_BATCH_BYTES // num_bytes))
        batches = parquet.iter_batches(rows, row_groups=[row_group], columns=columns)
        while (batch := next(batches, None)) is not None:
            yield batch
    except PYARROW_ERRORS as error:
        raise damage(error, "Parquet file") from error


def row_group_bytes(metadata: pq.FileMetaData, size: int) -> list[int]:
    """Returns about how many of a file's `size` bytes each row group takes; they add up to it.

    The exact figures are in the metadata of the columns, at which pyarrow ends the process if they
    are damaged; so the file is shared out by what the row groups take uncompressed.
    """
    groups = range(metadata.num_row_groups)
    weights = [max(0, metadata.row_group(index).total_byte_size) for index in groups]
    total = max(1, sum(weights))
    bounds = [size * part // total for part in itertools.accumulate(weights, initial=0)]
    return [end - start for start, end in itertools.pairwise(bounds)]
