"""Of which format and compression a file is."""

import dataclasses
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from blt.corpus.decompress import (
    HEAD_BYTES,
    PLAIN,
    DamagedInputError,
    read_blocks,
    sniff_compression,
    strip_compression_suffix,
)
from blt.corpus.filesystems import open_input
from blt.corpus.mends import BOM
from blt.corpus.records import Reject
from blt.formats.tfrecord import holds_record_start, is_record_start

ARROW_MAGIC = b"ARROW1"
_TAR_HEAD_BYTES = 512
_WARC_HEAD = re.compile(rb"WARC/\d+\.\d+\s*\n")
_UTF8_FORMATS = ("auto", "text", "jsonl", "csv", "tsv")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
UNREAD = "unread"  # the format of a file that cannot be read; see `unread_kind`
_UNREAD_MAGICS = {
    b"PK\x03\x04": "zip archive",
    b"PK\x05\x06": "zip archive",
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"Rar!\x1a\x07": "rar archive",
    b"\x1f\x9d": "file of compress (.Z)",
    b"LZIP\x01": "lzip file",
    b"\x89LZO\x00": "lzop file",
    b"\xff\x06\x00\x00sNaPpY": "snappy file",
    b"\x02\x21\x4c\x18": "legacy lz4 file",
    b"Obj\x01": "Avro file",
    b"SQLite format 3\x00": "SQLite database",
    b"\x89HDF\r\n\x1a\n": "HDF5 file",
}
# Of those that have no magic, or one of letters.
_UNREAD_SUFFIXES = {
    ".zip": "zip archive",
    ".7z": "7z archive",
    ".rar": "rar archive",
    ".lzma": "lzma file",
    ".br": "brotli file",
    ".orc": "ORC file",
    ".avro": "Avro file",
}
_FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst", ".log"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json-lines", ".jsonlines"), "jsonl"),
    ".parquet": "parquet",
    **dict.fromkeys((".arrow", ".arrows", ".feather", ".ipc"), "arrow"),
    ".csv": "csv",
    **dict.fromkeys((".tsv", ".tab"), "tsv"),
    **dict.fromkeys((".warc", ".wet"), "warc"),
    **dict.fromkeys((".tfrecord", ".tfrecords", ".tfrec"), "tfrecord"),
    ".tar": "tar",
}
# Formats that hold their own compression, and are told by their first bytes.
_MAGICS = {b"PAR1": "parquet", ARROW_MAGIC: "arrow"}
_MAGIC_WORDS = {"parquet": "a Parquet file", "arrow": "an Arrow file"}
# What writers put behind a name: "x.csv-00000-of-00002", "x.jsonl.00003", "part-00000".
_SHARD_NUMBER = re.compile(r"[-_.]\d+(?:-of-\d+)?$")
_NOT_TEXT = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_ZLIB_BYTES = 4096
_ZLIB_KIND = "zlib stream"
_SNIFFED_LINES = 20  # of JSON, that must be objects where the first is not


@dataclasses.dataclass(frozen=True)
class Detected:
    """A file's format and compression, and a note for the user where the name says otherwise."""

    format: str
    compression: str
    note: str | None = None


def detect(path: str, wanted: str = "auto") -> Detected:
    """Tells how to read a file: by its suffixes, and where they say nothing by its first bytes.

    A shard number behind a suffix (`x.csv-00000-of-00002`) is passed over. A compression suffix is
    believed (if the content is something else, reading it is damage), but Parquet and Arrow files
    are told by their content. Compressed content without the suffix is recognised, with a note, and
    so is text that is called an Arrow file.

    Args:
      path: the file.
      wanted: "auto", or the format that the user says it is in.

    Raises:
      OSError: it cannot be read.
    """
    if wanted == "bytes":
        return Detected("bytes", PLAIN)
    name = os.path.basename(path)
    stem, compression = strip_compression_suffix(name)
    found = _format_by_name(stem, wanted)
    note = None
    head = None
    if compression is None or found in ("auto", *_MAGIC_WORDS):
        with open_input(path) as file:
            head = file.read(HEAD_BYTES)
    shown = next((f for m, f in _MAGICS.items() if head and head.startswith(m)), None)
    if shown is not None and found in ("auto", shown):
        if compression is not None:
            note = f"{path}: is {_MAGIC_WORDS[shown]} and not {compression} data; read as that."
        return Detected(shown, PLAIN, note)
    if compression is None:
        assert head is not None
        is_packed = found == "parquet" or shown == "arrow"
        # The length of a record may look like the start of gzip.
        is_packed = is_packed or (found == "tfrecord" and is_record_start(head))
        compression = PLAIN if is_packed else sniff_compression(head)
        if compression != PLAIN and _is_plain_after_all(path, found, compression):
            compression = PLAIN
        if compression != PLAIN:
            if strip_compression_suffix(_without_shard_number(name))[1] != compression:
                note = f"{path}: {compression} data without the suffix; read decompressed."
        elif head.startswith(_UTF16_MARKS) and found in _UTF8_FORMATS:
            note = f"{path}: seems to be UTF-16 or UTF-32; read as it is, though UTF-8 is expected."
        if wanted == "auto" and compression == PLAIN:
            kind = unread_kind(path, head) if found == "auto" else None
            if kind is None and _may_be_zlib(head) and _is_zlib(_first_block(path, PLAIN)):
                kind = _ZLIB_KIND
            if kind is not None:
                return Detected(UNREAD, PLAIN, f"{path}: {_not_read(kind)}")
            # Parquet is a name for nothing else; "arrows" is a word.
            if found == "arrow" and _is_text(_first_block(path, PLAIN)):
                note = f"{path}: is text and not {_MAGIC_WORDS[found]}; read as text."
                found = "text"
    if found == "auto":
        found, words = _sniff_format(path, compression)
        note = note or (words and f"{path}: {words}")
        if found == "text" and stem.lower().endswith(".json"):
            note = note or f"{path}: no JSON Lines (an object a line); taken as one text."
    return Detected(found, compression, note)


def _first_block(path: str, compression: str) -> bytes:
    """Returns the first block of a file's content; nothing if it is damaged."""
    blocks = read_blocks(path, compression)
    try:
        return next(itertools.islice(blocks, 1), b"")
    except DamagedInputError:
        return b""  # reading it will tell what is wrong
    finally:
        blocks.close()


def _is_plain_after_all(path: str, found: str, compression: str) -> bool:
    """Tells whether a file only begins as compressed data do: its first record is damaged.

    Then nothing can be decompressed, and records of the format that its name shows follow.
    """
    if found not in _RECORD_SHOWN or _first_block(path, compression):
        return False
    return _RECORD_SHOWN[found](_first_block(path, PLAIN))


def _holds_object(content: bytes) -> bool:
    return any(map(_is_object, content.split(b"\n", _SNIFFED_LINES)))


def _holds_warc_head(content: bytes) -> bool:
    return _WARC_HEAD.search(content) is not None


_RECORD_SHOWN: dict[str, Callable[[bytes], bool]] = {
    "tfrecord": holds_record_start,
    "jsonl": _holds_object,
    "warc": _holds_warc_head,
}


def _may_be_zlib(head: bytes) -> bool:
    """Tells whether bytes begin as a zlib stream does (RFC 1950)."""
    return len(head) >= 2 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0


def _is_zlib(content: bytes) -> bool:
    """Tells whether content is a zlib stream; text may begin as one ("x^")."""
    data = content[:_ZLIB_BYTES]
    if not _may_be_zlib(data) or not (_NOT_TEXT.search(data) or any(b > 0x7F for b in data)):
        return False
    try:
        return bool(zlib.decompressobj().decompress(data, _ZLIB_BYTES))
    except zlib.error:
        return False


def _is_text(content: bytes) -> bool:
    """Tells whether content is UTF-8 without control characters, and is there."""
    data = content[:_ZLIB_BYTES]
    if not data or _NOT_TEXT.search(data):
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(data) - 4 and len(content) > len(data)
    return True


def unread_kind(name: str, head: bytes) -> str | None:
    """Returns what a file is, if that is known and not read: archives, compressions, databases.

    Args:
      name: of the file, whose suffix is none of a format that is read.
      head: its first `HEAD_BYTES` bytes.
    """
    for magic, kind in _UNREAD_MAGICS.items():
        if head.startswith(magic):
            return kind
    return _UNREAD_SUFFIXES.get(os.path.splitext(name)[1].lower())


def read_unread(entry: dict[str, Any]) -> Iterator[Reject]:
    """Yields the one reject of a file, or a member of an archive, of the format `UNREAD`."""
    block = next(read_blocks(entry["path"], entry["compression"]), b"")
    head = block[:HEAD_BYTES]
    # A member's name is its source; a file's source may have got a number.
    kind = unread_kind(entry["source"], head) or unread_kind(entry["path"], head)
    if kind is None and _is_zlib(block):
        kind = _ZLIB_KIND
    detail = _not_read(kind or "file of an unknown kind")
    yield Reject(entry["source"], None, "unread_format", detail, head, ends_input=True)


def _not_read(kind: str) -> str:
    article = "an" if kind[0] in "AHO" or kind.startswith("SQ") else "a"
    return f"{article} {kind}, which is not read; unpack or convert it (or --format bytes)."


def member_format(name: str, wanted: str = "auto", head: bytes = b"") -> str:
    """Returns how a member of an archive is read: by its name; as text if that says nothing.

    Args:
      name: of the member, with any suffixes.
      wanted: "auto", or the format that the user says.
      head: its first `HEAD_BYTES` bytes, which may show that it cannot be read.
    """
    if wanted == "bytes":
        return wanted
    found = _format_by_name(strip_compression_suffix(os.path.basename(name))[0], wanted)
    if found != "auto":
        return found
    return UNREAD if unread_kind(name, head) else "text"


def _format_by_name(stem: str, wanted: str) -> str:
    """Returns the format that a suffix shows, "auto" for none; archives are opened in any case.

    The suffix may stand before a shard's number, and before that of a compression.
    """
    numbered = strip_compression_suffix(_without_shard_number(stem))[0]
    shown = (_FORMAT_OF_SUFFIX.get(os.path.splitext(s)[1].lower()) for s in (stem, numbered))
    found = next((f for f in shown if f is not None), "auto")
    return found if wanted == "auto" or found == "tar" else wanted


def names_a_format(name: str) -> bool:
    """Tells whether the name of a file shows its format."""
    return _format_by_name(strip_compression_suffix(os.path.basename(name))[0], "auto") != "auto"


def _without_shard_number(name: str) -> str:
    """
    >>> _without_shard_number("x.csv-00000-of-00002"), _without_shard_number("part-00000")
    ('x.csv', 'part')
    """
    return _SHARD_NUMBER.sub("", name)


def _sniff_format(path: str, compression: str) -> tuple[str, str | None]:
    """Returns the format that the first block shows, "text" if it shows none; and what to note.

    It is "jsonl" if the first line that is not blank is (or may be) a JSON object; or if it is not,
    being damaged or the end of a line, but lines after it are, several of them and all that are
    looked at.
    """
    first = _first_block(path, compression)
    if compression != PLAIN:  # else that was looked at before
        shown = next((f for magic, f in _MAGICS.items() if first.startswith(magic)), None)
        if shown or unread_kind("", first[:HEAD_BYTES]):
            return shown or UNREAD, None
    if _WARC_HEAD.match(first):
        return "warc", None
    if is_record_start(first[:HEAD_BYTES]):
        return "tfrecord", None
    if first[257:262] == b"ustar" and len(first) >= _TAR_HEAD_BYTES:
        return "tar", None
    first = first.removeprefix(BOM).lstrip(b" \t\r\n")
    line, newline, rest = first.partition(b"\n")
    if line.startswith(b"{") and not newline:
        # A line longer than the block cannot be judged by more than its start.
        return "jsonl" if _is_object(line) is not False else "text", None
    if line.startswith(b"{") and _is_object(line):
        return "jsonl", None
    lines = [x for x in rest.split(b"\n", _SNIFFED_LINES)[:-1] if x.strip()]
    if len(lines) >= 2 and all(map(_is_object, lines)):
        words = "its first line is no JSON object, but those after it are; read as JSON Lines."
        return "jsonl", words
    return "text", None


def _is_object(line: bytes) -> bool | None:
    """Tells whether a line is a JSON object; None if it is no JSON."""
    try:
        return isinstance(json.loads(line.decode("utf-8", "replace")), dict)
    except (ValueError, RecursionError):
        return None
