"""TFRecord files without TensorFlow: framing, checksums, and errors that say where.

    a record    length      masked CRC32C of length   data           masked CRC32C of data
    bytes       8 (uint64)  4                         `length`       4        little-endian

The format is TensorFlow's (`tensorflow/core/lib/io/record_writer.h`), so `tf.data.TFRecordDataset`
reads what is written here. A file may be one gzip stream of this.
"""

import contextlib
import functools
import gzip
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from blt.dataset.storage import PlaceLike, open_read
from blt.errors import WorkError

MAX_RECORD_BYTES = 1 << 30  # a longer declared length is taken for damage, before it is believed
_BUFFER_BYTES = 1 << 20
_WRITE_BYTES = 1 << 17  # written at a time
HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
# A length below 4 GiB and a checksum that is not zero; matches nothing, with a header after it.
HEADER_LIKE = re.compile(rb"(?s)(?=.{4}\0{4}(?!\0{4}).{4})")


def masked_crc32c(data: bytes) -> int:
    """Returns the CRC32C of `data` as TFRecord stores it: rotated, plus a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def is_record_start(head: bytes) -> bool:
    """Tells whether bytes begin with a record's length and its checksum."""
    if len(head) < HEADER.size:
        return False
    return masked_crc32c(head[:8]) == HEADER.unpack(head[: HEADER.size])[1]


def holds_record_start(data: bytes) -> bool:
    """Tells whether a record's length and its checksum lie anywhere in bytes."""
    found = HEADER_LIKE.search(data)
    while found is not None:
        if is_record_start(data[found.start() : found.start() + HEADER.size]):
            return True
        found = HEADER_LIKE.search(data, found.start() + 1)
    return False


class _HashingFile:
    """A file to write to that knows the sha256 of what went through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


class TFRecordWriter:
    """Writes records to one file; the same records give the same bytes. To be closed.

    Args:
      path: the file to make.
      compression: None, or "gzip" (no name and no time in its header).
    """

    def __init__(self, path: str | os.PathLike[str], *, compression: str | None = None) -> None:
        if compression not in (None, "gzip"):
            raise ValueError(f"compression must be None or 'gzip', got {compression!r}")
        self._closing = contextlib.ExitStack()
        file = open(path, "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115 (closed by close)
        self._closing.callback(file.close)
        self._hashing = _HashingFile(file)
        self._out: BinaryIO | _HashingFile | gzip.GzipFile = self._hashing
        if compression == "gzip":
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._hashing, mtime=0)
            self._out = self._closing.enter_context(packed)
        self._closing.callback(self._flush)  # first, since they are called in reverse order
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, record: bytes) -> None:
        """Appends one record."""
        size = len(record)
        self._held += (_header(size), record, FOOTER.pack(masked_crc32c(record)))
        self._held_bytes += HEADER.size + size
        if self._held_bytes >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        self._out.write(b"".join(held))

    def close(self) -> str:
        """Ends the file, if it is open, and returns its sha256 as 64 hex digits."""
        self._closing.close()
        return self._hashing.digest.hexdigest()


@functools.lru_cache(maxsize=1 << 14)
def _header(size: int) -> bytes:
    length = size.to_bytes(8, "little")
    return length + FOOTER.pack(masked_crc32c(length))


def read_tfrecords(path: PlaceLike) -> Iterator[bytes]:
    """Yields the records of a file, plain or gzip, one at a time, both checksums checked.

    A file of a store is read as far as records are asked for.

    Raises:
      WorkError: the file cannot be read, or is cut short or altered; names the file, the record's
        index (from 0) and the byte at which it starts (in the decompressed stream for gzip).
    """
    try:
        with open_read(path, buffering=_BUFFER_BYTES) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if _is_gzip(file.peek(HEADER.size)):
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield from _read_records(path, unpacked, size=None)
            else:
                yield from _read_records(path, file, size=size)
    except OSError as error:
        raise WorkError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _is_gzip(start: bytes) -> bool:
    # A record of 35,615 bytes starts like gzip does; its checksum tells them apart.
    return start[:2] == b"\x1f\x8b" and not is_record_start(start)


def _read_records(
    path: PlaceLike, file: BinaryIO | gzip.GzipFile, size: int | None
) -> Iterator[bytes]:
    """Yields records; `size` is the stream's length in bytes where it is known."""
    index = offset = 0

    def damage(what: str) -> WorkError:
        return WorkError(
            f"{path}: record {index} at byte {offset} {what}. The file was cut short or altered: "
            "delete it and run the command that makes it again; finished units are kept."
        )

    while True:
        try:
            header = file.read(HEADER.size)
            if not header:
                return
            if len(header) < HEADER.size:
                raise damage(f"has {len(header)} of the {HEADER.size} bytes of its header")
            length, length_crc = HEADER.unpack(header)
            if masked_crc32c(header[:8]) != length_crc:
                raise damage("has a length that fails its checksum")
            limit = MAX_RECORD_BYTES
            if size is not None:
                limit = min(limit, size - offset - HEADER.size - FOOTER.size)
            if length > limit:
                raise damage(f"declares {length} bytes, but no more than {limit} can be there")
            record, stored_crc = file.read(length), file.read(FOOTER.size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise damage(f"cannot be decompressed ({error})") from error
        if len(record) < length or len(stored_crc) < FOOTER.size:
            raise damage(f"ends before its {length} bytes and their checksum")
        if masked_crc32c(record) != FOOTER.unpack(stored_crc)[0]:
            raise damage("fails its checksum")
        yield record
        index += 1
        offset += HEADER.size + length + FOOTER.size
