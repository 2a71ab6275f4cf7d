"""Reading whole files of a place: JSON, digests, many at a time, and as files here."""

import collections
import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from blt.dataset.storage import places, stores
from blt.dataset.storage.places import PlaceLike
from blt.dataset.storage.store_place import Place, StorePlace, as_place
from blt.errors import BltError, UserError

_COPY_BYTES = 1 << 20
NUM_REQUESTS = 64  # to a store at a time, where there is much to ask


def sha256_file(place: PlaceLike) -> str:
    """Returns the sha256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with places.open_read(place) as file:
        while block := file.read(_COPY_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Returns the sha256 of a value's canonical JSON (sorted keys, no blanks, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_json(place: PlaceLike) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: it is missing, unreadable or not JSON; the message names it.
    """
    with json_errors(place):
        return json.loads(as_place(place).read_bytes())


@contextlib.contextmanager
def json_errors(place: PlaceLike) -> Iterator[None]:
    """Raises what goes wrong with reading a JSON file as an error that names it.

    Raises:
      UserError: it is missing, unreadable or not JSON.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not a JSON file ({error}).") from error


@contextlib.contextmanager
def place_errors(place: PlaceLike) -> Iterator[None]:
    """Raises what goes wrong with asking a place, before any work, as an error that names it.

    Raises:
      UserError: it cannot be asked: there is no such bucket, or no permission.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({error.strerror or error}).") from error


def file_version(place: PlaceLike) -> str | None:
    """Returns what tells a file from one that replaces it; None if there is none.

    Raises:
      UserError: the place cannot be asked.
    """
    with place_errors(place), contextlib.suppress(FileNotFoundError):
        return places.stat(place).version
    return None


@contextlib.contextmanager
def errors_named(path: Path, place: Place) -> Iterator[None]:
    """Lets errors of ours that the block raises name a place in place of a path to its bytes."""
    try:
        yield
    except BltError as error:
        if path != place and error.args and str(path) in str(error.args[0]):
            error.args = (str(error.args[0]).replace(str(path), str(place)), *error.args[1:])
        raise


def read_all(files: Iterable[PlaceLike]) -> Iterator[bytes | None]:
    """Yields the bytes of each file, in order; None for one that is not there.

    Of a store, many are asked for at a time; few more than that are held.

    Raises:
      OSError: one cannot be read.
    """
    files = iter(files)
    first = next(files, None)
    if first is None:
        return
    files = itertools.chain([first], files)
    if not isinstance(as_place(first), StorePlace):
        yield from map(_bytes_or_none, files)
        return
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for file in files:
                waiting.append(pool.submit(_bytes_or_none, file))
                if len(waiting) > 2 * NUM_REQUESTS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _bytes_or_none(file: PlaceLike) -> bytes | None:
    try:
        return as_place(file).read_bytes()
    except FileNotFoundError:
        return None


def delete_all(files: Iterable[PlaceLike]) -> int:
    """Removes files, of a store many at a time; returns their number.

    Raises:
      OSError: one cannot be removed.
    """
    files = list(files)
    if files and isinstance(as_place(files[0]), StorePlace):
        with ThreadPoolExecutor(NUM_REQUESTS) as pool:
            list(pool.map(places.delete, files))
    else:
        for file in files:
            places.delete(file)
    return len(files)


def subfolders(folder: PlaceLike) -> list[Place]:
    """Returns the folders right in a folder, in order of their names.

    Of a store that is one request, however many files there are.

    Raises:
      OSError: the folder cannot be asked.
    """
    folder = as_place(folder)
    if isinstance(folder, StorePlace):
        return [folder / name for name in sorted(stores.folders_in(str(folder)))]
    return sorted(path for path in folder.iterdir() if path.is_dir())


def local_folder(place: PlaceLike) -> Path | None:
    """Returns the path of a folder here; None of one in a store."""
    place = as_place(place)
    return None if isinstance(place, StorePlace) else place


def open_source(place: PlaceLike) -> "str | BinaryIO":
    """Returns what libraries that read files take: a path here as text, or an open file of a store.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    place = as_place(place)
    return places.open_read(place) if isinstance(place, StorePlace) else str(place)
