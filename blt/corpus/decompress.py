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

from blt.corpus.filesystems import open_input
from blt.errors import UserError
from blt.units import Progress, no_progress

PLAIN = "plain"
HEAD_BYTES = 16  # enough of a file's start to tell every compression
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


class DamagedInputError(Exception):
    """An input is cut short or altered, or is not what it claims to be; becomes a reject."""

    reason = "damaged_input"


class TooCompressedError(DamagedInputError):
    """An input grows far more than any text does when it is decompressed."""

    reason = "too_compressed"


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
    is_start: Callable[[bytes], bool]
    new: Callable[[], _Gzip | _Zstd | _Buffered]


_CODECS = {
    "gzip": _Codec((".gz", ".gzip"), lambda head: head.startswith(b"\x1f\x8b\x08"), _Gzip),
    "zstd": _Codec((".zst", ".zstd"), lambda head: head.startswith(b"\x28\xb5\x2f\xfd"), _Zstd),
    "bz2": _Codec(
        (".bz2",),
        # The second magic is that of an empty stream.
        lambda head: head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"),
        _new_bz2,
    ),
    "lz4": _Codec((".lz4",), lambda head: head.startswith(b"\x04\x22\x4d\x18"), _new_lz4),
    "xz": _Codec((".xz",), lambda head: head.startswith(b"\xfd7zXZ\x00"), _new_xz),
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


def read_blocks(
    path: str,
    compression: str,
    *,
    start: int = 0,
    progress: Progress = no_progress,
    max_ratio: int | None = None,
) -> Iterator[bytes]:
    """Yields a file's content in blocks of at most about 1 MiB (16 MiB for an extreme zstd file).

    Args:
      path: the file.
      compression: "plain", "gzip", "zstd", "bz2", "xz" or "lz4".
      start: where to begin, in bytes; plain files only.
      progress: is told the number of bytes read from the file, as stored.
      max_ratio: how many times the bytes read so far may be given out, once they are more than
        `FREE_OUTPUT_BYTES`; None for no limit.

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
        for block in _decompress(stored(), compression):
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


def _decompress(stored: Iterator[bytes], compression: str) -> Iterator[bytes]:
    codec = _CODECS[compression]
    pending, is_first = b"", True
    while True:
        # Between two members: nothing, zeros, or the start of another.
        while len(pending) < HEAD_BYTES and (block := next(stored, b"")):
            pending += block
            pending = pending if is_first else pending.lstrip(b"\0")
        if not pending:
            return
        is_skippable = compression in _HAS_SKIPPABLE_FRAMES and _is_skippable_frame(pending)
        if not codec.is_start(pending) and not is_skippable:
            what = "is not" if is_first else "has bytes after its end that are not"
            raise DamagedInputError(f"{what} {compression} data")
        decoder = codec.new()
        while not decoder.eof:
            if not pending:
                raise DamagedInputError(f"ends inside its {compression} data: it was cut short")
            try:
                for block in decoder.blocks(pending):
                    if block:
                        yield block
            except _ERRORS as error:
                if "Dictionary mismatch" in str(error):
                    what = "zstd data need the dictionary they were made with, which is not read"
                    raise DamagedInputError(what) from error
                raise DamagedInputError(f"{compression} data are damaged ({error})") from error
            pending = decoder.unused_data.lstrip(b"\0") if decoder.eof else next(stored, b"")
        is_first = False
