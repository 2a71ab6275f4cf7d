"""The content of a planned file: block by block, as a file, and pieces of it a second time."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.decompress import (
    HEAD_BYTES,
    PLAIN,
    Boundary,
    DamagedInputError,
    read_blocks,
    sniff_compression,
)
from blt.corpus.files.meter import Meter
from blt.corpus.records import Document, Reject, count_parts
from blt.dataset.units import Progress, no_progress
from blt.errors import WorkError

# A record that is parsed is held about four times over (JSON), so that it cannot be of any length.
_PARSED_BYTES_FLOOR = 64 << 20
_PARSED_BYTES_CAP = 1 << 30


def entry_blocks(
    entry: Entry,
    config: EncodeConfig,
    progress: Progress = no_progress,
    *,
    start: int = 0,
    is_record: Callable[[bytes], bool] | None = None,
) -> Iterator[Any]:
    """Yields the blocks of a planned file, decompressed; see `read_blocks`.

    Raises:
      DamagedInputError: as `read_blocks`, or what comes out is compressed again.
    """
    blocks = read_blocks(
        entry["path"],
        entry["compression"],
        start=start,
        progress=progress,
        max_ratio=config.max_decompression_ratio,
        is_record=is_record,
    )
    if isinstance(progress, Meter):
        blocks = progress.watch(blocks)
    # The length of a record of TFRecord may look like the start of gzip.
    if entry["compression"] == PLAIN or entry["format"] == "tfrecord":
        return blocks
    return _checked(blocks, entry["compression"])


def _checked(blocks: Iterator[Any], compression: str) -> Iterator[Any]:
    is_first = True
    for block in blocks:
        if is_first and isinstance(block, bytes):
            inner = sniff_compression(block[:HEAD_BYTES])
            if inner != PLAIN:
                raise DamagedInputError(
                    f"is compressed twice ({inner} inside {compression}); decompress it once"
                )
            is_first = False
        yield block


def max_parsed_bytes(config: EncodeConfig) -> int:
    """Returns how long a record may be that has to be in memory as a whole to be parsed."""
    return min(_PARSED_BYTES_CAP, max(_PARSED_BYTES_FLOOR, 8 * config.max_document_bytes))


def reject_long(
    source: str, position: int, num_bytes: int, sample: bytes, config: EncodeConfig
) -> Reject:
    """Returns the reject of a record that is longer than `max_parsed_bytes`."""
    detail = (
        f"the record has {num_bytes} bytes, and {max_parsed_bytes(config)} can be parsed; "
        "--max-document-bytes raises the limit"
    )
    return Reject(source, position, "too_long", detail, sample, num_bytes=num_bytes)


def reject_member(
    boundary: Boundary, source: str, position: int, reason: str = "bad_record"
) -> Reject:
    """Returns the reject of a damaged member of a compressed input, at the boundary after it."""
    return Reject(
        source,
        position,
        "damaged_input" if boundary.is_end else reason,
        f"{boundary.error}; {boundary.stored_bytes} stored bytes passed over",
        ends_input=boundary.is_end,
        stored_bytes=boundary.stored_bytes,
    )


class BlockFile:
    """Blocks as a file that can only be read forward, for parsers that want one.

    Reading ends at a boundary where a record begins as at the end of the file, until it is crossed.
    """

    closed = False

    def __init__(self, blocks: Iterator[bytes | Boundary]) -> None:
        self._blocks = blocks
        self._held = b""
        self._start = 0  # of what is left in `_held`
        self._offset = 0
        self._marked: list[bytes] | None = None
        self._boundary: Boundary | None = None  # after what is held
        self._num_given = 0  # bytes, by the blocks
        self._member_at: int | None = None
        self.tail = b""

    def tell(self) -> int:
        return self._offset

    def close(self) -> None:
        """The blocks are closed by those who opened them."""

    def _next(self) -> bytes:
        """Returns the next block, or nothing at a boundary and at the end."""
        while self._boundary is None:
            block = next(self._blocks, b"")
            if isinstance(block, bytes):
                self._num_given += len(block)
                return block
            if block.begins_record:
                self._boundary = block
            else:
                self._member_at = self._num_given
        return b""

    def at_member(self) -> bool:
        """Tells whether a member of a compressed input begins here in which a record may go on."""
        return self._offset == self._member_at

    def cross(self) -> Boundary | None:
        """Goes on after the boundary that all was read up to; None if there is none here."""
        if self._start < len(self._held):
            return None
        if self._boundary is None:
            self._held, self._start = self._next(), 0
        if self._held:
            return None
        found, self._boundary = self._boundary, None
        return found

    def read(self, size: int = -1) -> bytes:
        """Returns `size` bytes, fewer only at the end; memory grows with what is there."""
        left = len(self._held) - self._start
        if 0 <= size <= left:
            data = self._held[self._start : self._start + size]
            self._start += size
        else:
            pieces = [self._held[self._start :]]
            self._held, self._start = b"", 0
            while (size < 0 or left < size) and (block := self._next()):
                pieces.append(block)
                left += len(block)
            data = b"".join(pieces)
            if 0 <= size < left:
                self._held = pieces[-1]
                self._start = len(pieces[-1]) - (left - size)
                data = data[:size]
        self._took(data)
        return data

    def peek(self, size: int) -> bytes:
        """Returns up to `size` bytes that come next, at least one unless reading ends here."""
        if self._start == len(self._held):
            self._held, self._start = self._next(), 0
        return self._held[self._start : self._start + size]

    def peek_all(self, size: int) -> bytes:
        """Returns the `size` bytes that come next, fewer only where reading ends."""
        marked, self._marked = self._marked, None
        data = self.read(size)
        self.unread(data)
        self._marked = marked
        return data

    def at_end(self) -> bool:
        """Tells whether nothing comes next, not even after a boundary."""
        return not self.peek(1) and self._boundary is None

    def is_damaged_before(self) -> bool:
        """Tells whether what was read last is of a member that turned out to be damaged."""
        found = self._boundary
        return found is not None and found.error is not None and found.content_bytes > 0

    def set_offset(self, offset: int) -> None:
        """Says where in the content the blocks begin, before any of them is read."""
        self._offset = offset

    def read_line(self, max_bytes: int) -> bytes:
        """Returns bytes up to an LF and with it, or the first `max_bytes`, or all that is left."""
        start = self._start
        end = self._held.find(b"\n", start) + 1
        if 0 < end <= start + max_bytes:
            self._start = end
            line = self._held[start:end]
            self._took(line)
            return line
        pieces, num_bytes = [], 0
        while num_bytes < max_bytes:
            if self._start == len(self._held):
                self._held, self._start = self._next(), 0
                if not self._held:
                    break
            newline = self._held.find(b"\n", self._start)
            end = len(self._held) if newline < 0 else newline + 1
            end = min(end, self._start + max_bytes - num_bytes)
            pieces.append(self._held[self._start : end])
            num_bytes += end - self._start
            self._start = end
            if pieces[-1].endswith(b"\n"):
                break
        line = b"".join(pieces)
        self._took(line)
        return line

    def _took(self, data: bytes) -> None:
        self._offset += len(data)
        if self._marked is not None:
            self._marked.append(data)

    def mark(self) -> None:
        """Keeps what is read from here on, so that it can be given back."""
        self._marked = []

    def forget(self) -> None:
        """Keeps it no longer."""
        self._marked = None

    def give_back(self) -> int:
        """Goes back to the mark, and returns by how many bytes."""
        data = b"".join(self._marked or ())
        self._marked = None
        self.unread(data)
        return len(data)

    def unread(self, data: bytes) -> None:
        """Goes back over bytes that were just read."""
        self._offset -= len(data)
        self._held, self._start = data + self._held[self._start :], 0

    def rest(self) -> Iterator[bytes]:
        """Yields what was not read, in blocks."""
        if self._start < len(self._held):
            yield self._held[self._start :]
        self._held, self._start = b"", 0
        yield from self._blocks

    def skip(self, size: int) -> int:
        """Reads over `size` bytes and returns how many there were."""
        skipped = 0
        while skipped < size and (data := self.read(min(size - skipped, 1 << 20))):
            skipped += len(data)
        return skipped

    def find(
        self,
        pattern: re.Pattern[bytes],
        num_bytes: int,
        accepts: Callable[[bytes], bool] = lambda found: True,
    ) -> bool:
        """Goes on to what a pattern matches, or to a boundary; tells whether one is there.

        `tail` has the last bytes that were passed over if there is none.

        Args:
          pattern: what it matches or looks ahead at has at most `num_bytes` bytes.
          num_bytes: of it.
          accepts: is given the `num_bytes` bytes at a match, and tells whether it is one.
        """
        self._marked = None
        kept = b""
        while data := self.read(1 << 20):
            window = kept + data
            found = pattern.search(window)
            while found is not None:
                at = found.start()
                if accepts(window[at : at + num_bytes]):
                    self.unread(window[at:])
                    return True
                found = pattern.search(window, at + 1)
            kept = self.tail = window[-num_bytes:]
        return self._boundary is not None


class SecondReading:
    """Reads pieces of a file again that were too long to be held when they were first met.

    Pieces asked for in the order in which they lie cost one more pass in all. A first pass has
    found them whole, so that damage here means that the file was changed in between.
    """

    def __init__(
        self, entry: Entry, config: EncodeConfig, progress: Progress = no_progress
    ) -> None:
        self._entry, self._config, self._progress = entry, config, progress
        self._blocks: Iterator[bytes] = iter(())
        self._held = b""
        self._offset: int | None = None  # of the first byte held; None before the first piece

    def document(
        self,
        doc_id: str,
        position: int,
        num_bytes: int,
        *,
        start: int,
        meta: bytes | None = None,
        is_rest: bool = False,
    ) -> Document:
        """Returns the document of the `num_bytes` bytes at `start`, to be read in parts.

        With `is_rest` nothing may come after them.
        """
        limit = self._config.max_document_bytes
        return Document(
            doc_id,
            _Parts(self, start, num_bytes, is_rest),
            count_parts(num_bytes, limit),
            self._entry["source"],
            position,
            meta,
        )

    def pieces(self, start: int, num_bytes: int, is_rest: bool) -> Iterator[bytes]:
        """Yields the bytes [start, start + num_bytes), cut at `max_document_bytes`."""
        limit = self._config.max_document_bytes
        try:
            self._move_to(start)
            while num_bytes:
                piece = self._take(min(limit, num_bytes))
                num_bytes -= len(piece)
                yield piece
            if is_rest and (self._held or next(self._blocks, b"")):
                raise self._changed()
        except DamagedInputError as error:
            raise self._changed() from error

    def _move_to(self, start: int) -> None:
        is_plain = self._entry["compression"] == PLAIN
        if self._offset is None or self._offset > start or (is_plain and self._offset != start):
            first = start if is_plain else 0
            self._blocks = entry_blocks(self._entry, self._config, self._progress, start=first)
            self._held, self._offset = b"", first
        while self._offset < start:
            self._take(min(start - self._offset, 1 << 20))

    def _take(self, size: int) -> bytes:
        pieces = [self._held]
        num_bytes = len(self._held)
        while num_bytes < size:
            block = next(self._blocks, b"")
            if not block:
                raise self._changed()
            pieces.append(block)
            num_bytes += len(block)
        data = b"".join(pieces)
        self._held = data[size:]
        self._offset += size
        return data[:size]

    def _changed(self) -> WorkError:
        path = self._entry["path"]
        return WorkError(f"{path}: changed while it was read. Run again when it is at rest.")


class _Parts(Iterable[bytes]):
    def __init__(self, reading: SecondReading, start: int, num_bytes: int, is_rest: bool) -> None:
        self._reading, self._where = reading, (start, num_bytes, is_rest)

    def __iter__(self) -> Iterator[bytes]:
        return self._reading.pieces(*self._where)
