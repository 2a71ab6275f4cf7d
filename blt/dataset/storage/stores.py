"""Places in stores, through obstore; what the functions promise stands in `places`.

obstore is imported, and a bucket's client made, when the first URL of it is used. Credentials and
endpoints are what the platform and the standard environment variables give.
"""

import contextlib
import datetime
import errno
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, BinaryIO, TypeVar

from blt.dataset.storage.store_errors import as_os_error
from blt.dataset.storage.stored import ChangedError, StoredFile, changed, scheme_of

SCHEMES = ("gs", "s3", "az", "abfs", "abfss")
PAUSES = (0.2, 1.0, 4.0)  # seconds before a read that broke off is taken up again
REQUEST_SECONDS = 60.0  # for a request with its answer, of which a read asks 16 MiB at most
_RETRY = {
    "max_retries": 8,
    "retry_timeout": datetime.timedelta(minutes=2),
    "backoff": {"max_backoff": datetime.timedelta(seconds=8)},
}
_PART_BYTES = 10 << 20  # of a multipart upload: 100 GB in the 10,000 parts that there may be
_NUM_PARTS = 4  # on their way at a time
_CHUNK_BYTES = 1 << 16  # that a read which breaks off may lose
_FIRST_BLOCK_BYTES, _MAX_BLOCK_BYTES = 1 << 20, 16 << 20

_Result = TypeVar("_Result")

_clients: dict[str, Any] = {}
_clients_lock = threading.Lock()
_is_forked = False  # after the parent had used a store: obstore would wait for ever


def _after_fork() -> None:
    global _is_forked, _clients_lock
    _is_forked = _is_forked or bool(_clients)
    _clients_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def stat(place: str) -> StoredFile:
    """Returns the file at a URL."""
    with _client(place) as (obstore, client, key):
        return _stored(place, obstore.head(client, key))


def list_below(folder: str) -> Iterator[StoredFile]:
    """Yields all files below a URL."""
    with _client(folder, is_listing=True) as (obstore, client, key):
        pages = obstore.list(client, prefix=key or None)
    empty = []
    while page := _next_page(pages, folder):
        for meta in page:
            # A name that ends in a slash has lost it here, and is told by being empty.
            if meta["size"]:
                yield _stored(folder, meta)
            else:
                empty.append(meta)
    names: dict[str, set[str]] = {}  # of files, by the folder that they lie in
    for meta in empty:
        parent = meta["path"].rpartition("/")[0]
        if parent not in names:
            with _client(folder, is_listing=True) as (obstore, client, _):
                listed = obstore.list_with_delimiter(client, parent or None)["objects"]
            names[parent] = {file["path"] for file in listed}
        if meta["path"] in names[parent]:
            names[parent].remove(meta["path"])  # it comes twice where there are both
            yield _stored(folder, meta)


def _next_page(pages: Iterator[Any], folder: str) -> list[Any]:
    with _translated(folder, is_listing=True):
        return next(pages, [])


def read_range(place: str, start: int, length: int) -> bytes:
    """Returns a range of a file's bytes."""
    return _fetch(place, start, length)


def create(place: str, data: bytes) -> str:
    """Makes a file that is not there yet."""
    try:
        return _put(place, data, "create")
    except FileExistsError:
        if (version := _version_if_equal(place, data)) is None:
            raise
        return version


def replace(place: str, data: bytes, if_version: str | None) -> str:
    """Writes a file, all of it at once."""
    if if_version is None:
        return _put(place, data, "overwrite")
    try:
        with _client(place) as (obstore, client, key):
            condition = {"e_tag": if_version}
            if scheme_of(place) == "gs":  # which takes the generation alone as a condition
                seen = obstore.head(client, key)
                if _version(seen) != if_version:
                    raise changed(place)
                condition = {"version": seen["version"]}
        return _put(place, data, condition)
    except (ChangedError, FileNotFoundError) as error:
        if (version := _version_if_equal(place, data)) is None:
            raise changed(place) from error
        return version


def _put(place: str, data: bytes, mode: Any) -> str:
    def attempt() -> str:
        with _client(place) as (obstore, client, key):
            # In one request, since others take no conditions.
            done = obstore.put(client, key, data, mode=mode, use_multipart=False)
            return _version(done)

    return _asked_again(attempt)


def _asked_again(attempt: Callable[[], _Result]) -> _Result:
    """Returns what a request gives; for those that obstore asks once if they get no answer.

    It leaves it to us whether a request may be asked twice that may have been carried out.
    """
    for pause in PAUSES:
        try:
            return attempt()
        except ConnectionError:
            time.sleep(pause)
    return attempt()


def _version_if_equal(place: str, data: bytes) -> str | None:
    """Returns the version of a file that holds `data`, None of one that does not."""
    try:
        file = stat(place)
        if file.size != len(data) or _fetch(place, 0, len(data), file.version) != data:
            return None
    except (FileNotFoundError, ChangedError):
        return None
    return file.version


@contextlib.contextmanager
def open_write(place: str) -> Iterator[BinaryIO]:
    """Opens a file that is there when the block ends well; else the upload is aborted."""
    with _client(place) as (obstore, client, key):
        upload = obstore.open_writer(
            client, key, buffer_size=_PART_BYTES, max_concurrency=_NUM_PARTS
        )
    try:
        with _Sink(upload, place) as sink:
            yield sink
    except BaseException as error:
        with contextlib.suppress(Exception):
            upload.__exit__(type(error), error, error.__traceback__)  # aborts
        raise
    with _translated(place):
        upload.close()


def delete(place: str) -> None:
    """Removes a file."""

    def attempt() -> None:
        with _client(place) as (obstore, client, key):
            obstore.delete(client, key)

    with contextlib.suppress(FileNotFoundError):
        _asked_again(attempt)


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
        self._block = _fetch(self._file.path, self._offset, length, self._file.version)
        self._block_start = self._offset

    def close(self) -> None:
        self._block = b""
        super().close()


class _Sink(io.RawIOBase):
    """Takes bytes for an upload, which its owner ends."""

    def __init__(self, upload: Any, place: str) -> None:
        super().__init__()
        self._upload, self._place = upload, place

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with _translated(self._place):
            return self._upload.write(bytes(data))


def _fetch(place: str, start: int, length: int, version: str | None = None) -> bytes:
    """Reads a range; one that breaks off is taken up again where it did."""
    data = bytearray()
    pauses = iter(PAUSES)
    condition = {} if version is None else {"if_match": version}
    while len(data) < length:
        num_before = len(data)
        with _client(place) as (obstore, client, key):
            wanted = {"range": (start + num_before, start + length), **condition}
            blocks = obstore.get(client, key, options=wanted).stream(_CHUNK_BYTES)
        try:
            with _translated(place):
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


def _stored(place: str, meta: Any) -> StoredFile:
    seconds = int(meta["last_modified"].timestamp())
    url = f"{_split(place)[0]}/{meta['path']}"
    return StoredFile(url, meta["size"], seconds * 10**9, _version(meta))


def _version(meta: Any) -> str:
    # Azure's listings leave out the quotes.
    return '"' + meta["e_tag"].strip('"') + '"'


def _split(url: str) -> tuple[str, str]:
    """Returns the URL of a bucket, and the key in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


@contextlib.contextmanager
def _client(place: str, *, is_listing: bool = False) -> Iterator[tuple[ModuleType, Any, str]]:
    """Yields obstore, the client of a URL's bucket, and the key; raises what fails as OSError."""
    scheme = scheme_of(place)
    if scheme not in SCHEMES:
        raise OSError(
            errno.ENOTSUP,
            f"{scheme}:// is not read; gs://, s3:// and az:// are, by pip install 'blt[stores]'",
            place,
        )
    base, key = _split(place)
    with _translated(place, is_listing=is_listing):
        import obstore
        import obstore.store

        with _clients_lock:
            if base not in _clients:
                _clients[base] = obstore.store.from_url(
                    base,
                    retry_config=_RETRY,
                    client_options={
                        "timeout": datetime.timedelta(seconds=REQUEST_SECONDS),
                        "allow_http": True,  # where the environment names such an endpoint
                    },
                )
        yield obstore, _clients[base], key


@contextlib.contextmanager
def _translated(place: str, *, is_listing: bool = False) -> Iterator[None]:
    if _is_forked:
        raise OSError(
            errno.ENOTSUP,
            "this process was forked from one that had used a store, and cannot use one itself; "
            "start it by spawn or as a program of its own",
            place,
        )
    try:
        yield
    except Exception as error:
        # Not from it: its text may hold a signed URL.
        raise as_os_error(error, place, is_listing=is_listing) from None
