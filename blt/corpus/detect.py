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

_FORMAT_OF_SUFFIX = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".rst": "text",
    ".log": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json-lines": "jsonl",
    ".jsonlines": "jsonl",
    ".parquet": "parquet",
}


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
    stem, compression = strip_compression_suffix(os.path.basename(path))
    found = wanted
    if wanted == "auto":
        found = _FORMAT_OF_SUFFIX.get(os.path.splitext(stem)[1].lower(), "auto")
    note = None
    if compression is None:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        if found == "auto" and head.startswith(b"PAR1"):
            found = "parquet"
        compression = PLAIN if found == "parquet" else sniff_compression(head)
        if compression != PLAIN:
            note = f"{path}: {compression} data without the suffix; read decompressed."
    if found == "auto":
        found = _sniff_format(path, compression)
    return Detected(found, compression, note)


def _sniff_format(path: str, compression: str) -> str:
    """Returns "jsonl" if the first line that is not blank is (or may be) a JSON object."""
    blocks = read_blocks(path, compression)
    try:
        first = next(itertools.islice(blocks, 1), b"")
    except DamagedInputError:
        return "text"  # reading it will tell what is wrong
    finally:
        blocks.close()
    first = first.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    line, newline, _ = first.partition(b"\n")
    if not line.startswith(b"{"):
        return "text"
    try:
        return "jsonl" if isinstance(json.loads(line.decode("utf-8", "replace")), dict) else "text"
    except (ValueError, RecursionError):
        # A line longer than the block cannot be judged by more than its start.
        return "text" if newline else "jsonl"
