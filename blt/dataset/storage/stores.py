"""Places in stores, through obstore; what the functions promise stands in `places`."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from blt.dataset.storage.store_client import asked_again, store_client, translated
from blt.dataset.storage.store_reader import StoreReader, fetch, stat, stored_file, version_of
from blt.dataset.storage.stored import ChangedError, StoredFile, changed, scheme_of

__all__ = [
    "StoreReader",
    "create",
    "delete",
    "folders_in",
    "holds_any",
    "list_below",
    "names_in",
    "open_write",
    "read_range",
    "read_whole",
    "replace",
    "stat",
    "upload",
]

_PART_BYTES = 10 << 20  # of a multipart upload: 100 GB in the 10,000 parts that there may be
_NUM_PARTS = 4  # on their way at a time


def list_below(folder: str) -> Iterator[StoredFile]:
    """Yields all files below a URL."""
    with store_client(folder) as (obstore, client, key):
        pages = obstore.list(client, prefix=key or None)
    empty = []
    while page := _next_page(pages, folder):
        for meta in page:
            # A name that ends in a slash has lost it here, and is told by being empty.
            if meta["size"]:
                yield stored_file(folder, meta)
            else:
                empty.append(meta)
    names: dict[str, set[str]] = {}  # of files, by the folder that they lie in
    for meta in empty:
        parent = meta["path"].rpartition("/")[0]
        if parent not in names:
            with store_client(folder) as (obstore, client, _):
                listed = obstore.list_with_delimiter(client, parent or None)["objects"]
            names[parent] = {file["path"] for file in listed}
        if meta["path"] in names[parent]:
            names[parent].remove(meta["path"])  # it comes twice where there are both
            yield stored_file(folder, meta)


def holds_any(folder: str) -> bool:
    """Tells whether anything lies below a URL."""
    with store_client(folder) as (obstore, client, key):
        pages = obstore.list(client, prefix=key or None, chunk_size=1)
    return bool(_next_page(pages, folder))


def names_in(folder: str) -> set[str]:
    """Returns the names of the files and folders right below a URL."""
    with store_client(folder) as (obstore, client, key):
        found = obstore.list_with_delimiter(client, key or None)
    paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
    return {path.rstrip("/").rpartition("/")[2] for path in paths}


def folders_in(folder: str) -> set[str]:
    """Returns the names of the folders alone."""
    with store_client(folder) as (obstore, client, key):
        found = obstore.list_with_delimiter(client, key or None)
    return {path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]}


def _next_page(pages: Iterator[Any], folder: str) -> list[Any]:
    with translated(folder):
        return next(pages, [])


def read_range(place: str, start: int, length: int) -> bytes:
    """Returns a range of a file's bytes."""
    return fetch(place, start, length)


def read_whole(place: str) -> bytes:
    """Returns a file's bytes, all of one version of it, by one request if it does not break off."""
    with store_client(place) as (obstore, client, key):
        found = obstore.get(client, key)
        meta = found.meta
    try:
        with translated(place):
            data = found.bytes().to_bytes()
    except OSError:
        data = b""
    if len(data) == meta["size"]:
        return data
    return fetch(place, 0, meta["size"], version_of(meta))


def upload(place: str, path: Path) -> str:
    """Makes a file of one here, by parts if it is large; returns its version.

    It is tried again from its start where an answer is lost: the same bytes make the same file.
    """

    def attempt() -> str:
        with store_client(place) as (obstore, client, key):
            if path.stat().st_size <= _PART_BYTES:
                done = obstore.put(client, key, path.read_bytes(), use_multipart=False)
            else:
                done = obstore.put(
                    client,
                    key,
                    path,
                    use_multipart=True,
                    chunk_size=_PART_BYTES,
                    max_concurrency=_NUM_PARTS,
                )
            return version_of(done)

    return asked_again(attempt)


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
        with store_client(place) as (obstore, client, key):
            condition = {"e_tag": if_version}
            if scheme_of(place) == "gs":  # which takes the generation alone as a condition
                seen = obstore.head(client, key)
                if version_of(seen) != if_version:
                    raise changed(place)
                condition = {"version": seen["version"]}
        return _put(place, data, condition)
    except (ChangedError, FileNotFoundError) as error:
        if (version := _version_if_equal(place, data)) is None:
            raise changed(place) from error
        return version


def _put(place: str, data: bytes, mode: Any) -> str:
    def attempt() -> str:
        with store_client(place) as (obstore, client, key):
            # In one request, since others take no conditions.
            done = obstore.put(client, key, data, mode=mode, use_multipart=False)
            return version_of(done)

    return asked_again(attempt)


def _version_if_equal(place: str, data: bytes) -> str | None:
    """Returns the version of a file that holds `data`, None of one that does not."""
    try:
        file = stat(place)
        if file.size != len(data) or fetch(place, 0, len(data), file.version) != data:
            return None
    except (FileNotFoundError, ChangedError):
        return None
    return file.version


@contextlib.contextmanager
def open_write(place: str) -> Iterator[BinaryIO]:
    """Opens a file that is there when the block ends well; else the upload is aborted."""
    with store_client(place) as (obstore, client, key):
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
    with translated(place):
        upload.close()


def delete(place: str) -> None:
    """Removes a file."""

    def attempt() -> None:
        with store_client(place) as (obstore, client, key):
            obstore.delete(client, key)

    with contextlib.suppress(FileNotFoundError):
        asked_again(attempt)


class _Sink(io.RawIOBase):
    """Takes bytes for an upload, which its owner ends."""

    def __init__(self, upload: Any, place: str) -> None:
        super().__init__()
        self._upload, self._place = upload, place

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with translated(self._place):
            return self._upload.write(bytes(data))
