"""Alterations of files: of bytes and lines, and of what lies inside checksums and compression."""

import bz2
import gzip
import lzma
import random
import struct
import zlib

import lz4.frame
import zstandard

from blt.formats.tfrecord import FOOTER, HEADER, masked_crc32c

MAX_BYTES = 1 << 13
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1]
# Words that mean something to one of the readers.
TOKENS = (
    *(b"\n", b"\r\n", b"\r", b"\n\n", b" \t\r\n", b"\0", b"\xff", b"\xc3", b"\xe2\x82"),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b'""', b",", b"\t", b"\\", b"{", b"}", b"[", b"]"),
    *(b"\\ud800", b"\\udc00", b"\\u0000", b"null", b"NaN", b"-Infinity", b"-0.0", b"1e400"),
    *(b"9" * 30, b"9" * 5000, b"[" * 3000, b'{"text": "x"}\n', b'"text": ', b'"id": "a~dup1", '),
    *(b'"doc": {"k": 1}, ', b"id,text\n", b"Content-Length: 9\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Length: 1\r\n\r\nx\r\n\r\n",
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: deflate\r\n"),
    *(
        b"Content-Encoding: zstd, gzip\r\n",
        b"WARC-Type: conversion\r\n",
        b"ustar\x0000",
        b"ustar  \0",
    ),
    *(b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0", b"\x04\x22\x4d\x18", b"PAR1"),
    *(b"ARROW1", b"\x50\x2a\x4d\x18\4\0\0\0abcd", b" path=x\n", b"30 size=18446744073709551616\n"),
)
KINDS = (
    "flip", "set", "cut", "drop", "double", "insert", "number", "token", "many", "move", "line"
)  # fmt: skip

Edit = tuple[str, float, int, int]


def altered(data: bytes, edits: list[Edit]) -> bytes:
    """Returns the data after edits (kind, where in [0, 1), value in 0..255, size in 1..64)."""
    data = bytearray(data)
    for kind, where, value, size in edits:
        at = int(where * max(1, len(data)))
        if kind == "flip" and data:
            data[at] ^= 1 << (value % 8)
        elif kind == "set" and data:
            data[at] = value
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + size]
        elif kind == "double":
            data[at:at] = data[at : at + size]
        elif kind == "insert":
            data[at:at] = bytes([value]) * size
        elif kind == "number":
            width = (1, 2, 4, 8)[size % 4]
            data[at : at + width] = NUMBERS[value % 10].to_bytes(8, "little")[:width]
        elif kind == "token":
            data[at : at + size % 4] = TOKENS[value % len(TOKENS)]
        elif kind == "many":
            data[at:at] = data[at : at + size] * (value * 2)
        elif kind == "move":
            piece = data[at : at + size]
            del data[at : at + size]
            to = len(data) * value // 256
            data[to:to] = piece
        elif kind == "line":
            lines = data.split(b"\n")
            number = int(where * len(lines))
            lines[number:number] = [lines[value % len(lines)]]
            data = bytearray(b"\n").join(lines)
        del data[MAX_BYTES:]
    return bytes(data)


def random_edits(rng: random.Random) -> list[Edit]:
    return [
        (rng.choice(KINDS), rng.random(), rng.randrange(256), rng.randrange(1, 65))
        for _ in range(rng.choice((1, 1, 2, 3, 6)))
    ]


def alter(name: str, data: bytes, rng: random.Random) -> bytes:
    """Returns a file altered at random: as stored, or below its compression or its checksums."""
    stem, _, suffix = name.rpartition(".")
    if suffix in _PACKERS and rng.random() < 0.5:
        try:
            content = unpack(data, _COMPRESSIONS[suffix])
        except _UNPACK_ERRORS:  # it was altered before
            content = b'{"text": "x"}\n'
        return pack(alter(stem, content[:MAX_BYTES], rng), suffix, rng)
    if suffix == "tfrecord" and rng.random() < 0.5:
        records = split_frames(data) or [b""]
        index = rng.randrange(len(records))
        records[index] = altered(records[index], random_edits(rng))
        return b"".join(map(frame, records))
    data = altered(data, random_edits(rng))
    if suffix == "tar" and rng.random() < 0.7:
        data = mend_tar(data)
    return data


def pack(content: bytes, suffix: str, rng: random.Random) -> bytes:
    """Compresses, sometimes as several members with zeros after or between them."""
    cut = rng.randrange(len(content) + 1) if rng.random() < 0.3 else len(content)
    pieces = [_PACKERS[suffix](piece) for piece in (content[:cut], content[cut:])]
    return bytes(rng.choice((0, 0, 0, 1, 600))).join(pieces[: 1 + (cut < len(content))])


def frame(record: bytes) -> bytes:
    """Returns a record as TFRecord files hold it."""
    size = struct.pack("<Q", len(record))
    head = size + FOOTER.pack(masked_crc32c(size))
    return head + record + FOOTER.pack(masked_crc32c(record))


def split_frames(data: bytes) -> list[bytes]:
    """Returns the records of a TFRecord file as their lengths have it, whatever the checksums."""
    records, at = [], 0
    while at + HEADER.size <= len(data):
        length, _ = HEADER.unpack_from(data, at)
        records.append(data[at + HEADER.size : at + HEADER.size + length])
        at += HEADER.size + length + FOOTER.size
    return records


def mend_tar(data: bytes) -> bytes:
    """Puts the right checksum into whatever looks like a member's head."""
    data = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


_PACKERS = {
    "gz": lambda raw: gzip.compress(raw, mtime=0),
    "zst": zstandard.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lambda raw: lz4.frame.compress(raw, content_checksum=True),
}
# Of one member, frame or stream; `eof` and `unused_data` tell where it ends.
_DECODERS = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    "lz4": lz4.frame.LZ4FrameDecompressor,
}
# What the decoders raise: OSError bz2's, RuntimeError lz4's.
_UNPACK_ERRORS = (
    *(zlib.error, lzma.LZMAError, zstandard.ZstdError),
    *(OSError, EOFError, ValueError, RuntimeError),
)
_COMPRESSIONS = {"gz": "gzip", "zst": "zstd", "bz2": "bz2", "xz": "xz", "lz4": "lz4"}


def unpack(data: bytes, compression: str) -> bytes:
    """Returns the content of a file, all at once; raises if it is not whole."""
    if compression == "plain":
        return data
    pieces = []
    while data:
        decoder = _DECODERS[compression]()
        pieces.append(decoder.decompress(data))
        if not decoder.eof:
            raise EOFError
        data = (decoder.unused_data or b"").lstrip(b"\0")
    return b"".join(pieces)
