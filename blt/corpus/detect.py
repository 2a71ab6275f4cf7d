"""Of which format and compression a file is."""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator
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
from blt.formats.tfrecord import is_record_start

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


@dataclasses.dataclass(frozen=True)
class Detected:
    """A file's format and compression, and a note for the user where the name says otherwise."""

    format: str
    compression: str
    note: str | None = None


def detect(path: str, wanted: str = "auto") -> Detected:
    """Tells how to read a file: by its suffixes, and where they say nothing by its first bytes.

    A compression suffix is believed (if the content is something else, reading it is damage);
    compressed content without the suffix is recognised, with a note.

    Args:
      path: the file.
      wanted: "auto", or the format that the user says it is in.

    Raises:
      OSError: it cannot be read.
    """
    if wanted == "bytes":
        return Detected("bytes", PLAIN)
    stem, compression = strip_compression_suffix(os.path.basename(path))
    found = _format_by_name(stem, wanted)
    note = None
    if compression is None:
        with open_input(path) as file:
            head = file.read(HEAD_BYTES)
        if found == "auto":
            found = next((f for m, f in _MAGICS.items() if head.startswith(m)), found)
        is_packed = found == "parquet" or head.startswith(ARROW_MAGIC)
        # The length of a record may look like the start of gzip.
        is_packed = is_packed or (found == "tfrecord" and is_record_start(head))
        compression = PLAIN if is_packed else sniff_compression(head)
        if compression != PLAIN:
            note = f"{path}: {compression} data without the suffix; read decompressed."
        elif head.startswith(_UTF16_MARKS) and found in _UTF8_FORMATS:
            note = f"{path}: seems to be UTF-16 or UTF-32; read as it is, though UTF-8 is expected."
        if found == "auto" and compression == PLAIN and (kind := unread_kind(path, head)):
            return Detected(UNREAD, PLAIN, f"{path}: {_not_read(kind)}")
    if found == "auto":
        found = _sniff_format(path, compression)
        if found == "text" and stem.lower().endswith(".json"):
            note = note or f"{path}: no JSON Lines (an object a line); taken as one text."
    return Detected(found, compression, note)


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
    head = next(read_blocks(entry["path"], entry["compression"]), b"")[:HEAD_BYTES]
    # A member's name is its source; a file's source may have got a number.
    kind = unread_kind(entry["source"], head) or unread_kind(entry["path"], head)
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
    """Returns the format that a suffix shows, "auto" for none; archives are opened in any case."""
    shown = _FORMAT_OF_SUFFIX.get(os.path.splitext(stem)[1].lower(), "auto")
    return shown if wanted == "auto" or shown == "tar" else wanted


def _sniff_format(path: str, compression: str) -> str:
    """Returns the format that the first block shows; "text" if it shows none.

    It is "jsonl" if the first line that is not blank is (or may be) a JSON object.
    """
    blocks = read_blocks(path, compression)
    try:
        first = next(itertools.islice(blocks, 1), b"")
    except DamagedInputError:
        return "text"  # reading it will tell what is wrong
    finally:
        blocks.close()
    if compression != PLAIN:  # else that was looked at before
        shown = next((f for magic, f in _MAGICS.items() if first.startswith(magic)), None)
        if shown or unread_kind("", first[:HEAD_BYTES]):
            return shown or UNREAD
    if _WARC_HEAD.match(first):
        return "warc"
    if is_record_start(first[:HEAD_BYTES]):
        return "tfrecord"
    if first[257:262] == b"ustar" and len(first) >= _TAR_HEAD_BYTES:
        return "tar"
    first = first.removeprefix(BOM).lstrip(b" \t\r\n")
    line, newline, _ = first.partition(b"\n")
    if not line.startswith(b"{"):
        return "text"
    try:
        return "jsonl" if isinstance(json.loads(line.decode("utf-8", "replace")), dict) else "text"
    except (ValueError, RecursionError):
        # A line longer than the block cannot be judged by more than its start.
        return "text" if newline else "jsonl"
