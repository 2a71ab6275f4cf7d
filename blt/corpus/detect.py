"""Of which format and compression a file is."""

import dataclasses
import itertools
import json
import os

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
from blt.formats.tfrecord import is_record_start

ARROW_MAGIC = b"ARROW1"
_TAR_HEAD_BYTES = 512
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
    if found == "auto":
        found = _sniff_format(path, compression)
    return Detected(found, compression, note)


def member_format(name: str, wanted: str = "auto") -> str:
    """Returns how a member of an archive is read: by its name alone; as text if that says nothing.

    Args:
      name: of the member, with any suffixes.
      wanted: "auto", or the format that the user says.
    """
    if wanted == "bytes":
        return wanted
    found = _format_by_name(strip_compression_suffix(os.path.basename(name))[0], wanted)
    return "text" if found == "auto" else found


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
    if first.startswith(b"WARC/"):
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
