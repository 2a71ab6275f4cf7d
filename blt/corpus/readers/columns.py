"""Columns of Arrow tables: where the text and the fields are, and documents out of rows."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blt.cli.console import count
from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.decompress import DamagedInputError
from blt.corpus.readers.partitions import partition_fields
from blt.corpus.readers.rows import make_row_record
from blt.corpus.records import Record, Reject

# What pyarrow raises for altered files; an OSError with an errno is the machine's, not the file's.
PYARROW_ERRORS = (pa.ArrowException, ValueError, RuntimeError, OverflowError, MemoryError, OSError)

# For values that Python's own types do not hold: nanoseconds, years after 9999, unknown zones (a
# KeyError), nested text that is not UTF-8, and objects with a key twice.
_NO_PYTHON_VALUE = (pa.ArrowException, ValueError, OverflowError, LookupError)


class UnusableFileError(Exception):
    """A file's text column is missing or of the wrong type."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def damage(error: Exception, what: str) -> Exception:
    """Returns what to raise for an error of pyarrow: the machine's as it is, else damage.

    Args:
      error: as it was raised.
      what: is damaged.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return DamagedInputError(f"not a whole {what} ({error})")


def damaged(error: Exception, what: str) -> DamagedInputError:
    """Returns the damage that an error of pyarrow tells of.

    Raises:
      OSError: it is the machine's.
    """
    found = damage(error, what)
    if not isinstance(found, DamagedInputError):
        raise found
    return found


def check_text_column(schema: pa.Schema, name: str) -> None:
    """Checks that a file has the text column, and that it holds text or bytes.

    Raises:
      UnusableFileError: it does not; the message names the columns that there are.
    """
    if schema.names.count(name) > 1:
        raise UnusableFileError("missing_column", f"more than one column is called {name!r}")
    found = _column_type(schema, name)
    if found is None:
        names = ", ".join(repr(column) for column in schema.names[:20])
        raise UnusableFileError("missing_column", f"no column {name!r}; it has {names}")
    value_type = _bare_type(found)
    if not (_is_text(value_type) or _is_bytes(value_type) or pa.types.is_null(value_type)):
        raise UnusableFileError("column_type", f"column {name!r} is {found}, not text")


def _is_text(kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return is_text or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return is_bytes or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind)


def _bare_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type of the values themselves: not how they are packed, nor what they mean."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _bare_type(kind.value_type)
    return _bare_type(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def _bare(column: pa.Array) -> pa.Array:
    """Returns a column as an array of its bare type."""
    if isinstance(column, pa.ExtensionArray):
        return _bare(column.storage)
    if pa.types.is_run_end_encoded(column.type):
        return _bare(pc.run_end_decode(column))
    return _bare(column.dictionary_decode()) if pa.types.is_dictionary(column.type) else column


def _column_type(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Returns the type of a column or of a field inside one ("doc.text"), None for neither."""
    if name in schema.names:
        return schema.field(schema.names.index(name)).type
    head, *rest = name.split(".")
    kind = schema.field(head).type if schema.names.count(head) == 1 else None
    for key in rest:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return kind


def has_column(schema: pa.Schema, name: str) -> bool:
    """Tells whether a table has a column, or a field inside one ("doc.text")."""
    return _column_type(schema, name) is not None


def needed_columns(schema: pa.Schema, config: EncodeConfig) -> list[str]:
    """Returns the columns to read: the text, and the id and kept fields that there are.

    Raises:
      UnusableFileError: there is no text column, or two columns of a name.
    """
    check_text_column(schema, config.text_field)
    names = [config.text_field, *_present(schema, config)]
    for name in names:
        if schema.names.count(name) > 1:
            raise UnusableFileError("missing_column", f"more than one column is called {name!r}")
    return names


def _present(schema: pa.Schema, config: EncodeConfig) -> list[str]:
    names = (config.id_field, *config.keep_fields)
    return [name for name in names if _column_type(schema, name) is not None]


@dataclasses.dataclass(frozen=True)
class Gap:
    """Rows of a table that are damaged, where it is known how many, so that reading goes on.

    Attributes:
      num_rows: how many, at least 1.
      error: what is wrong with them.
      num_bytes: about how many bytes of the content they take.
    """

    num_rows: int
    error: DamagedInputError
    num_bytes: int = 0


Batch = pa.RecordBatch | Gap


def read_rows(
    batches: Iterable[Batch], entry: Entry, config: EncodeConfig, first_row: int = 0
) -> Iterator[Record]:
    """Yields a record for each row of a file's batches, which have the needed columns.

    The rows of a damaged batch, or of a gap, are one reject that stands for all of them.
    """
    position = first_row
    partitions = partition_fields(entry, config)
    for batch in batches:
        if not isinstance(batch, Gap):
            try:
                texts = _texts(batch, config.text_field)
                columns = {name: _values(batch, name) for name in _present(batch.schema, config)}
            except PYARROW_ERRORS as error:  # an index of a dictionary that points nowhere
                batch = Gap(batch.num_rows, damaged(error, "table"))
        if isinstance(batch, Gap):
            yield _reject_gap(batch, entry, position)
            position += batch.num_rows
            continue
        for index, text in enumerate(texts):
            if text is None:
                detail = f"column {config.text_field!r} is null"
                yield Reject(entry["source"], position, "null_text", detail)
            else:
                row = {name: values[index] for name, values in columns.items()}
                yield make_row_record(
                    row,
                    text,
                    source=entry["source"],
                    position=position,
                    config=config,
                    partitions=partitions,
                )
            position += 1


def _reject_gap(gap: Gap, entry: Entry, position: int) -> Reject:
    return Reject(
        entry["source"],
        position,
        gap.error.reason,
        f"{gap.error}; {count(gap.num_rows, 'row')} passed over",
        num_records=max(1, gap.num_rows),
        num_bytes=gap.num_bytes,
    )


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        column = batch.column(name)
    else:
        head, *rest = name.split(".")
        column = pc.struct_field(batch.column(head), rest)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _texts(batch: pa.RecordBatch, name: str) -> list[bytes | None]:
    column = _bare(_column(batch, name))
    if pa.types.is_null(column.type):
        return [None] * batch.num_rows
    return column.cast(pa.large_binary()).to_pylist()


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    column = _column(batch, name)
    # Text may hold what is not UTF-8, so that it is decoded value by value.
    column = column.cast(pa.large_binary()) if _is_text(column.type) else column
    if not _has_nanoseconds(column.type):
        try:
            return column.to_pylist()
        except _NO_PYTHON_VALUE:
            pass
    return [_value(scalar) for scalar in column]


def _has_nanoseconds(kind: pa.DataType) -> bool:
    """Tells whether values are or hold times in nanoseconds, which pyarrow gives as pandas' if that
    is installed, and cuts to microseconds where pandas has none either.
    """
    inside = (kind.field(index).type for index in range(kind.num_fields))
    return getattr(kind, "unit", None) == "ns" or any(map(_has_nanoseconds, inside))


class _Written:
    """A value that Python has no type for, in words; to JSON as dates and decimals are."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def _value(scalar: pa.Scalar) -> Any:
    """Returns a value as Python has it, else in words; bytes for text that is not UTF-8."""
    if getattr(scalar.type, "unit", None) == "ns" and scalar.is_valid:
        if scalar.value % 1000:
            return _Written(_words(scalar))
        scalar = scalar.cast(_in_microseconds(scalar.type))
    if not _has_nanoseconds(scalar.type) or not scalar.is_valid:
        try:
            return scalar.as_py()
        except _NO_PYTHON_VALUE:
            pass
    if isinstance(scalar, pa.StructScalar):
        return {name: _value(scalar[index]) for index, name in enumerate(scalar)}
    if isinstance(scalar, pa.ListScalar):
        return [_value(item) for item in scalar.values]
    if _is_text(scalar.type):
        return scalar.as_buffer().to_pybytes()
    return _Written(_words(scalar))


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz=kind.tz)
    return pa.duration("us") if pa.types.is_duration(kind) else pa.time64("us")


def _words(scalar: pa.Scalar) -> str:
    kind = scalar.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return f"{_words(scalar.cast(pa.timestamp(kind.unit)))}+00:00"
    if pa.types.is_duration(kind):
        return f"{scalar.value} {kind.unit}"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        text = scalar.cast(pa.string()).as_py()
        if not text.startswith("<"):  # "<value out of range: 1>"
            return text
        unit = "" if pa.types.is_date(kind) else f" {kind.unit}"
        return f"{scalar.value}{unit or ' days'}"
    return str(scalar)
