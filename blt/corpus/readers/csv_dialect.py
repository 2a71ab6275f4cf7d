"""Rows of CSV and TSV out of lines, by the dialect: which delimiter, quotes or none, which escape.

Three parsers, as the dialect asks:

* quotes, no escape: the module `csv`, strict. Quotes are doubled inside quoted fields.
* no quotes, no escape: a line is a row, cut at the delimiters; quotes are data.
* an escape (a backslash, mostly): parsers of this module, since `csv` drops escapes that escape
  nothing. In quoted fields it makes a quote and itself data, as Spark writes them, outside of them
  only a quote; elsewhere it is data. Without quotes it makes the delimiter, a line end and itself
  data, and a backslash makes control characters with the letters b, f, n, r, t, v and 0, and null
  of a field that is `\\N`, as PostgreSQL and MySQL write them.

Every byte is a character here (Latin-1).
"""

import csv
import dataclasses
import re
from collections.abc import Iterator

from blt.corpus.config import EncodeConfig
from blt.errors import UserError

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_QUOTE = '"'
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"}
_CSV_WORDS = {  # what errors of the module csv begin with, and in words for those who have the file
    "new-line character": "a CR outside of quotes that is not part of a line end",
    "unexpected end of data": "a quote that does not end",
}
# The fields of a row; None for null. Blank lines have no fields.
Fields = list[str | None]


class BadRowError(Exception):
    """A row is not well formed; the message says how."""


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes:
      delimiter: a character.
      has_quotes: fields may be quoted, else quotes are data.
      escape: a character, or None.
    """

    delimiter: str
    has_quotes: bool
    escape: str | None

    @classmethod
    def of(cls, format_name: str, config: EncodeConfig) -> "Dialect":
        """Returns that of a format ("csv" or "tsv"), as the config says.

        Raises:
          UserError: the escape is the delimiter that the format has.
        """
        has_quotes = config.csv_quoting == "quotes" or (
            config.csv_quoting == "auto" and format_name == "csv"
        )
        delimiter = config.csv_delimiter or _DELIMITERS[format_name]
        if config.csv_escape == delimiter:
            raise UserError(
                f"--csv-escape {delimiter!a}: is the delimiter of {format_name}; give another one."
            )
        return cls(delimiter, has_quotes, config.csv_escape)

    def parse(self, lines: Iterator[str]) -> Iterator[Fields]:
        """Returns an iterator of rows, which goes on after a `BadRowError`.

        Args:
          lines: each with its line end; as many are taken as a row needs.
        """
        if self.escape is None and self.has_quotes:
            return _CsvRows(lines, self.delimiter)
        if self.escape is None:
            return _PlainRows(lines, self.delimiter)
        parser = _QuotedRows if self.has_quotes else _EscapedRows
        return parser(lines, self.delimiter, self.escape)


class _Rows:
    def __iter__(self) -> "_Rows":
        return self


class _CsvRows(_Rows):
    def __init__(self, lines: Iterator[str], delimiter: str) -> None:
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)

    def __next__(self) -> Fields:
        try:
            return next(self._reader)
        except csv.Error as error:
            known = (ours for theirs, ours in _CSV_WORDS.items() if str(error).startswith(theirs))
            raise BadRowError(next(known, str(error))) from error


class _PlainRows(_Rows):
    def __init__(self, lines: Iterator[str], delimiter: str) -> None:
        self._lines, self._delimiter = lines, delimiter

    def __next__(self) -> Fields:
        line = _without_end(next(self._lines))
        return line.split(self._delimiter) if line else []


class _QuotedRows(_Rows):
    """Quoted fields in which an escape stands before quotes and itself."""

    def __init__(self, lines: Iterator[str], delimiter: str, escape: str) -> None:
        self._lines, self._delimiter = lines, delimiter
        mark, cut = re.escape(escape), re.escape(delimiter)
        self._quoted = re.compile(rf'(?:[^"{mark}]|{mark}.|"")*', re.DOTALL)
        self._open = re.compile(rf"[^{cut}]*")
        self._escaped = re.compile(rf'{mark}(["{mark}])|"(")', re.DOTALL)
        self._escaped_quote = escape + _QUOTE

    def __next__(self) -> Fields:
        line = _without_end(whole := next(self._lines))
        if not line:
            return []
        fields: Fields = []
        at = 0
        while True:
            if line.startswith(_QUOTE, at):
                field, whole, at = self._read_quoted(whole, at + 1)
                line = _without_end(whole)
                if at < len(line) and line[at] != self._delimiter:
                    raise BadRowError(f"{self._delimiter!r} expected after a quoted field")
            else:
                match = self._open.match(line, at)
                assert match is not None
                field = match[0].replace(self._escaped_quote, _QUOTE)
                at = match.end()
            fields.append(field)
            if at >= len(line):
                return fields
            at += 1  # the delimiter

    def _read_quoted(self, line: str, at: int) -> tuple[str, str, int]:
        """Returns a field, the line that it ends in, and where it ended; both quotes are passed."""
        pieces = []
        while True:
            match = self._quoted.match(line, at)
            assert match is not None
            pieces.append(match[0])
            at = match.end()
            if line.startswith(_QUOTE, at):
                break
            pieces.append(line[at:])  # an escape that ends the file
            try:
                line, at = next(self._lines), 0
            except StopIteration:
                raise BadRowError("a quote that does not end") from None
        field = self._escaped.sub(lambda found: found[1] or found[2], "".join(pieces))
        return field, line, at + 1


class _EscapedRows(_Rows):
    """Fields without quotes, in which an escape makes delimiters, line ends and itself data."""

    def __init__(self, lines: Iterator[str], delimiter: str, escape: str) -> None:
        self._lines, self._delimiter, self._escape = lines, delimiter, escape
        mark, cut = re.escape(escape), re.escape(delimiter)
        self._field = re.compile(rf"(?:[^{mark}{cut}]|{mark}.)*", re.DOTALL)
        self._escaped = re.compile(rf"{mark}(.)", re.DOTALL)
        self._letters = _LETTERS if escape == "\\" else {}
        self._is_data = {delimiter, escape, _QUOTE, "\n", "\r"}
        self._null = "\\N" if escape == "\\" else None

    def __next__(self) -> Fields:
        line = next(self._lines)
        # An odd number of escapes before the line end: it is data, and the row goes on.
        pieces = [line]
        while self._goes_on(pieces[-1]):
            try:
                pieces.append(next(self._lines))
            except StopIteration:
                break
        line = _without_end("".join(pieces))
        if not line:
            return []
        fields: Fields = []
        at = 0
        while True:
            match = self._field.match(line, at)
            assert match is not None
            at = match.end()
            field = match[0]
            if at < len(line) and line[at] == self._escape:  # the last of the row
                field, at = field + self._escape, at + 1
            fields.append(None if field == self._null else self._escaped.sub(self._unescape, field))
            if at >= len(line):
                return fields
            at += 1

    def _goes_on(self, line: str) -> bool:
        if not line.endswith("\n"):
            return False
        body = _without_end(line)
        return (len(body) - len(body.rstrip(self._escape))) % 2 == 1

    def _unescape(self, found: re.Match[str]) -> str:
        character = found[1]
        if character in self._is_data:
            return character
        return self._letters.get(character, found[0])


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
