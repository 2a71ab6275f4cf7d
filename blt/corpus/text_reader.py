"""Text inputs: bytes as they are, a document per file or per line.

Nothing is decoded, stripped or normalised. CR, NUL and a byte order mark are data; an empty file
and an empty line are empty documents.
"""

from collections.abc import Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import PLAIN, DamagedInputError, read_blocks
from blt.corpus.lines import Line, read_lines
from blt.corpus.plan import Entry
from blt.corpus.records import Document, Record, Reject, count_parts, made_id, make_document
from blt.errors import WorkError
from blt.units import Progress

# The last line of a file without a final LF says so, for `decode` to give the file back exactly.
NO_FINAL_NEWLINE_META = b'{"no_final_newline":true}'


def read_text_lines(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a document for each line."""
    source = entry["source"]
    for line in read_lines(
        entry["path"],
        entry["compression"],
        byte_range=entry.get("range"),
        progress=progress,
    ):
        if line.too_long:
            yield reject_long_line(source, line)
            continue
        yield make_document(
            made_id(source, line.offset),
            line.raw,
            source=source,
            position=line.offset,
            max_document_bytes=config.max_document_bytes,
            meta=None if line.has_newline else NO_FINAL_NEWLINE_META,
        )


def reject_long_line(source: str, line: Line) -> Reject:
    return Reject(
        source,
        line.offset,
        "too_long",
        f"the line has {line.num_bytes} bytes",
        line.raw,
    )


def read_text_file(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields the one document of a file; one of several parts is never in memory as a whole.

    A compressed file longer than a part is decompressed twice, first to learn its length, so that
    damage is found before anything of it is kept.
    """
    source, path, compression = entry["source"], entry["path"], entry["compression"]
    limit = config.max_document_bytes
    num_bytes = entry["size"]
    if compression != PLAIN or num_bytes <= limit:
        head, num_bytes = [], 0
        for block in read_blocks(path, compression, progress=progress):
            num_bytes += len(block)
            if num_bytes <= limit:
                head.append(block)
        if num_bytes <= limit:
            yield make_document(
                source, b"".join(head), source=source, position=0, max_document_bytes=limit
            )
            return
        progress = _ignore
    parts = _read_parts(entry, num_bytes, limit, progress)
    yield Document(source, parts, count_parts(num_bytes, limit), source, 0)


def _ignore(num_bytes: int) -> None:
    """The file was read before, and its bytes were counted then."""


def _read_parts(entry: Entry, expected: int, limit: int, progress: Progress) -> Iterator[bytes]:
    held = bytearray()
    num_bytes = 0
    try:
        for block in read_blocks(entry["path"], entry["compression"], progress=progress):
            num_bytes += len(block)
            held += block
            while len(held) >= limit:
                yield bytes(held[:limit])
                del held[:limit]
    except DamagedInputError as error:
        raise _changed(entry) from error
    if num_bytes != expected:
        raise _changed(entry)
    if held:
        yield bytes(held)


def _changed(entry: Entry) -> WorkError:
    return WorkError(f"{entry['path']}: changed while it was read. Run again when it is at rest.")
