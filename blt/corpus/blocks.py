"""The content of a planned file: block by block, as a file, and pieces of it a second time."""

import io
from collections.abc import Iterable, Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import PLAIN, DamagedInputError, read_blocks
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
    """Yields the blocks of a planned file, decompressed; see `read_blocks`."""
    return read_blocks(
        entry["path"],
        entry["compression"],
        start=start,
        progress=progress,
        max_ratio=config.max_decompression_ratio,
    )


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


class BlockFile(io.RawIOBase):
    """Blocks as a file that can only be read forward, for parsers that want one."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        super().__init__()
        self._blocks = blocks
        self._held = memoryview(b"")
        self._offset = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: bytearray | memoryview) -> int:
        while not self._held:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._held = memoryview(block)
        piece = self._held[: len(buffer)]
        buffer[: len(piece)] = piece
        self._held = self._held[len(piece) :]
        self._offset += len(piece)
        return len(piece)


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
