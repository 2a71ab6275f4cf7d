"""Where inputs lie: on this machine, or in a store whose paths begin with a scheme (`gs://…`).

The library knows local files. What opens the others is given to `use_remote` by those who have it:
the pipelines give Beam's filesystems. Remote reads that fail, end too soon or find nothing yet (a
store may list an object before it can be read, and the other way round) are tried again, from where
they stopped, a few times with growing pauses.
"""

import dataclasses
import errno
import io
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol, TypeVar

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PAUSES = (0.2, 1.0, 4.0)  # seconds before the second, third and fourth attempt
_BUFFER_BYTES = 1 << 20
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file of a store: its whole path, its size in bytes, and when it was last changed."""

    path: str
    size: int
    mtime_ns: int


class RemoteFiles(Protocol):
    """What a store must be able to do. Failures are raised as OSError."""

    def find(self, argument: str) -> Sequence[StoredFile]:
        """Returns the file, all files below the folder, or what the glob means; or none."""

    def stat(self, path: str) -> StoredFile:
        """Returns the file at a path."""

    def open(self, path: str) -> BinaryIO:
        """Opens a file to read, with `seek`, as it is stored."""


_remote: RemoteFiles | None = None


def use_remote(files: RemoteFiles | None) -> None:
    """Makes `files` what opens paths with a scheme, in this process."""
    global _remote
    _remote = files


def is_remote(path: str) -> bool:
    """Tells whether a path begins with a scheme."""
    return _SCHEME.match(path) is not None


def find_remote(argument: str) -> Sequence[StoredFile]:
    """Returns what an argument with a scheme means; asks again before it returns nothing.

    Raises:
      OSError: the store cannot be asked, or there is none for it.
    """
    for pause in (*_PAUSES, None):
        found = _persist(lambda: _store(argument).find(argument))
        if found or pause is None:
            break
        time.sleep(pause)
    return found


def size_of(path: str) -> int:
    """Returns the size of a file in bytes.

    Raises:
      OSError: it is not there.
    """
    if is_remote(path):
        return _persist(lambda: _store(path).stat(path)).size
    return os.stat(path).st_size


def open_input(path: str, *, buffering: int = -1) -> BinaryIO:
    """Opens a file to read; `buffering` as for `open`, 0 or the default.

    Raises:
      OSError: it cannot be opened.
    """
    if not is_remote(path):
        return open(path, "rb", buffering=buffering)
    raw = _RemoteFile(_store(path), path)
    return raw if buffering == 0 else io.BufferedReader(raw, _BUFFER_BYTES)


def _store(path: str) -> RemoteFiles:
    if _remote is None:
        raise OSError(errno.ENOTSUP, "nothing here opens such paths")
    return _remote


def _persist(attempt: Callable[[], _Result]) -> _Result:
    for pause in _PAUSES:
        try:
            return attempt()
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                raise
            time.sleep(pause)
    return attempt()


class _RemoteFile(io.RawIOBase):
    def __init__(self, store: RemoteFiles, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path
        self._size = _persist(lambda: store.stat(path)).size
        self._offset = 0
        self._handle: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size}[whence]
        if base + offset != self._offset:
            self._drop()
            self._offset = base + offset
        return self._offset

    def readinto(self, buffer: memoryview) -> int:
        wanted = min(len(buffer), max(0, self._size - self._offset))
        if not wanted:
            return 0
        data = _persist(lambda: self._read(wanted))
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def _read(self, size: int) -> bytes:
        try:
            if self._handle is None:
                self._handle = self._store.open(self._path)
                self._handle.seek(self._offset)
            data = self._handle.read(size)
            if not data:  # a stream that broke off looks like the end
                raise OSError(errno.EIO, f"ends at byte {self._offset} of {self._size}")
        except OSError:
            self._drop()
            raise
        return data

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def close(self) -> None:
        self._drop()
        super().close()
