"""CSV and TSV inputs: a header with the names of the columns, then a document per row.

How rows are cut into fields is the dialect's to say (`blt.corpus.readers.csv_dialect`): by default
fields of CSV may be quoted with `"`, and quoted ones hold delimiters, line ends, doubled quotes;
TSV has no quotes, and every line is a row. Bytes are kept as they are. A row is a reject
if it is not well formed (a quote that does not end, or ends inside a field) or has more or fewer
fields than the header; only its first line is given up, and reading goes on with the next. Blank
lines are filtered. A byte order mark at the start is no part of the first name. An empty id counts
as none.
"""

import csv
from collections import deque
from collections.abc import Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.blocks import max_parsed_bytes
from blt.corpus.mends import BOM
from blt.corpus.readers import csv_dialect
from blt.corpus.readers.csv_dialect import BadRowError, Dialect
from blt.corpus.readers.lines import Line, read_lines_from
from blt.corpus.readers.partitions import partition_fields
from blt.corpus.readers.rows import make_row_record
from blt.corpus.records import Document, Filtered, Record, Reject
from blt.dataset.units import Progress, no_progress

# Rows that were not well formed are read again from their second line: at most this often, so that
# time stays linear in the file whatever it holds.
_MAX_READINGS = 8
_FREE_BYTES = 64 << 20
_LINE_BYTES = 128  # what a line that is held takes beside its content
# Every byte is a character while it is parsed, and NUL, at which older versions stop, another one.
_ENCODING = "latin-1"
_NUL = "\u0100"
# Documents of TSV that look quoted, and were taken as they stand.
QUOTED_COUNT = "quotes_as_data"


def read_csv(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each row after the header."""
    source = entry["source"]
    dialect = Dialect.of(entry["format"], config)
    widths: list[int] = []
    rows = _rows(entry, config, dialect, progress, widths)
    header = next((row for row in rows if not isinstance(row, Filtered)), None)
    if header is None:
        return
    if isinstance(header, Reject):
        detail = f"its header is no row: {header.detail}"
        yield Reject(source, 0, "bad_row", detail, header.sample, ends_input=True)
        return
    names = _names(header[1])
    widths.append(len(names))
    text_name, id_name = config.text_field, config.id_field
    wanted = [name for name in (id_name, *config.keep_fields) if name in names]
    for name in (text_name, *wanted):
        if names.count(name) != 1:
            shown = ", ".join(ascii(column[:60]) for column in names[:20])
            how_many = "more than one" if name in names else "no"
            detail = f"{how_many} column {name!r}; it has {shown}"
            yield Reject(source, None, "missing_column", detail, ends_input=True)
            return
    text_index = names.index(text_name)
    columns = [(name, names.index(name)) for name in wanted]
    partitions = partition_fields(entry, config)
    may_be_quoted = _may_be_quoted(config, dialect)
    for row in rows:
        if isinstance(row, Reject | Filtered):
            yield row
            continue
        position, fields = row
        text = _bytes(fields[text_index])
        if text is None:
            yield Reject(source, position, "null_text", f"column {text_name!r} is null")
            continue
        values = {name: _bytes(fields[index]) for name, index in columns}
        if not values.get(id_name, b""):
            values[id_name] = None
        record = make_row_record(
            values, text, source=source, position=position, config=config, partitions=partitions
        )
        if may_be_quoted and _is_quoted(text) and isinstance(record, Document):
            record.counted += (QUOTED_COUNT,)
        yield record


def read_csv_header(entry: Entry, config: EncodeConfig) -> list[str] | None:
    """Returns the names of the columns, or None if the first row cannot be read."""
    dialect = Dialect.of(entry["format"], config)
    for row in _rows(entry, config, dialect, no_progress, []):
        if not isinstance(row, Filtered):
            return None if isinstance(row, Reject) else _names(row[1])
    return None


def _names(header: csv_dialect.Fields) -> list[str]:
    raw = (_bytes(name) or b"" for name in header)
    return [name.decode("utf-8", "backslashreplace") for name in raw]


def _bytes(field: str | None) -> bytes | None:
    return None if field is None else field.replace(_NUL, "\0").encode(_ENCODING)


def _may_be_quoted(config: EncodeConfig, dialect: Dialect) -> bool:
    """Tells whether fields are read without quotes because nothing else was said."""
    return config.csv_quoting == "auto" and not dialect.has_quotes


def _is_quoted(text: bytes) -> bool:
    """Tells whether a field that was read without quotes looks as if it were quoted."""
    if len(text) < 2 or not (text.startswith(b'"') and text.endswith(b'"')):
        return False
    return b'"' not in text[1:-1].replace(b'""', b"")


def _rows(
    entry: Entry, config: EncodeConfig, dialect: Dialect, progress: Progress, widths: list[int]
) -> Iterator[tuple[int, csv_dialect.Fields] | Reject | Filtered]:
    """Yields each row as its position and fields, or what it is instead.

    `widths` gets the number of fields that all rows must have, once the header is known.
    """
    source = entry["source"]
    # The parser holds a field as four bytes a character.
    limit = max_parsed_bytes(config) // 2
    csv.field_size_limit(max(csv.field_size_limit(), limit))  # of the process; it only grows
    lines = _Lines(read_lines_from(0, None, entry, config, progress, max_line_bytes=limit), limit)
    rows = dialect.parse(lines)
    while True:
        lines.begin_row()
        try:
            fields = next(rows)
        except StopIteration:
            return
        except BadRowError as error:
            reason, detail = "bad_row", str(error)
        except _TooLongError:
            reason = "too_long"
            detail = f"the row is longer than {limit} bytes; --max-document-bytes raises the limit"
        else:
            first = lines.first
            if not fields or not widths or len(fields) == widths[0]:
                yield (first.offset, fields) if fields else Filtered(source, first.offset)
                continue
            # Of several lines: a quote in the first may have swallowed the rows after it.
            reason, detail = "bad_row", f"{len(fields)} fields where the header has {widths[0]}"
            if _may_be_quoted(config, dialect) and any(f and f.startswith('"') for f in fields):
                detail += "; --csv-quoting quotes reads quoted fields"
        for line in lines.give_back():
            is_blank = not line.too_long and not line.raw.strip(b"\r")
            if is_blank:
                yield Filtered(source, line.offset)
            else:
                num_bytes = line.num_bytes + line.has_newline
                yield Reject(source, line.offset, reason, detail, line.raw, num_bytes=num_bytes)


class _TooLongError(Exception):
    pass


class _Lines:
    """Lines as the parser wants them, which can be given back when they made no row."""

    def __init__(self, lines: Iterator[Line], limit: int) -> None:
        self._lines, self._limit = lines, limit
        self._waiting: deque[Line] = deque()
        self._taken: list[Line] = []
        self._num_bytes = 0  # that the lines taken take
        self._num_read = self._num_reread = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._waiting:
            line = self._waiting.popleft()
            self._num_reread += line.num_bytes + 1
        else:
            line = next(self._lines)
            self._num_read += line.num_bytes + 1
        self._taken.append(line)
        self._num_bytes += line.num_bytes + _LINE_BYTES
        if self._num_bytes > self._limit:
            raise _TooLongError
        raw = line.raw.removeprefix(BOM) if line.offset == 0 else line.raw
        return raw.decode(_ENCODING).replace("\0", _NUL) + "\n" * line.has_newline

    def begin_row(self) -> None:
        self._taken, self._num_bytes = [], 0

    @property
    def first(self) -> Line:
        """The first line of the row."""
        return self._taken[0]

    def give_back(self) -> list[Line]:
        """Gives back the lines of the row but the first; returns those that are left out.

        That is the first, or all where too much was read again before.
        """
        first, *others = self._taken
        if self._num_reread > (_MAX_READINGS - 1) * self._num_read + _FREE_BYTES:
            return self._taken
        self._waiting.extendleft(reversed(others))
        return [first]
