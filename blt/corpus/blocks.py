"""The content of a planned file: block by block, as a file, and pieces of it a second time."""

from collections.abc import Iterable, Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import (
    HEAD_BYTES,
    PLAIN,
    DamagedInputError,
    read_blocks,
    sniff_compression,
)
from blt.corpus.plan import Entry
from blt.corpus.records import Document, Reject, count_parts
from blt.errors import WorkError
from blt.units import Progress, no_progress

# A record that is parsed is held about four times over (JSON), so that it cannot be of any length.
_PARSED_BYTES_FLOOR = 64 << 20
_PARSED_BYTES_CAP = 1 << 30


def entry_blocks(
    entry: Entry, config: EncodeConfig, progress: Progress = no_progress, *, start: int = 0
) -> Iterator[bytes]:
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
    )
    # The length of a record of TFRecord may look like the start of gzip.
    if entry["compression"] == PLAIN or entry["format"] == "tfrecord":
        return blocks
    return _checked(blocks, entry["compression"])


def _checked(blocks: Iterator[bytes], compression: str) -> Iterator[bytes]:
    first = next(blocks, b"")
    inner = sniff_compression(first[:HEAD_BYTES])
    if inner != PLAIN:
        raise DamagedInputError(
            f"is compressed twice ({inner} inside {compression}); decompress it once"
        )
    yield first
    yield from blocks


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
    return Reject(source, position, "too_long", detail, sample)


class BlockFile:
    """Blocks as a file that can only be read forward, for parsers that want one."""

    closed = False

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = b""
        self._start = 0  # of what is left in `_held`
        self._offset = 0

    def tell(self) -> int:
        return self._offset

    def close(self) -> None:
        """The blocks are closed by those who opened them."""

    def read(self, size: int = -1) -> bytes:
        """Returns `size` bytes, fewer only at the end; memory grows with what is there."""
        left = len(self._held) - self._start
        if 0 <= size <= left:
            data = self._held[self._start : self._start + size]
            self._start += size
        else:
            pieces = [self._held[self._start :]]
            self._held, self._start = b"", 0
            while (size < 0 or left < size) and (block := next(self._blocks, b"")):
                pieces.append(block)
                left += len(block)
            data = b"".join(pieces)
            if 0 <= size < left:
                self._held = pieces[-1]
                self._start = len(pieces[-1]) - (left - size)
                data = data[:size]
        self._offset += len(data)
        return data

    def read_line(self, max_bytes: int) -> bytes:
        """Returns bytes up to an LF and with it, or the first `max_bytes`, or all that is left."""
        pieces, num_bytes = [], 0
        while num_bytes < max_bytes:
            if self._start == len(self._held):
                self._held, self._start = next(self._blocks, b""), 0
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
        self._offset += num_bytes
        return b"".join(pieces)

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
