"""Lines of an input: ended by LF alone, of any length, in linear time and bounded memory."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.blocks import entry_blocks
from blt.corpus.files.decompress import Boundary
from blt.dataset.units import Progress

SAMPLE_BYTES = 200


class Line(NamedTuple):
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


class Gap(NamedTuple):
    """Damaged data that were passed over, at an offset of the content."""

    offset: int
    boundary: Boundary


def split_lines(
    blocks: Iterable[bytes | Boundary], *, start: int = 0, max_line_bytes: int = 1 << 30
) -> Iterator[Line | Gap]:
    """Yields the lines of a stream of blocks, and a gap where damage was passed over.

    Args:
      blocks: the content, cut anywhere.
      start: the offset of the first block's first byte.
      max_line_bytes: of a longer line only a sample is kept.

    Raises:
      DamagedInputError: a boundary says that nothing comes after the damage.
    """
    offset = start
    pieces: list[bytes] = []  # of the line that the last block left open
    num_bytes = 0
    for block in blocks:
        if block.__class__ is Boundary:
            if block.is_end:
                raise block.error
            if block.error is not None:  # with the line that it left open
                yield Gap(offset, block)
                offset += num_bytes
                pieces, num_bytes = [], 0
            continue
        first, *ends = block.split(b"\n")
        pieces.append(first)
        num_bytes += len(first)
        too_long = num_bytes > max_line_bytes
        if too_long:
            pieces = [b"".join(pieces)[:SAMPLE_BYTES]]
        if not ends:
            continue
        last = ends.pop()
        yield Line(offset, b"".join(pieces), True, num_bytes, too_long)
        offset += num_bytes + 1
        for raw in ends:
            num_bytes = len(raw)
            too_long = num_bytes > max_line_bytes
            yield Line(offset, raw[:SAMPLE_BYTES] if too_long else raw, True, num_bytes, too_long)
            offset += num_bytes + 1
        too_long = len(last) > max_line_bytes
        pieces, num_bytes = [last[:SAMPLE_BYTES] if too_long else last], len(last)
    if num_bytes:
        yield Line(offset, b"".join(pieces), False, num_bytes, num_bytes > max_line_bytes)


def read_lines(
    entry: Entry,
    config: EncodeConfig,
    progress: Progress,
    *,
    max_line_bytes: int,
    is_record: Callable[[bytes], bool] | None = None,
) -> Iterator[Line | Gap]:
    """Yields the lines of a file that start in its range [start, end), or all if it has none.

    Any partition of a file into ranges gives each of its lines once. With `is_record` damage of
    compressed data is passed over as `read_blocks` does, and is a gap.
    """
    start, end = entry.get("range") or (0, None)
    for line in read_lines_from(
        start, end, entry, config, progress, max_line_bytes=max_line_bytes, is_record=is_record
    ):
        if end is not None and line.offset >= end:
            return
        yield line


def read_lines_from(
    start: int,
    end: int | None,
    entry: Entry,
    config: EncodeConfig,
    progress: Progress,
    *,
    max_line_bytes: int,
    is_record: Callable[[bytes], bool] | None = None,
) -> Iterator[Line | Gap]:
    """Yields the lines of a file that start at the byte `start` or after it.

    Goes on after `end`, but yields nothing if no line starts before it.
    """
    # The line that holds the byte before the range began earlier: it is another range's.
    offset = max(0, start - 1)
    blocks = entry_blocks(entry, config, progress, start=offset, is_record=is_record)
    if start:
        for block in blocks:
            newline = block.find(b"\n")
            offset += len(block) if newline < 0 else newline + 1
            if end is not None and offset >= end:
                return
            if newline >= 0:
                blocks = itertools.chain([block[newline + 1 :]], blocks)
                break
        else:
            return
    yield from split_lines(blocks, start=offset, max_line_bytes=max_line_bytes)
