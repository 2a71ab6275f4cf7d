"""Of which format and compression a file is."""

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Callable, Generator, Iterator

from blt.corpus.fields import ABSENT, get_field
from blt.corpus.files.decompress import (
    HEAD_BYTES,
    PLAIN,
    DamagedInputError,
    begins_as,
    holds_member,
    read_blocks,
    sniff_compression,
    strip_compression_suffix,
)
from blt.corpus.files.filesystems import open_input
from blt.corpus.files.json_heads import JSON_BLANKS, head_objects
from blt.corpus.mends import BOM
from blt.formats.tfrecord import holds_record_start, is_record_start

ARROW_MAGIC = b"ARROW1"
_TAR_HEAD_BYTES = 512
_WARC_HEAD = re.compile(rb"WARC/\d+\.\d+\s*\n")
_UTF8_FORMATS = ("auto", "text", "jsonl", "csv", "tsv")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
UNREAD = "unread"  # the format of a file that cannot be read; see `unread_kind`
EMPTY = "empty"  # that of a file without content, whose name shows none
_LFS_KIND = "Git LFS pointer"
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
    b"version https://git-lfs": _LFS_KIND,
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
_ARROW_STREAM_MARK = b"\xff\xff\xff\xff"
_MAX_SCHEMA_BYTES = 1 << 24
_MAGIC_WORDS = {"parquet": "a Parquet file", "arrow": "an Arrow file"}
# What writers put behind a name: "x.csv-00000-of-00002", "x.jsonl.00003", "part-00000".
_SHARD_NUMBER = re.compile(r"[-_.]\d+(?:-of-\d+)?$")
_NAME_PARTS = re.compile(r"[-_.]?[^-_.]+|[-_.]")
_WEB_PAGE = re.compile(rb"(?i)\s*<(?:!doctype|html|\?xml)\b")
_NOT_TEXT = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_ZLIB_BYTES = 4096
ZLIB_KIND = "zlib stream"
_SNIFFED_LINES = 20  # of JSON, that must be objects where the first is not
_MAX_NAMED = 20
_MAX_RATIO = 1000  # of what is decompressed to look at it


@dataclasses.dataclass(frozen=True)
class Detected:
    """A file's format and compression.

    Attributes:
      format: what reads it: "text", "jsonl", …, "tar", `UNREAD` or `EMPTY`.
      compression: as `read_blocks` wants it.
      note: for the user, where the name says otherwise, or another format could be meant.
      is_default: it is text because nothing shows another format.
      lacks_text: it looks like JSON Lines, but is text since it lacks the text field.
    """

    format: str
    compression: str
    note: str | None = None
    is_default: bool = False
    lacks_text: bool = False


class _Content:
    """The start of a file, of which no more is read than is asked for."""

    def __init__(self, path: str, start: bytes | None) -> None:
        self._path, self._start = path, start
        self._first: dict[str, bytes | None] = {} if start is None else {PLAIN: start}

    def head(self) -> bytes:
        """Returns the first `HEAD_BYTES` bytes, as stored."""
        if self._start is None:
            with open_input(self._path) as file:
                self._start = file.read(HEAD_BYTES)
        return self._start[:HEAD_BYTES]

    def first_block(self, compression: str) -> bytes | None:
        """Returns the first block, decompressed: empty if there is nothing, None if damaged."""
        if compression not in self._first:
            blocks = self.blocks(compression)
            try:
                self._first[compression] = next(blocks, b"")
            except DamagedInputError:
                self._first[compression] = None
            finally:
                blocks.close()
        return self._first[compression]

    def blocks(self, compression: str) -> Generator[bytes, None, None]:
        yield from read_blocks(self._path, compression, max_ratio=_MAX_RATIO)


def detect(
    path: str,
    wanted: str = "auto",
    *,
    text_field: str = "text",
    name: str | None = None,
    start: bytes | None = None,
) -> Detected:
    """Tells how to read a file: by its suffixes, and where they say nothing by its first bytes.

    A shard number behind a suffix (`x.csv-00000-of-00002`) is passed over. A compression suffix is
    believed unless the content shows that it is something else: another compression, or what is not
    compressed at all, which is read as that with a note. What shows nothing is damage when it is
    read. Parquet and Arrow files are told by their content. Compressed content without the suffix
    is recognised, with a note, and so is text that is called an Arrow file. What only looks like
    JSON Lines must have the text field near its start, else it is one text, with a note. A file
    without content whose name shows no format is `EMPTY`.

    Args:
      path: the file.
      wanted: "auto", or the format that the user says it is in.
      text_field: the field that JSON Lines must have.
      name: what the file is called, if not by its path: that of a member of an archive.
      start: its first block as stored, if that was read already.

    Raises:
      OSError: it cannot be read.
    """
    if wanted == "bytes":
        return Detected("bytes", PLAIN)
    called = name or path
    content = _Content(path, start)
    base, found = _named_format(path, name, wanted)
    claimed = compression = strip_compression_suffix(base)[1]
    head = content.head()
    takes_magic = compression is None or found in ("auto", *_MAGIC_WORDS)
    shown = _shown_format(head) if takes_magic else None
    is_doubtful = found == "auto" or (wanted == "auto" and found not in ("text", "tar"))
    if shown is not None and (
        found == shown or (is_doubtful and not _holds_records(content, found))
    ):
        claimed = compression or (found if found not in ("auto", shown) else None)
        note = f"{called}: is {_MAGIC_WORDS[shown]} and not {claimed} data; read as that."
        return Detected(shown, PLAIN, note if claimed else None)
    note = None
    if compression is not None and not _may_be(content, compression):
        kind = unread_kind("", head) or _zlib_kind(content)
        if kind is not None:
            return Detected(UNREAD, PLAIN, f"{called}: {describe_unread(kind)}")
        compression, words = _really(content, found, compression)
        note = words and f"{called}: is {words} and not {claimed} data; read as that."
    if compression is None:
        compression = _plain_or_packed(found, head)
        if compression != PLAIN and _is_plain_after_all(content, found, compression):
            compression = PLAIN
        if compression != PLAIN:
            if strip_compression_suffix(_without_shard_number(base))[1] != compression:
                note = f"{called}: {compression} data without the suffix; read decompressed."
        elif head.startswith(_UTF16_MARKS) and found in _UTF8_FORMATS:
            note = f"{called}: seems UTF-16 or UTF-32; read as it is, though UTF-8 is expected."
        if compression == PLAIN and wanted != "text":
            kind = unread_kind(base if found == "auto" else "", head) if is_doubtful else None
            if kind is not None and _holds_records(content, found):
                kind = None
            kind = kind or _zlib_kind(content)
            if kind is not None:
                return Detected(UNREAD, PLAIN, f"{called}: {describe_unread(kind)}")
            # Parquet is a name for nothing else; "arrows" is a word.
            may_be_text = wanted == "auto" and found == "arrow"
            if may_be_text and _is_text(content.first_block(PLAIN) or b""):
                note = f"{called}: is text and not {_MAGIC_WORDS[found]}; read as text."
                found = "text"
    if found != "auto":
        return Detected(found, compression, note)
    if content.first_block(compression) is None:
        return Detected("text", compression, note)  # reading it will tell what is wrong
    found, words = _sniff_format(content, compression, text_field)
    lacks_text = found == "text" and words is not None
    is_default = found == "text" and not lacks_text
    if is_default and strip_compression_suffix(base)[0].lower().endswith(".json"):
        words = "no JSON Lines (an object a line); taken as one text."
    note = note or (words and f"{called}: {words}")
    return Detected(found, compression, note, is_default, lacks_text)


def _may_be(content: _Content, compression: str) -> bool:
    """Tells whether a file is of a compression; the head of its first member may be damaged."""
    head = content.head()
    if not head or begins_as(head, compression):
        return True
    return holds_member(content.first_block(PLAIN) or b"", compression)


def _really(content: _Content, found: str, claimed: str) -> tuple[str, str | None]:
    """Returns the compression of a file whose content is not of the one that its name claims.

    Args:
      content: of the file.
      found: the format that its name shows.
      claimed: the compression that it claims.

    Returns:
      The compression, and what the file is in words; the claimed one, without words, if nothing
      shows another.
    """
    head = content.head()
    compression = sniff_compression(head)
    if compression != PLAIN and content.first_block(compression):
        return compression, f"{compression} data"
    first = content.first_block(PLAIN) or b""
    # Clients that download gzip may decompress it. A page that a server sends instead is no text.
    may_be_text = claimed == "gzip" and found in _UTF8_FORMATS and not _WEB_PAGE.match(first)
    is_text = may_be_text and _is_text(first)
    if is_text or _is_tar(first) or is_record_start(head) or _WARC_HEAD.match(first):
        return PLAIN, "uncompressed data"
    return claimed, None


def _is_tar(first: bytes) -> bool:
    """Tells whether the first block of a file is that of a tar archive."""
    return first[257:262] == b"ustar" and len(first) >= _TAR_HEAD_BYTES


def _shown_format(head: bytes) -> str | None:
    """Returns the format that the first bytes of a file show, if it has its own compression."""
    if head.startswith(_ARROW_STREAM_MARK):  # then comes the length of the schema, padded to 8
        length = int.from_bytes(head[4:8], "little")
        return "arrow" if 0 < length <= _MAX_SCHEMA_BYTES and length % 8 == 0 else None
    return next((name for magic, name in _MAGICS.items() if head.startswith(magic)), None)


def _named_format(path: str, name: str | None, wanted: str) -> tuple[str, str]:
    """Returns a file's name without folders, and the format that it shows.

    Of a link that shows nothing, that is the name of what it leads to.
    """
    base = os.path.basename(name or path)
    stem, compression = strip_compression_suffix(base)
    found = _format_by_name(stem, wanted)
    if found == "auto" and compression is None and name is None and os.path.islink(path):
        base = os.path.basename(os.path.realpath(path))
        found = _format_by_name(strip_compression_suffix(base)[0], wanted)
    return base, found


def _plain_or_packed(found: str, head: bytes) -> str:
    """Returns the compression that the first bytes of a file without such a suffix show."""
    # The length of a record may look like the start of gzip.
    if found == "parquet" or (found == "tfrecord" and is_record_start(head)):
        return PLAIN
    return sniff_compression(head)


def _is_plain_after_all(content: _Content, found: str, compression: str) -> bool:
    """Tells whether a file only begins as compressed data do: its first record is damaged.

    Then nothing can be decompressed, and records of the format that its name shows follow.
    """
    may_be = found in _RECORD_SHOWN and not content.first_block(compression)
    return may_be and _holds_records(content, found)


def _holds_records(content: _Content, found: str) -> bool:
    """Tells whether records of the format that a file's name shows are near its start."""
    return found in _RECORD_SHOWN and _RECORD_SHOWN[found](content.first_block(PLAIN) or b"")


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


def _zlib_kind(content: _Content) -> str | None:
    """Returns what a zlib stream is called, None for anything else."""
    is_one = _may_be_zlib(content.head()) and is_zlib(content.first_block(PLAIN) or b"")
    return ZLIB_KIND if is_one else None


def is_zlib(content: bytes) -> bool:
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


def describe_unread(kind: str) -> str:
    article = "an" if kind[0] in "AHO" or kind.startswith("SQ") else "a"
    if kind == _LFS_KIND:
        return f"{article} {kind} and not the file itself; get that by `git lfs pull`."
    return f"{article} {kind}, which is not read; unpack or convert it (or --format bytes)."


def format_by_name(name: str, wanted: str = "auto") -> str:
    """Returns the format that a file's name shows; text if it shows none.

    Args:
      name: of the file, with any suffixes.
      wanted: "auto", or the format that the user says.
    """
    if wanted == "bytes":
        return wanted
    found = _format_by_name(strip_compression_suffix(os.path.basename(name))[0], wanted)
    return "text" if found == "auto" else found


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


def shard_family(name: str) -> str | None:
    """Returns what the shards of a dataset are all called; None if a name has no number.

    >>> shard_family("part-00002.csv.gz"), shard_family("x.csv-00000-of-00002"), shard_family("x")
    ('part-#', 'x-#-of-#', None)
    """
    parts = []
    for part in _NAME_PARTS.findall(name):
        if part[0] == "." and (part.lower() in _FORMAT_OF_SUFFIX or _is_compression(part)):
            continue
        parts.append(re.sub(r"\d+$", "#", part) if part.lstrip("-_.").isdecimal() else part)
    return "".join(parts) if any(part.endswith("#") for part in parts) else None


def _is_compression(suffix: str) -> bool:
    return strip_compression_suffix("x" + suffix)[1] is not None


def _without_shard_number(name: str) -> str:
    """
    >>> _without_shard_number("x.csv-00000-of-00002"), _without_shard_number("part-00000")
    ('x.csv', 'part')
    """
    return _SHARD_NUMBER.sub("", name)


def _sniff_format(content: _Content, compression: str, text_field: str) -> tuple[str, str | None]:
    """Returns the format that the first block shows, "text" if it shows none; and what to note."""
    first = content.first_block(compression)
    if not first:
        return EMPTY, None
    if compression != PLAIN:  # else that was looked at before
        shown = _shown_format(first)
        if shown or unread_kind("", first[:HEAD_BYTES]):
            return shown or UNREAD, None
    if _WARC_HEAD.match(first):
        return "warc", None
    if is_record_start(first[:HEAD_BYTES]):
        return "tfrecord", None
    if _is_tar(first):
        return "tar", None
    looks_like_json, words = _looks_like_json_lines(first)
    if not looks_like_json:
        return "text", None
    names = _fields_without_text(content.blocks(compression), text_field)
    if names is None or (not names and _names_field(first, text_field)):
        return "jsonl", words
    shown_names = ", ".join(ascii(name[:60])[1:-1] for name in names[:_MAX_NAMED]) or "none"
    return "text", (
        f"looks like JSON Lines, but none of its first objects has the field {text_field!a} (it "
        f"has: {shown_names}); taken as one text."
    )


def _looks_like_json_lines(first: bytes) -> tuple[bool, str | None]:
    """Tells whether content looks like JSON Lines, by its first block; and what to note.

    It does if the first line that is not blank is (or may be) a JSON object; or if it is not, being
    damaged or the end of a line, but lines after it are, several of them and all that are looked
    at.
    """
    first = first.removeprefix(BOM).lstrip(JSON_BLANKS)
    line, newline, rest = first.partition(b"\n")
    if line.startswith(b"{") and not newline:
        # A line longer than the block cannot be judged by more than its start.
        return _is_object(line) is not False, None
    if line.startswith(b"{") and _is_object(line):
        return True, None
    lines = [x for x in rest.split(b"\n", _SNIFFED_LINES)[:-1] if x.strip()]
    may_be = len(lines) >= 2 and lines[0].lstrip(JSON_BLANKS).startswith(b"{")
    if may_be and all(map(_is_object, lines)):
        return True, "its first line is no JSON object, but those after it are; read as JSON Lines."
    return False, None


def _fields_without_text(blocks: Iterator[bytes], text_field: str) -> list[str] | None:
    """Returns the fields of the first object, or None if one near the start has the text."""
    names: list[str] = []
    try:
        for row in head_objects(blocks):
            if get_field(row, text_field) is not ABSENT:
                return None
            names = names or list(row)
    except DamagedInputError:
        pass  # what came before it was looked at
    return names


def _names_field(content: bytes, text_field: str) -> bool:
    """Tells whether JSON that is cut, or too long to be parsed, seems to have a field."""
    name = json.dumps(text_field.rpartition(".")[2]).encode()
    return re.search(re.escape(name) + rb"\s*:", content) is not None


def _is_object(line: bytes) -> bool | None:
    """Tells whether a line is a JSON object; None if it is no JSON."""
    try:
        return isinstance(json.loads(line.decode("utf-8", "replace")), dict)
    except (ValueError, RecursionError):
        return None
