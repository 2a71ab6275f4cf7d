"""Lines of an input: ended by LF alone, of any length, in linear time and bounded memory."""

import dataclasses
from collections.abc import Iterable, Iterator

from blt.corpus.decompress import read_blocks
from blt.units import Progress

MAX_LINE_BYTES = 1 << 30
SAMPLE_BYTES = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line.

    Attributes:
      offset: of its first byte, in bytes from the start of the (decompressed) input.
      raw: its bytes without the LF; the first `SAMPLE_BYTES` of them if it is too long.
      has_newline: whether an LF ended it; only an input's last line may have none.
      num_bytes: its length without the LF.
      too_long: it is longer than the limit, and `raw` only a sample.
    """

    offset: int
    raw: bytes
    has_newline: bool
    num_bytes: int
    too_long: bool


def split_lines(
    blocks: Iterable[bytes], *, start: int = 0, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[Line]:
    """Yields the lines of a stream of blocks.

    Args:
      blocks: the content, cut anywhere.
      start: the offset of the first block's first byte.
      max_line_bytes: of a longer line only a sample is kept.
    """
    offset = start
    pieces: list[bytes] = []
    num_bytes = 0
    for block in blocks:
        ends = block.split(b"\n")
        last = len(ends) - 1
        for index, piece in enumerate(ends):
            pieces.append(piece)
            num_bytes += len(piece)
            too_long = num_bytes > max_line_bytes
            if too_long:
                pieces = [b"".join(pieces)[:SAMPLE_BYTES]]
            if index < last:
                raw = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                yield Line(offset, raw, True, num_bytes, too_long)
                offset += num_bytes + 1
                pieces, num_bytes = [], 0
    if num_bytes:
        yield Line(offset, b"".join(pieces), False, num_bytes, num_bytes > max_line_bytes)


def read_lines(
    path: str,
    compression: str,
    *,
    byte_range: tuple[int, int] | None,
    progress: Progress,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Line]:
    """Yields the lines of a file that start in `byte_range` [start, end), or all for None.

    Any partition of a file into ranges gives each of its lines once.
    """
    start, end = byte_range or (0, None)
    # The line that holds the byte before the range began earlier: it is another range's.
    first = max(0, start - 1)
    lines = split_lines(
        read_blocks(path, compression, start=first, progress=progress),
        start=first,
        max_line_bytes=max_line_bytes,
    )
    if start:
        next(lines, None)
    for line in lines:
        if end is not None and line.offset >= end:
            return
        yield line
