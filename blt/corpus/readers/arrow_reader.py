"""Arrow IPC inputs (files, which Feather 2 is, and streams): a document per row.

A record batch is in memory as a whole, with the columns that are needed of it; those that wrote the
file chose how long it is. Every array is checked before it is looked into, since the offsets of an
altered file may point anywhere; a batch that fails is passed over, as one reject. What follows the
end of a stream must be another stream.
"""

import contextlib
import itertools
from collections.abc import Iterator

import pyarrow as pa

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.blocks import BlockFile, entry_blocks
from blt.corpus.files.decompress import PLAIN, DamagedInputError
from blt.corpus.files.detect import ARROW_MAGIC
from blt.corpus.files.filesystems import is_remote, open_input
from blt.corpus.readers.columns import (
    PYARROW_ERRORS,
    Batch,
    Gap,
    UnusableFileError,
    damage,
    damaged,
    needed_columns,
    read_rows,
)
from blt.corpus.records import Record, Reject
from blt.dataset.units import Progress

_FEATHER_1_MAGIC = b"FEA1"
_FILE_HEAD_BYTES = 8  # the magic, padded
_SLICE_BYTES = 8 << 20
_MAX_SLICE_ROWS = 1024


def read_arrow(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each row; a file without usable text gives one reject."""
    batches = _batches(entry, config, progress)
    try:
        yield from read_rows(itertools.chain.from_iterable(map(_slices, batches)), entry, config)
    except UnusableFileError as error:
        num_rows = count_rows(entry)
        if num_rows != 0:
            yield Reject(
                entry["source"],
                None,
                error.reason,
                str(error),
                ends_input=True,
                num_records=num_rows or 1,
            )


def read_arrow_schema(entry: Entry, config: EncodeConfig) -> pa.Schema:
    """Returns the schema of a file, or of its first stream.

    Raises:
      DamagedInputError: it cannot be read.
    """
    try:
        if _is_file(entry):
            with _open(entry) as file:
                return pa.ipc.open_file(file).schema
        stream = BlockFile(entry_blocks(entry, config))
        return pa.ipc.open_stream(pa.PythonFile(stream, "r")).schema
    except PYARROW_ERRORS as error:
        raise damage(error, "Arrow file") from error


def count_rows(entry: Entry) -> int | None:
    """Returns the number of rows of a file; None of a stream, or if it cannot be told."""
    if not _is_file(entry):
        return None
    try:
        with _open(entry) as file:
            options = pa.ipc.IpcReadOptions(included_fields=[0])
            reader = pa.ipc.open_file(file, options=options)
            batches = map(reader.get_batch, range(reader.num_record_batches))
            return sum(batch.num_rows for batch in batches)
    except PYARROW_ERRORS:
        return None


def _is_file(entry: Entry) -> bool:
    if entry["compression"] != PLAIN:
        return False
    with open_input(entry["path"]) as file:
        return file.read(len(ARROW_MAGIC)) == ARROW_MAGIC


def _open(entry: Entry) -> pa.NativeFile:
    path = entry["path"]
    return pa.PythonFile(open_input(path), "r") if is_remote(path) else pa.OSFile(path)


def _batches(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Batch]:
    try:
        yield from (_file if _is_file(entry) else _streams)(entry, config, progress)
    except PYARROW_ERRORS as error:
        raise damage(error, "Arrow file") from error


def _file(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Batch]:
    with _open(entry) as file:
        try:
            schema = pa.ipc.open_file(file).schema
        except PYARROW_ERRORS as error:  # of the footer; what comes before it is a stream
            blocks = entry_blocks(entry, config, progress, start=_FILE_HEAD_BYTES)
            yield from _stream(BlockFile(blocks), config)
            raise damage(error, "Arrow file") from error
        wanted = _top_level(schema, config)
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        with pa.ipc.open_file(file, options=options) as reader:
            num_batches = reader.num_record_batches
            num_bytes = entry["size"] // max(1, num_batches)
            longest = None
            for index in range(num_batches):
                try:
                    yield _checked(reader.get_batch(index), num_bytes)
                except PYARROW_ERRORS as error:
                    if longest is None:
                        longest = _longest_batch(reader, num_bytes)
                    yield Gap(longest, _unread_batch(error), num_bytes)
                progress(num_bytes)


def _longest_batch(reader: pa.ipc.RecordBatchFileReader, num_bytes: int) -> int:
    """Returns the number of rows of the longest batch that can be read, at least 1."""
    longest = 1
    for index in range(reader.num_record_batches):
        with contextlib.suppress(*PYARROW_ERRORS):
            num_rows = reader.get_batch(index).num_rows
            if _may_have(num_rows, num_bytes):
                longest = max(longest, num_rows)
    return longest


def _may_have(num_rows: int, num_bytes: int) -> bool:
    """Tells whether a batch of about `num_bytes` may have so many rows, or that is damaged too."""
    return 0 <= num_rows <= 8 * num_bytes


def _unread_batch(error: Exception) -> DamagedInputError:
    found = damaged(error, "record batch")
    return DamagedInputError(
        f"{found}; how many rows it has cannot be read, so that of the longest other batch is taken"
    )


def _streams(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Batch]:
    blocks = entry_blocks(entry, config, progress)
    head = next(blocks, b"")
    if head.startswith(ARROW_MAGIC):
        raise DamagedInputError(
            f"an Arrow file inside {entry['compression']} cannot be read (a stream can); "
            "decompress it first"
        )
    if not head:
        raise DamagedInputError("is empty, which no Arrow stream is")
    if head.startswith(_FEATHER_1_MAGIC):
        raise DamagedInputError("is Feather version 1, which is not read; write it as version 2")
    while head:
        stream = BlockFile(itertools.chain([head], blocks))
        yield from _stream(stream, config)
        head = stream.read(1 << 16)
        blocks = stream.rest()


def _stream(stream: BlockFile, config: EncodeConfig) -> Iterator[Batch]:
    with pa.ipc.open_stream(pa.PythonFile(stream, "r")) as reader:
        wanted = _top_level(reader.schema, config)
        start = stream.tell()
        for batch in reader:
            end = stream.tell()
            yield _checked(batch.select(wanted), end - start)
            start = end


def _top_level(schema: pa.Schema, config: EncodeConfig) -> list[int]:
    """Returns the numbers of the columns that hold what is needed."""
    heads = {
        name if name in schema.names else name.split(".")[0]
        for name in needed_columns(schema, config)
    }
    return [index for index, name in enumerate(schema.names) if name in heads]


def _checked(batch: pa.RecordBatch, num_bytes: int) -> pa.RecordBatch | Gap:
    """Returns the batch, or what is lost if it is damaged: its rows, `num_bytes` of the content."""
    try:
        arrays = [_checked_array(column) for column in batch.columns]
    except PYARROW_ERRORS as error:
        if not _may_have(batch.num_rows, num_bytes):
            raise
        return Gap(batch.num_rows, damaged(error, "record batch"), num_bytes)
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _checked_array(array: pa.Array) -> pa.Array:
    """Returns the array with text as bytes, whose check does not ask for UTF-8."""
    if pa.types.is_dictionary(array.type):
        array.indices.validate(full=True)
        return pa.DictionaryArray.from_arrays(array.indices, _checked_array(array.dictionary))
    if pa.types.is_string(array.type):
        array = array.view(pa.binary())
    elif pa.types.is_large_string(array.type):
        array = array.view(pa.large_binary())
    elif pa.types.is_string_view(array.type):
        array = array.view(pa.binary_view())
    array.validate(full=True)
    return array


def _longest_shared(column: pa.Array) -> int:
    """Returns the length of the longest value that many rows may have in common, in bytes."""
    if pa.types.is_dictionary(column.type) and not pa.types.is_nested(column.dictionary.type):
        return column.dictionary.nbytes
    if pa.types.is_binary_view(column.type):
        return sum(buffer.size for buffer in column.buffers() if buffer is not None)
    return 0


def _slices(batch: Batch) -> Iterator[Batch]:
    """Yields a batch in pieces whose values take some megabytes once they are apart."""
    if isinstance(batch, Gap):
        yield batch
        return
    row_bytes = batch.nbytes // max(1, batch.num_rows)
    for column in batch.columns:
        row_bytes = max(row_bytes, _longest_shared(column))
    rows = min(_MAX_SLICE_ROWS, max(1, _SLICE_BYTES // max(1, row_bytes)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
