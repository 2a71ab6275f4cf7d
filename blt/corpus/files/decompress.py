"""Bytes of an input, decompressed block by block, with every way of ending checked.

A stream that stops short, has a wrong checksum, or is followed by something else is damage, never a
silent end: zstandard's own reader stops in silence on a cut file, and bz2's on what follows.
Several members (gzip), frames (zstd) or streams (bz2, xz) in a row are one input, and zeros may
follow the last. Memory is bounded whatever the data: output comes in blocks.
"""

import bz2
import dataclasses
import importlib.util
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import zstandard
from isal import isal_zlib

from blt.corpus.files.filesystems import open_input
from blt.dataset.units import Progress, no_progress
from blt.errors import UserError

PLAIN = "plain"
HEAD_BYTES = 32  # enough of a file's start to tell what it is
_BLOCK_BYTES = 1 << 20
# What follows a member's end is copied for the next one: little, since members may be tiny.
_PACKED_BYTES = 1 << 16
# What every input may grow to, whatever the ratio: a small file of one repeated line is no attack.
FREE_OUTPUT_BYTES = 64 << 20
_GZIP_FLAGS_AT = 3
_USUAL_GZIP_FLAGS = (0, 4, 8)  # of a head with nothing more, an extra field (BGZF), or a name
# At most 128 blocks of 128 KiB start in this many bytes of zstd, so that a bomb gives 16 MiB.
_ZSTD_SLICE_BYTES = 512
# The largest there is, as `zstd --long=31` writes it; what is not filled takes no memory.
_ZSTD_WINDOW_BYTES = 1 << 31
_XZ_MEMORY_BYTES = 1 << 28
# Where a member is damaged, the next one is looked for in so many stored bytes before the place
# where the damage showed; decoders may read on into other members before they notice.
_KEPT_BYTES = 4 << 20
# So many bytes of a member are decompressed to see a record, as far as they are needed: a block of
# bz2 (900 kB) or lz4 (4 MiB) gives nothing before it is whole.
_PROBED_BYTES = 5 << 20
_PROBED_AT_ONCE = 1 << 12


class DamagedInputError(Exception):
    """An input is cut short or altered, or is not what it claims to be; becomes a reject.

    Args:
      detail: what is wrong, in words.
      num_records: how many records are lost, where the format tells; None if it does not.
      num_bytes: how many bytes of the content are, where that is known.
    """

    reason = "damaged_input"

    def __init__(
        self, detail: str, *, num_records: int | None = None, num_bytes: int | None = None
    ) -> None:
        super().__init__(detail)
        self.num_records, self.num_bytes = num_records, num_bytes


class TooCompressedError(DamagedInputError):
    """An input grows far more than any text does when it is decompressed."""

    reason = "too_compressed"


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A place between two members of a compressed input.

    Attributes:
      begins_record: a record begins there, or damage ends; else one may go on there.
      error: what is wrong with the data before it that were passed over; None if nothing is.
      stored_bytes: how many bytes were, as stored.
      content_bytes: how many bytes of content they had given before.
      is_end: nothing comes after them.
    """

    error: DamagedInputError | None = None
    begins_record: bool = True
    stored_bytes: int = 0
    content_bytes: int = 0
    is_end: bool = False


_AT_RECORD, _INSIDE_RECORD = Boundary(), Boundary(begins_record=False)


class _Gzip:
    """ISA-L, which is faster than zlib; or zlib where a member's head is out of the ordinary.

    ISA-L loses its place in a head with a checksum, or with several fields, that is cut between two
    calls, and takes flags that no head may have.
    """

    def __init__(self) -> None:
        self._decoder: Any = None

    def blocks(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            is_usual = len(data) > _GZIP_FLAGS_AT and data[_GZIP_FLAGS_AT] in _USUAL_GZIP_FLAGS
            self._decoder = (isal_zlib if is_usual else zlib).decompressobj(wbits=31)
        while not self._decoder.eof:
            out = self._decoder.decompress(data, _BLOCK_BYTES)
            data = self._decoder.unconsumed_tail
            yield out
            if not data and len(out) < _BLOCK_BYTES:
                return

    @property
    def eof(self) -> bool:
        return self._decoder is not None and self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


class _Zstd:
    def __init__(self) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._decoder = decompressor.decompressobj()
        self.unused_data = b""

    def blocks(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE_BYTES):
            end = start + _ZSTD_SLICE_BYTES
            yield self._decoder.decompress(data[start:end])
            if self._decoder.eof:
                self.unused_data = self._decoder.unused_data + data[end:]
                return

    @property
    def eof(self) -> bool:
        return self._decoder.eof


class _Buffered:
    """A decoder that keeps what it was given until its output is wanted: bz2, xz and lz4."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def blocks(self, data: bytes) -> Iterator[bytes]:
        while not self._decoder.eof:
            yield self._decoder.decompress(data, _BLOCK_BYTES)
            data = b""
            if not self._decoder.eof and self._decoder.needs_input:
                return

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data or b""


def _new_bz2() -> _Buffered:
    return _Buffered(bz2.BZ2Decompressor())


def _new_xz() -> _Buffered:
    return _Buffered(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES))


def _new_lz4() -> _Buffered:
    check_package("lz4")
    import lz4.frame

    return _Buffered(lz4.frame.LZ4FrameDecompressor())


def check_package(compression: str) -> None:
    """Raises a UserError if what reads a compression is an extra that is not installed."""
    if compression == "lz4" and importlib.util.find_spec("lz4") is None:
        raise UserError(
            "--input: lz4 data cannot be read without the package lz4. Install it: "
            "pip install 'blt[lz4]'."
        )


def _is_skippable_frame(head: bytes) -> bool:
    return head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F


@dataclasses.dataclass(frozen=True)
class _Codec:
    suffixes: tuple[str, ...]
    magic: bytes  # of every member, at its start
    is_start: Callable[[bytes], bool]
    new: Callable[[], _Gzip | _Zstd | _Buffered]


def _begins_with(magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_LZ4_MAGIC, _XZ_MAGIC = b"\x04\x22\x4d\x18", b"\xfd7zXZ\x00"
_CODECS = {
    "gzip": _Codec((".gz", ".gzip"), _GZIP_MAGIC, _begins_with(_GZIP_MAGIC), _Gzip),
    "zstd": _Codec((".zst", ".zstd"), _ZSTD_MAGIC, _begins_with(_ZSTD_MAGIC), _Zstd),
    "bz2": _Codec(
        (".bz2",),
        b"BZh",
        # The second magic is that of an empty stream.
        lambda head: head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"),
        _new_bz2,
    ),
    "lz4": _Codec((".lz4",), _LZ4_MAGIC, _begins_with(_LZ4_MAGIC), _new_lz4),
    "xz": _Codec((".xz",), _XZ_MAGIC, _begins_with(_XZ_MAGIC), _new_xz),
}
_ERRORS = (
    zlib.error,
    isal_zlib.error,
    zstandard.ZstdError,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # lz4
)
_HAS_SKIPPABLE_FRAMES = ("zstd", "lz4")
_TAR_SUFFIXES = {".tgz": "gzip", ".tbz": "bz2", ".tbz2": "bz2", ".txz": "xz", ".tzst": "zstd"}


def strip_compression_suffix(name: str) -> tuple[str, str | None]:
    """Returns `name` without its compression suffix, and the compression it claims.

    >>> strip_compression_suffix("a.jsonl.zst")
    ('a.jsonl', 'zstd')
    >>> strip_compression_suffix("a.tgz")
    ('a.tar', 'gzip')
    """
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in _TAR_SUFFIXES:
        return stem + ".tar", _TAR_SUFFIXES[suffix.lower()]
    for compression, codec in _CODECS.items():
        if suffix.lower() in codec.suffixes:
            return stem, compression
    return name, None


def sniff_compression(head: bytes) -> str:
    """Returns the compression that the first `HEAD_BYTES` of a file show, "plain" for none."""
    for compression, codec in _CODECS.items():
        if codec.is_start(head):
            return compression
    return PLAIN


def begins_as(head: bytes, compression: str) -> bool:
    """Tells whether the first `HEAD_BYTES` of a file are those of a compression."""
    is_skippable = compression in _HAS_SKIPPABLE_FRAMES and _is_skippable_frame(head)
    return is_skippable or _CODECS[compression].is_start(head)


def holds_member(data: bytes, compression: str) -> bool:
    """Tells whether a member of a compression may begin anywhere in data."""
    codec, at = _CODECS[compression], -1
    while (at := data.find(codec.magic, at + 1)) >= 0:
        if codec.is_start(data[at : at + HEAD_BYTES]):
            return True
    return False


def read_blocks(
    path: str,
    compression: str,
    *,
    start: int = 0,
    progress: Progress = no_progress,
    max_ratio: int | None = None,
    is_record: Callable[[bytes], bool] | None = None,
) -> Iterator[bytes | Boundary]:
    """Yields a file's content in blocks of at most about 1 MiB (16 MiB for an extreme zstd file).

    Args:
      path: the file.
      compression: "plain", "gzip", "zstd", "bz2", "xz" or "lz4".
      start: where to begin, in bytes; plain files only.
      progress: is told the number of bytes read from the file, as stored.
      max_ratio: how many times the bytes read so far may be given out, once they are more than
        `FREE_OUTPUT_BYTES`; None for no limit.
      is_record: tells whether content begins with a record. If it is given, a `Boundary` stands
        where a member does, and where damage is passed over: reading goes on at the next member
        that begins with a record.

    Raises:
      DamagedInputError: after the good blocks. Of a damaged (not a cut) stream, up to 1 MiB before
        the damage may be missing. A `TooCompressedError` if it passes `max_ratio`.
      OSError: the file cannot be read.
    """
    with open_input(path, buffering=0) as file:
        file.seek(start)
        num_stored = num_out = 0

        def stored() -> Iterator[bytes]:
            nonlocal num_stored
            while block := file.read(_BLOCK_BYTES if compression == PLAIN else _PACKED_BYTES):
                num_stored += len(block)
                progress(len(block))
                yield block

        if compression == PLAIN:
            yield from stored()
            return
        for block in _decompress(stored(), compression, is_record):
            if isinstance(block, bytes):
                num_out += len(block)
                check_growth(num_out, num_stored, max_ratio)
            yield block


def check_growth(num_out: int, num_stored: int, max_ratio: int | None) -> None:
    """Checks that stored bytes do not grow to more than they may.

    Raises:
      TooCompressedError: `num_out` is above `FREE_OUTPUT_BYTES` and `max_ratio` times `num_stored`.
    """
    if max_ratio and num_out > max(FREE_OUTPUT_BYTES, max_ratio * num_stored):
        raise TooCompressedError(
            f"grows to more than {max_ratio} times its size when decompressed, which text does "
            "not; --max-decompression-ratio sets the limit"
        )


def decompress_bytes(data: bytes, compression: str, max_bytes: int) -> bytes:
    """Returns the content of compressed bytes, or a bit more than `max_bytes` of it.

    Data that do not begin as the compression does are returned as they are: HTTP archives keep the
    head of a response whose body they have decompressed.

    Raises:
      DamagedInputError: they are cut short or altered.
    """
    if not _CODECS[compression].is_start(data[:HEAD_BYTES]):
        return data
    pieces, num_bytes = [], 0
    for block in _decompress(iter([data]), compression):
        pieces.append(block)
        num_bytes += len(block)
        if num_bytes > max_bytes:
            break
    return b"".join(pieces)


def _decompress(
    stored: Iterator[bytes],
    compression: str,
    is_record: Callable[[bytes], bool] | None = None,
) -> Iterator[bytes | Boundary]:
    source = _Source(stored, keeps=is_record is not None)
    is_first, is_found = True, False
    while True:
        source.begin_member(is_first)
        num_out = 0
        try:
            if not source.pending:
                if is_first:
                    raise DamagedInputError(f"is empty, which no {compression} file is")
                return
            for block in _decompress_member(source, compression, is_first):
                if num_out == 0 and not is_found and is_record is not None:
                    yield _AT_RECORD if is_record(block) else _INSIDE_RECORD
                num_out += len(block)
                yield block
        except DamagedInputError as error:
            if is_record is None:
                raise
            is_found = source.find_member(compression, is_record)
            yield Boundary(
                error,
                stored_bytes=source.num_passed,
                content_bytes=num_out,
                is_end=not is_found,
            )
            if not is_found:
                return
        else:
            is_found = False
        is_first = False


class _Source:
    """Stored bytes, of which those of the member that is read are kept, if so wanted."""

    def __init__(self, stored: Iterator[bytes], keeps: bool) -> None:
        self._stored, self._keeps = stored, keeps
        self.pending = b""
        self._kept: list[bytes] = []
        self._num_kept = 0
        self._num_forgotten = 0  # of the member, before those kept
        self.num_passed = 0

    def read(self) -> bytes:
        """Puts the next block into `pending`; an empty one is the end."""
        self.pending = next(self._stored, b"")
        self._keep(self.pending)
        return self.pending

    def begin_member(self, is_first: bool) -> None:
        """Reads up to where a member begins; before all but the first there may be zeros."""
        pending = self.pending.lstrip(b"\0")
        while len(pending) < HEAD_BYTES and (block := next(self._stored, b"")):
            pending += block
            pending = pending if is_first else pending.lstrip(b"\0")
        self.pending = pending
        self._kept, self._num_kept, self._num_forgotten = [], 0, 0
        self._keep(pending)

    def _keep(self, block: bytes) -> None:
        if not self._keeps:
            return
        self._kept.append(block)
        self._num_kept += len(block)
        while len(self._kept) > 1 and self._num_kept - len(self._kept[0]) > _KEPT_BYTES:
            forgotten = len(self._kept.pop(0))
            self._num_kept -= forgotten
            self._num_forgotten += forgotten

    def find_member(self, compression: str, is_record: Callable[[bytes], bool]) -> bool:
        """Goes on to the next member that begins with a record; tells whether there is one.

        `num_passed` is how many stored bytes lie between, or are left.
        """
        codec = _CODECS[compression]
        data, offset, at = (
            b"".join(self._kept),
            self._num_forgotten,
            0 if self._num_forgotten else 1,
        )
        self._kept, self._keeps = [], False
        while True:
            at = data.find(codec.magic, at)
            while (at < 0 or len(data) - at < HEAD_BYTES) and (block := next(self._stored, b"")):
                passed = max(0, len(data) - len(codec.magic) + 1) if at < 0 else at
                data, offset = data[passed:] + block, offset + passed
                at = data.find(codec.magic)
            if at < 0:
                self.num_passed = offset + len(data)
                return False
            is_found, data = self._begins_record(codec, data, at, is_record)
            if is_found:
                self.pending, self.num_passed, self._keeps = data[at:], offset + at, True
                return True
            at += 1

    def _begins_record(
        self, codec: _Codec, data: bytes, at: int, is_record: Callable[[bytes], bool]
    ) -> tuple[bool, bytes]:
        """Tells whether a member that begins with a record lies at `at`.

        Returns:
          That, and the data with what had to be read behind them.
        """
        if not codec.is_start(data[at : at + HEAD_BYTES]):
            return False, data
        decoder, start = codec.new(), at
        try:
            while start < at + _PROBED_BYTES and not decoder.eof:
                if start >= len(data):
                    data += next(self._stored, b"")
                piece = data[start : start + _PROBED_AT_ONCE]
                if not piece:
                    break
                for block in decoder.blocks(piece):
                    if block:
                        return is_record(block), data
                start += len(piece)
        except _ERRORS:
            pass
        return False, data


def _decompress_member(source: _Source, compression: str, is_first: bool) -> Iterator[bytes]:
    codec = _CODECS[compression]
    head = source.pending
    if not begins_as(head, compression):
        what = "is not" if is_first else "has bytes after its end that are not"
        raise DamagedInputError(f"{what} {compression} data")
    decoder = codec.new()
    while not decoder.eof:
        if not source.pending:
            raise DamagedInputError(f"ends inside its {compression} data: it was cut short")
        try:
            for block in decoder.blocks(source.pending):
                if block:
                    yield block
        except _ERRORS as error:
            if "Dictionary mismatch" in str(error):
                what = "zstd data need the dictionary they were made with, which is not read"
                raise DamagedInputError(what) from error
            raise DamagedInputError(f"{compression} data are damaged ({error})") from error
        if decoder.eof:
            source.pending = decoder.unused_data
        else:
            source.read()
