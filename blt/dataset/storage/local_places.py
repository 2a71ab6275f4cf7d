"""Places on this machine; what the functions promise stands in `blt.dataset.storage.places`."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from blt.dataset.storage.local import TEMPORARY_PREFIX, temporary_beside
from blt.dataset.storage.stored import StoredFile, changed

# Of filesystems without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def stat(place: str) -> StoredFile:
    """Returns the file at a path."""
    if not os.path.isfile(place):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
    info = os.stat(place)
    return StoredFile(place, info.st_size, info.st_mtime_ns, _version(info))


def version_at(path: Path) -> str:
    """Returns the version of the file at a path, which it keeps under another name."""
    return _version(os.stat(path))


def _version(info: os.stat_result) -> str:
    # A file is replaced by one that was beside it, and so has another inode.
    return f"{info.st_dev:x}-{info.st_ino:x}-{info.st_mtime_ns:x}-{info.st_size:x}"


def list_below(folder: str) -> Iterator[StoredFile]:
    """Yields all files below a folder."""
    for parent, _, names in os.walk(folder or os.curdir):
        for name in names:
            if not name.startswith(TEMPORARY_PREFIX):
                path = os.path.join(parent, name)
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, or no file
                    yield stat(path if folder else os.path.relpath(path))


def read_range(place: str, start: int, length: int) -> bytes:
    """Returns a range of a file's bytes."""
    with open(place, "rb") as file:
        file.seek(start)
        data = file.read(length)
    if len(data) < length:
        raise OSError(errno.EIO, "ends before the bytes that were asked for", place)
    return data


def create(place: str, data: bytes) -> str:
    """Makes a file that is not there yet."""
    try:
        with _naming(place), _written(place, data) as temporary:
            version = _version(os.stat(temporary))
            try:
                os.link(temporary, place)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.close(os.open(place, os.O_CREAT | os.O_EXCL))  # empty, for a moment
                os.replace(temporary, place)
    except FileExistsError:
        if not os.path.isfile(place) or Path(place).read_bytes() != data:
            raise
        return stat(place).version
    return version


def replace(place: str, data: bytes, if_version: str | None) -> str:
    """Writes a file, all of it at once."""
    with _naming(place), _written(place, data) as temporary:
        version = _version(os.stat(temporary))
        if if_version is None:
            os.replace(temporary, place)
            return version
        with _locked(place) as seen:
            if seen == if_version:
                os.replace(temporary, place)
                return version
    with contextlib.suppress(OSError):
        if Path(place).read_bytes() == data:
            return stat(place).version
    raise changed(place)


@contextlib.contextmanager
def open_write(place: str) -> Iterator[BinaryIO]:
    """Opens a file that takes its name when the block ends well."""
    temporary = temporary_beside(place)
    with _naming(place):
        os.makedirs(temporary.parent, exist_ok=True)
        file = open(temporary, "xb")  # noqa: SIM115 (closed below)
    try:
        with file:
            yield file
        with _naming(place):
            _flush(temporary)
            os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def delete(place: str) -> None:
    """Removes a file."""
    Path(place).unlink(missing_ok=True)


@contextlib.contextmanager
def _written(place: str, data: bytes) -> Iterator[Path]:
    """Yields a temporary file beside a place that holds `data`, and removes what is left of it."""
    temporary = temporary_beside(place)
    os.makedirs(temporary.parent, exist_ok=True)
    try:
        temporary.write_bytes(data)
        _flush(temporary)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(place: str) -> Iterator[str | None]:
    """Keeps others who ask for a version from replacing a file; yields the version it has.

    The lock is on the file itself, and so on what others wait for until it is replaced.
    """
    seen = None
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        yield seen
        return
    try:
        with contextlib.suppress(OSError):  # a filesystem without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            seen = _version(os.stat(place))  # by its name: another may have come meanwhile
        yield seen
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    with open(path, "rb") as written:
        os.fsync(written.fileno())


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Raises what goes wrong with a temporary file as what went wrong with the place."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, reason, place) from error
