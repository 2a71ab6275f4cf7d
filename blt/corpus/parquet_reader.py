"""Parquet inputs: a document per row, read in batches bounded in bytes, page checksums checked."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import PLAIN, DamagedInputError
from blt.corpus.fields import ABSENT, get_field, id_text, meta_json
from blt.corpus.plan import Entry, row_group_bytes
from blt.corpus.records import Record, Reject, made_id, make_document
from blt.units import Progress

_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 1024
# What pyarrow raises for altered files; an OSError with an errno is the machine's, not the file's.
_PYARROW_ERRORS = (pa.ArrowException, ValueError, RuntimeError, OverflowError, MemoryError, OSError)


class UnusableFileError(Exception):
    """A file's text column is missing or of the wrong type."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_parquet(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each row of the entry's row groups.

    A file whose text column is missing or holds no text gives one reject.
    """
    source = entry["source"]
    if entry["compression"] != PLAIN:
        raise DamagedInputError(
            f"a Parquet file inside {entry['compression']} cannot be read; decompress it first"
        )
    with open(entry["path"], "rb") as file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            schema = parquet.schema_arrow
            sizes = row_group_bytes(parquet.metadata)
        except _PYARROW_ERRORS as error:
            raise _damage(error) from error
        try:
            columns = [config.text_field, *_present(schema, (config.id_field, *config.keep_fields))]
            check_text_column(schema, config.text_field)
        except UnusableFileError as error:
            yield Reject(source, None, error.reason, str(error), ends_input=True)
            return
        start, end = entry.get("range") or (0, len(sizes))
        position = sum(parquet.metadata.row_group(index).num_rows for index in range(start))
        for index in range(start, end):
            for batch in _batches(parquet, index, columns):
                yield from _read_batch(batch, source, position, config)
                position += batch.num_rows
            progress(sizes[index])


def check_text_column(schema: pa.Schema, name: str) -> None:
    """Checks that a file has the text column, and that it holds text or bytes.

    Raises:
      UnusableFileError: it does not; the message names the columns that there are.
    """
    found = _column_type(schema, name)
    if found is None:
        names = ", ".join(repr(column) for column in schema.names[:20])
        raise UnusableFileError("missing_column", f"no column {name!r}; it has {names}")
    value_type = found.value_type if pa.types.is_dictionary(found) else found
    if not (_is_text(value_type) or _is_bytes(value_type) or pa.types.is_null(value_type)):
        raise UnusableFileError("column_type", f"column {name!r} is {found}, not text")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _column_type(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Returns the type of a column or of a field inside one ("doc.text"), None for neither."""
    if name in schema.names:
        return schema.field(name).type
    head, *rest = name.split(".")
    kind = schema.field(head).type if head in schema.names else None
    for key in rest:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return kind


def _present(schema: pa.Schema, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if _column_type(schema, name) is not None]


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
    except _PYARROW_ERRORS as error:
        raise _damage(error) from error


def _damage(error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return DamagedInputError(f"not a whole Parquet file ({error})")


def _read_batch(
    batch: pa.RecordBatch, source: str, first_row: int, config: EncodeConfig
) -> Iterator[Record]:
    texts = _texts(batch, config.text_field)
    names = (config.id_field, *config.keep_fields)
    columns = {name: _values(batch, name) for name in _present(batch.schema, names)}
    for index, text in enumerate(texts):
        position = first_row + index
        if text is None:
            detail = f"column {config.text_field!r} is null"
            yield Reject(source, position, "null_text", detail)
            continue
        row = {name: values[index] for name, values in columns.items()}
        doc_id = get_field(row, config.id_field)
        if isinstance(doc_id, bytes):
            try:
                doc_id = doc_id.decode("utf-8")
            except UnicodeDecodeError as error:
                yield Reject(source, position, "invalid_id", f"the id is not UTF-8: {error}", text)
                continue
        kept = {name: row.get(name, ABSENT) for name in config.keep_fields}
        kept = {name: value for name, value in kept.items() if value is not ABSENT}
        id_string = id_text(doc_id)
        yield make_document(
            made_id(source, position) if id_string is None else id_string,
            text,
            source=source,
            position=position,
            max_document_bytes=config.max_document_bytes,
            meta=meta_json(kept, config.keep_fields),
        )


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        column = batch.column(name)
    else:
        head, *rest = name.split(".")
        column = pc.struct_field(batch.column(head), rest)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _texts(batch: pa.RecordBatch, name: str) -> list[bytes | None]:
    column = _column(batch, name)
    if pa.types.is_null(column.type):
        return [None] * batch.num_rows
    return column.cast(pa.large_binary()).to_pylist()


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    column = _column(batch, name)
    # Text may hold what is not UTF-8, so that it is decoded value by value.
    try:
        return (column.cast(pa.large_binary()) if _is_text(column.type) else column).to_pylist()
    except UnicodeDecodeError as error:
        raise DamagedInputError(f"column {name!r} holds text that is not UTF-8") from error
