"""JSON Lines: an object per line, one of whose fields is the text.

A byte order mark at the start of a line (of the first; or of others, where files were joined), CR
before LF and blanks around the object are passed over, and blank lines are filtered. The text of a
line that is not UTF-8 keeps its bytes. An unpaired surrogate, which no UTF-8 can hold, is a reject,
or U+FFFD with `--utf8 replace`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.fields import ABSENT, get_field, read_fields
from blt.corpus.files.blocks import max_parsed_bytes, reject_long, reject_member
from blt.corpus.files.json_heads import JSON_BLANKS
from blt.corpus.mends import BOM, NOT_UTF8
from blt.corpus.plain import CHANGED_ID, NOT_UNICODE, FloatLiteral, LongInteger, parse_integer
from blt.corpus.readers.lines import Gap, Line, read_lines
from blt.corpus.readers.partitions import partition_fields
from blt.corpus.records import Filtered, Record, Reject, made_id, make_document
from blt.dataset.units import Progress

# Far from where the standard library gives up, which depends on how deep the call of it is.
_MAX_NESTING = 500
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)  # a string, or a bracket
_SURROGATE = re.compile("[\ud800-\udfff]")
_EXACT_TYPES = (str, int, bool, type(None), type(ABSENT))
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
# Not the second of a pair: what looks, once parsed, as a byte that is not UTF-8 does.
_ESCAPE_LIKE_BYTE = re.compile(rb"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][cC][89a-fA-F]")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class _RejectedError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_jsonl(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each line."""
    source = entry["source"]
    limit = max_parsed_bytes(config)
    partitions = partition_fields(entry, config)
    names = (config.text_field, config.id_field, *config.keep_fields)
    for line in read_lines(
        entry, config, progress, max_line_bytes=limit, is_record=_holds_an_object
    ):
        if line.__class__ is Gap:
            yield reject_member(line.boundary, source, line.offset, "damaged_input")
            continue
        if line.too_long:
            yield reject_long(source, line.offset, line.num_bytes, line.raw, config)
            continue
        try:
            yield _read_line(line, source, config, names, partitions)
        except _RejectedError as error:
            yield Reject(source, line.offset, error.reason, str(error), line.raw)


def _holds_an_object(content: bytes) -> bool:
    return b"\n{" in content or content.lstrip(JSON_BLANKS).startswith(b"{")


def _read_line(
    line: Line,
    source: str,
    config: EncodeConfig,
    names: tuple[str, ...],
    partitions: dict[str, Any],
) -> Record:
    raw = line.raw.removeprefix(BOM)
    if not raw.strip(JSON_BLANKS):
        return Filtered(source, line.offset)
    row, errors = _parse(raw, config, names)
    text = get_field(row, config.text_field)
    if text is ABSENT:
        raise _RejectedError("missing_text", f"no field {config.text_field!r}; {describe(row)}")
    if text is None:
        raise _RejectedError("null_text", f"field {config.text_field!r} is null")
    if not isinstance(text, str):
        kind = "int" if isinstance(text, LongInteger) else type(text).__name__
        raise _RejectedError("text_not_string", f"field {config.text_field!r} is a {kind}")
    # With errors "replace" the line was changed as a whole, perhaps elsewhere than in its text.
    mender = NOT_UTF8 if errors == "replace" and "\ufffd" in text else None
    try:
        document = text.encode("utf-8", "strict" if errors == "replace" else errors)
    except UnicodeEncodeError as error:
        if config.utf8 != "replace":
            raise _RejectedError("lone_surrogate", f"in the text: {error.reason}") from error
        document = _SURROGATE.sub("\ufffd", text).encode("utf-8")
        mender = NOT_UTF8
    if errors == "surrogateescape" and _ESCAPE_LIKE_BYTE.search(raw) and _ESCAPED_BYTE.search(text):
        detail = "an escaped surrogate in a line that is not UTF-8"
        raise _RejectedError("lone_surrogate", detail)
    if partitions:
        row = {**partitions, **row}
    try:
        fields = read_fields(row, config, holds_bytes=errors == "surrogateescape")
    except RecursionError as error:
        raise _RejectedError("too_deep", "the id or a kept field is nested too deeply") from error
    changed = fields.changed
    if errors == "replace" and "\ufffd".encode() in (fields.meta or b""):
        changed = tuple({**dict.fromkeys(changed), NOT_UNICODE: None})
    doc_id = fields.doc_id
    if doc_id is None:
        doc_id = made_id(source, line.offset)
    elif not doc_id.isascii() and _SURROGATE.search(doc_id):
        if config.utf8 != "replace":
            raise _RejectedError("invalid_id", "the id is not Unicode: it has a surrogate")
        doc_id = _SURROGATE.sub("\ufffd", doc_id)
        changed = (*changed, CHANGED_ID)
    return make_document(
        doc_id,
        document,
        source=source,
        position=line.offset,
        max_document_bytes=config.max_document_bytes,
        fields=fields if changed is fields.changed else fields._replace(changed=changed),
        mender=mender,
        is_utf8=errors == "strict",
    )


def _parse(raw: bytes, config: EncodeConfig, names: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """Returns a line's object, and the `errors` by which its bytes became strings.

    Args:
      raw: the line.
      config: how to read.
      names: of the fields that are used.
    """
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        row = None
    if type(row) is dict:
        for name in names:
            if type(row[name] if name in row else get_field(row, name)) not in _EXACT_TYPES:
                break  # orjson makes a float of a large integer
        else:
            return row, "strict"
    return _parse_slowly(raw, config)  # takes it, or says what is wrong


def _parse_slowly(raw: bytes, config: EncodeConfig) -> tuple[dict[str, Any], str]:
    """Does what `_parse` does by the standard library alone."""
    errors = "strict"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        # Bytes that are no UTF-8 travel as surrogates; an escaped surrogate may look the same.
        errors = "surrogateescape"
        if config.utf8 == "replace" and _SURROGATE_ESCAPE.search(raw):
            errors = "replace"
        text = raw.decode("utf-8", errors)
    if _is_too_deep(text):
        raise _RejectedError("too_deep", f"nested more than {_MAX_NESTING} levels deep")
    try:
        row = json.loads(text, parse_int=parse_integer)
        if isinstance(row, dict) and type(get_field(row, config.id_field)) is float:
            row = json.loads(text, parse_int=parse_integer, parse_float=FloatLiteral)
    except ValueError as error:
        detail = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
        raise _RejectedError("invalid_json", detail) from error
    if not isinstance(row, dict):
        raise _RejectedError("not_an_object", f"a {type(row).__name__}, not an object")
    return row, errors


def _is_too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= _MAX_NESTING:
        return False
    depth = 0
    for match in _STRUCTURE.finditer(text):
        mark = text[match.start()]
        if mark in "[{":
            depth += 1
            if depth > _MAX_NESTING:
                return True
        elif mark in "]}":
            depth -= 1
    return False


def describe(row: dict[str, Any]) -> str:
    """Names the first fields of an object, for a message; always valid Unicode."""
    names = ", ".join(ascii(name[:40]) for name in list(row)[:10])
    return f"it has {names}" if names else "it is empty"
