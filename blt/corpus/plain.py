"""Values of fields as plain text (ids) and as strict JSON (meta), the same from whatever format.

An id is the plain text of its value, without quotation marks: `7` from JSON's 7, Parquet's int64 7,
decimal(38, 0) 7 and double 7.0; `2024-01-02` from a date. Meta is JSON that any strict parser
reads; where JSON, or a double, has no such value it is changed, and the kind of change is told:

    changed_nonfinite     NaN and infinities become null
    changed_long_integer  an integer beyond what a double holds becomes a string of its digits
    changed_not_unicode   unpaired surrogates become U+FFFD (in names of objects, words like
                         \\ud800); bytes that are not UTF-8 become words like \\xff
"""

import decimal
import json
import math
import re
from collections.abc import Mapping
from typing import Any

NONFINITE, LONG_INTEGER, NOT_UNICODE = (
    f"changed_{kind}" for kind in ("nonfinite", "long_integer", "not_unicode")
)
CHANGED_ID = "changed_id"  # with U+FFFD, which only --utf8 replace does
CHANGED_COUNTS = (NONFINITE, LONG_INTEGER, NOT_UNICODE, CHANGED_ID)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_FRACTION = re.compile(r"-?\d+\.\d+")
_JSON_OPTIONS = {"sort_keys": True, "ensure_ascii": False, "allow_nan": False}
_ENCODER = json.JSONEncoder(**_JSON_OPTIONS)
_MAX_DIGITS = 308  # of an integer that any double holds
_MAX_WHOLE = 2.0**64  # whole doubles below are written as integers are


class LongInteger:
    """An integer of JSON that is longer than doubles, and Python by default, can hold."""

    def __init__(self, digits: str) -> None:
        self.digits = digits


class FloatLiteral(float):
    """A number of JSON with a fraction, and how it was written."""

    text: str

    def __new__(cls, text: str) -> "FloatLiteral":
        number = super().__new__(cls, text)
        number.text = text
        return number


def parse_integer(digits: str) -> int | LongInteger:
    """Returns an integer of JSON, of any length."""
    return int(digits) if len(digits) <= _MAX_DIGITS else LongInteger(digits)


def id_text(value: Any) -> str | None:
    """Returns an id as plain text; None where one has to be made (null).

    Whole floats are written as integers; decimals, and JSON numbers with a fraction, with the
    digits that they have; lists and objects as JSON.

    Raises:
      UnicodeDecodeError: it is of bytes that are not UTF-8.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, list | tuple | dict):
        return strict_json(value)[0]
    return str(value) if isinstance(value, int) else _words(value, set())


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        return json.dumps(value)  # NaN, Infinity, -Infinity
    text = getattr(value, "text", "")
    if _PLAIN_FRACTION.fullmatch(text) and not re.search(r"\.0$", text):
        return text  # of a decimal, whose zeros are its own
    is_whole = value == int(value) and abs(value) < _MAX_WHOLE and str(value) != "-0.0"
    return str(int(value)) if is_whole else float.__repr__(value)


def strict_json(value: Any, *, holds_bytes: bool = False) -> tuple[str, tuple[str, ...]]:
    """Returns a value as strict JSON, and the kinds of change that it took, of `CHANGED_COUNTS`.

    Args:
      value: of JSON, of Arrow, or bytes; objects as mappings.
      holds_bytes: surrogates of its text stand for bytes ("surrogateescape").

    Raises:
      RecursionError: it is nested too deeply.
    """
    try:
        text = _ENCODER.encode(value)
        text.encode("utf-8")
    except (TypeError, ValueError):  # no JSON, a float that is no number, or a surrogate
        pass
    else:
        return text, ()
    changed: set[str] = set()
    encoder = json.JSONEncoder(**_JSON_OPTIONS, default=lambda other: _words(other, changed))
    text = encoder.encode(_strict(value, holds_bytes, changed))
    return text, tuple(kind for kind in CHANGED_COUNTS if kind in changed)


def _strict(value: Any, holds_bytes: bool, changed: set[str]) -> Any:
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        changed.add(NONFINITE)
        return None
    if isinstance(value, str):
        if _SURROGATE.search(value) is None:
            return value
        changed.add(NOT_UNICODE)
        return _unescape_bytes(value) if holds_bytes else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        # Names that differ must go on to differ.
        return {
            _strict_name(name, changed): _strict(item, holds_bytes, changed)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_strict(item, holds_bytes, changed) for item in value]
    return value


def _strict_name(name: str, changed: set[str]) -> str:
    if _SURROGATE.search(name) is None:
        return name
    changed.add(NOT_UNICODE)
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _unescape_bytes(text: str) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)


def _words(value: Any, changed: set[str]) -> Any:
    """Returns a value that JSON does not have (bytes, times, decimals, …) as plain text."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            changed.add(NOT_UNICODE)
            return value.decode("utf-8", "backslashreplace")
    if isinstance(value, LongInteger):
        changed.add(LONG_INTEGER)
        return value.digits
    if isinstance(value, decimal.Decimal):
        return format(value, "f")  # never with an exponent
    return str(value)
