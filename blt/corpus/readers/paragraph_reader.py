"""Text inputs, a document per paragraph: blank lines stand between documents.

A line is ended by LF alone, and is blank if it holds nothing but spaces, tabs and CR, at most
`MAX_BLANK_BYTES` of them. A paragraph is a run of lines that are not blank, without the LF of the
last; its position, and the range that it belongs to, is that of its first byte. What stands
between two paragraphs is "\\n\\n", or is noted in the meta of the one before it (`after`, and
`before` in the first of a file), so that `decode` gives the file back. Of a gap of more than
`MAX_GAP_BYTES` the rest is left out, and counted as one filtered record.
"""

import json
from collections.abc import Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.blocks import SecondReading
from blt.corpus.files.filesystems import open_input
from blt.corpus.readers.lines import Line, read_lines_from
from blt.corpus.records import Filtered, Record, made_id, make_document
from blt.dataset.units import Progress

MAX_BLANK_BYTES = 4096
MAX_GAP_BYTES = 4096
USUAL_GAP = b"\n\n"
_BLANKS = b" \t\r"


def gaps_of(meta: bytes | None) -> tuple[bytes, bytes]:
    """Returns what stood before and after a paragraph, by its meta."""
    noted = json.loads(meta) if meta else {}
    after = noted.get("after")
    return (
        noted.get("before", "").encode("ascii"),
        USUAL_GAP if after is None else after.encode("ascii"),
    )


def read_text_paragraphs(
    entry: Entry, config: EncodeConfig, progress: Progress
) -> Iterator[Record]:
    """Yields a document for each paragraph that starts in the entry's range."""
    source, limit = entry["source"], config.max_document_bytes
    start, end = entry.get("range") or (0, None)
    again = SecondReading(entry, config)
    lines = read_lines_from(
        start, end, entry, config, progress, max_line_bytes=max(limit, MAX_BLANK_BYTES)
    )
    line = next(lines, None)
    if line is not None and line.offset > 0 and not _follows_blank_line(entry, line.offset):
        # The rest of a paragraph that is another range's.
        while line is not None and not _is_blank(line):
            if end is not None and line.offset >= end:
                return
            line = next(lines, None)
    # What is left over of an earlier range's gap, unless it is the start of the file.
    gap = _Gap()
    while line is not None and _is_blank(line):
        if start and end is not None and line.offset >= end:
            return
        gap.add(line)
        line = next(lines, None)
    if start == 0 and (gap.cut_at is not None or (line is None and gap.raw)):
        yield Filtered(source, 0)
    before = b"" if line is None else _gap_before_first(entry, gap, line)

    while line is not None and (end is None or line.offset < end):
        first, held, num_bytes = line, bytearray(), 0
        while line is not None and not _is_blank(line):
            num_bytes = line.offset + line.num_bytes - first.offset
            if num_bytes > limit:
                held.clear()  # it will be read again, part by part
            else:
                held += b"\n" * (line is not first) + line.raw
            last, line = line, next(lines, None)
        gap = _Gap(b"\n" if last.has_newline else b"")
        while line is not None and _is_blank(line):
            gap.add(line)
            line = next(lines, None)
        doc_id, position = made_id(source, first.offset), first.offset
        meta = _meta(before, bytes(gap.raw), config)
        if num_bytes > limit:
            yield again.document(doc_id, position, num_bytes, start=position, meta=meta)
        else:
            yield make_document(
                doc_id,
                bytes(held),
                source=source,
                position=position,
                max_document_bytes=limit,
                meta=meta,
            )
        if gap.cut_at is not None:
            yield Filtered(source, gap.cut_at)
        before = b""


class _Gap:
    """Blank lines, of which the first `MAX_GAP_BYTES` bytes are kept."""

    def __init__(self, raw: bytes = b"") -> None:
        self.raw = bytearray(raw)
        self.cut_at: int | None = None  # offset of the first line that is left out

    def add(self, line: Line) -> None:
        if self.cut_at is not None:
            return
        if len(self.raw) + line.num_bytes + 1 > MAX_GAP_BYTES:
            self.cut_at = line.offset
            return
        self.raw += line.raw + b"\n" * line.has_newline


def _is_blank(line: Line) -> bool:
    return line.num_bytes <= MAX_BLANK_BYTES and not line.raw.strip(_BLANKS)


def _follows_blank_line(entry: Entry, offset: int) -> bool:
    """Tells whether the line before the one at `offset` is blank; plain files only."""
    start = max(0, offset - MAX_BLANK_BYTES - 2)
    with open_input(entry["path"]) as file:
        file.seek(start)
        before = file.read(offset - 1 - start)
    _, newline, raw = before.rpartition(b"\n")
    return bool(newline or start == 0) and not raw.strip(_BLANKS)


def _gap_before_first(entry: Entry, gap: _Gap, line: Line) -> bytes:
    """Returns what stands before `line` if that is all blank, in whatever range it lies."""
    start, _ = entry.get("range") or (0, None)
    if start == 0:
        return b"" if gap.cut_at is not None else bytes(gap.raw)
    if line.offset > MAX_GAP_BYTES:
        return b""
    with open_input(entry["path"]) as file:
        head = file.read(line.offset)
    return b"" if head.strip(_BLANKS + b"\n") else head


def _meta(before: bytes, after: bytes, config: EncodeConfig) -> bytes | None:
    if config.newlines == "lf":  # the paragraphs get it as well
        before, after = before.replace(b"\r\n", b"\n"), after.replace(b"\r\n", b"\n")
    noted = {}
    if before:
        noted["before"] = before.decode("ascii")
    if after != USUAL_GAP:
        noted["after"] = after.decode("ascii")
    return json.dumps(noted, separators=(",", ":")).encode("ascii") if noted else None
