"""Text inputs: bytes as they are, a document per file or per line.

Nothing is decoded, stripped or normalised. CR, NUL and a byte order mark are data; an empty file
and an empty line are empty documents. A document longer than a part is never in memory as a whole:
it is read twice, first to learn its length, so that damage is found before anything of it is kept.
"""

import json
from collections.abc import Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.blocks import SecondReading, entry_blocks
from blt.corpus.files.decompress import PLAIN
from blt.corpus.readers.lines import read_lines
from blt.corpus.records import Record, made_id, make_document
from blt.dataset.units import Progress, no_progress

# The last line of a file without a final LF says so, for `decode` to give the file back exactly.
NO_FINAL_NEWLINE_META = b'{"no_final_newline":true}'
# What readers of text note in the meta; no kept field of a text has these names.
NOTES = ("no_final_newline", "before", "after")


def has_final_newline(meta: bytes | None) -> bool:
    """Tells whether an LF followed a line, by its meta."""
    return not (meta and json.loads(meta).get("no_final_newline"))


def read_text_lines(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a document for each line."""
    source, limit = entry["source"], config.max_document_bytes
    again = SecondReading(entry, config)
    for line in read_lines(entry, config, progress, max_line_bytes=limit):
        doc_id = made_id(source, line.offset)
        meta = None if line.has_newline else NO_FINAL_NEWLINE_META
        if line.too_long:
            yield again.document(doc_id, line.offset, line.num_bytes, start=line.offset, meta=meta)
            continue
        yield make_document(
            doc_id,
            line.raw,
            source=source,
            position=line.offset,
            max_document_bytes=limit,
            meta=meta,
        )


def read_text_file(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields the one document of a file."""
    source, limit = entry["source"], config.max_document_bytes
    num_bytes = entry["size"]
    if entry["compression"] != PLAIN or num_bytes <= limit:
        head, num_bytes = [], 0
        for block in entry_blocks(entry, config, progress):
            num_bytes += len(block)
            if num_bytes <= limit:
                head.append(block)
        if num_bytes <= limit:
            yield make_document(
                source, b"".join(head), source=source, position=0, max_document_bytes=limit
            )
            return
        progress = no_progress  # the bytes were counted
    again = SecondReading(entry, config, progress)
    yield again.document(source, 0, num_bytes, start=0, is_rest=True)
