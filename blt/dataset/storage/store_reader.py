"""Reading a file of a store: ranges that go on where they broke off, and a file of them."""

import errno
import io
import os
import time
from typing import Any

from blt.dataset.storage.store_client import PAUSES, split_url, store_client, translated
from blt.dataset.storage.stored import StoredFile

_CHUNK_BYTES = 1 << 16  # that a read which breaks off may lose
_FIRST_BLOCK_BYTES, _MAX_BLOCK_BYTES = 1 << 20, 16 << 20


def stat(place: str) -> StoredFile:
    """Returns the file at a URL."""
    with store_client(place) as (obstore, client, key):
        if not key:  # a bucket, of which some stores tell as of a file
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
        return stored_file(place, obstore.head(client, key))


def stored_file(place: str, meta: Any) -> StoredFile:
    """Returns a file in the bucket of a place, from what obstore says of it."""
    seconds = int(meta["last_modified"].timestamp())
    url = f"{split_url(place)[0]}/{meta['path']}"
    return StoredFile(url, meta["size"], seconds * 10**9, version_of(meta))


def version_of(meta: Any) -> str:
    """Returns the etag in what obstore says of a file."""
    # Azure's listings leave out the quotes.
    return '"' + meta["e_tag"].strip('"') + '"'


def fetch(place: str, start: int, length: int, version: str | None = None) -> bytes:
    """Reads a range; one that breaks off is taken up again where it did."""
    data = bytearray()
    pauses = iter(PAUSES)
    condition = {} if version is None else {"if_match": version}
    while len(data) < length:
        num_before = len(data)
        with store_client(place) as (obstore, client, key):
            wanted = {"range": (start + num_before, start + length), **condition}
            blocks = obstore.get(client, key, options=wanted).stream(_CHUNK_BYTES)
        try:
            with translated(place):
                for block in blocks:
                    data += block
            if len(data) < length:
                raise OSError(errno.EIO, "ends before the bytes that were asked for", place)
        except OSError:
            pauses = iter(PAUSES) if len(data) > num_before else pauses
            if (pause := next(pauses, None)) is None:
                raise
            time.sleep(pause)
    return bytes(data)


class StoreReader(io.RawIOBase):
    """A file of a store, in blocks that grow while it is read from front to back."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._file = stat(place)
        self._offset = 0
        self._block, self._block_start = b"", 0
        self._block_bytes = _FIRST_BLOCK_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._file.size}[whence]
        self._offset = base + offset
        return self._offset

    def readinto(self, buffer: memoryview) -> int:
        size = min(len(buffer), max(0, self._file.size - self._offset))
        if not size:
            return 0
        start = self._offset - self._block_start
        if not 0 <= start < len(self._block):
            self._load()
            start = 0
        data = memoryview(self._block)[start : start + size]
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def _load(self) -> None:
        follows = self._block and self._offset == self._block_start + len(self._block)
        size = min(2 * self._block_bytes, _MAX_BLOCK_BYTES) if follows else _FIRST_BLOCK_BYTES
        self._block_bytes, self._block = size, b""
        length = min(size, self._file.size - self._offset)
        self._block = fetch(self._file.path, self._offset, length, self._file.version)
        self._block_start = self._offset

    def close(self) -> None:
        self._block = b""
        super().close()
