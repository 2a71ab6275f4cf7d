"""What can be done at a place: a path here, or a URL of a store. The same holds at both:

- A reader sees a whole file or none. What fails half-way leaves nothing that can be seen.
- `create` has one winner among all who try. `replace` with a version fails once it is stale.
- A folder is what lies below it; it needs no making, and one that is not there is empty.
- Whatever fails is an OSError of one line, which names the place and holds no credentials.

Requests to a store that fail for a while (429, 5xx, resets, time-outs) are tried again, with
growing pauses, for up to two minutes; a read that breaks off goes on where it stopped.
"""

import contextlib
import fnmatch
import glob
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import BinaryIO

from blt.dataset.storage import local_places, stores
from blt.dataset.storage.store_place import StorePlace
from blt.dataset.storage.stored import ChangedError, StoredFile, is_remote

__all__ = [
    "ChangedError",
    "PlaceLike",
    "StoredFile",
    "create",
    "delete",
    "find",
    "is_remote",
    "list_below",
    "open_read",
    "open_write",
    "read_range",
    "replace",
    "stat",
]

PlaceLike = str | os.PathLike[str] | StorePlace

_FIRST_WILDCARD = re.compile(r"[*?\[]")
_BUFFER_BYTES = 1 << 20


def stat(place: PlaceLike) -> StoredFile:
    """Returns the file at a place.

    Raises:
      FileNotFoundError: there is none; a folder is none.
      OSError: the place cannot be asked.
    """
    return _kind(place).stat(str(place))


def list_below(folder: PlaceLike) -> Iterator[StoredFile]:
    """Yields all files below a folder, in no promised order.

    Names that end in a slash, which stand for folders in stores, are left out; so are the temporary
    files of writers here.

    Raises:
      OSError: the place cannot be asked; a bucket that is not there is no folder.
    """
    folder = str(folder).rstrip("/") or str(folder)
    return _kind(folder).list_below(folder)


def find(argument: PlaceLike) -> Sequence[StoredFile]:
    """Returns what an argument means: a file, else what a glob matches, else all below a folder.

    In a glob, `*`, `?` and `[ab]` stand for characters of a name, and `**` for any folders. A
    folder that a glob without `**` matches stands for all that is below it.

    Raises:
      OSError: the place cannot be asked.
    """
    argument = str(argument).rstrip("/") or str(argument)
    with contextlib.suppress(FileNotFoundError):
        return [stat(argument)]
    if not glob.has_magic(argument):
        return list(list_below(argument))
    folder = _FIRST_WILDCARD.split(argument, maxsplit=1)[0].rpartition("/")[0]
    start = len(folder) + 1 if folder else 0
    pattern = argument[start:].split("/")
    enters = "**" not in pattern  # which means what is below the folders itself
    files = list_below(folder)
    return [file for file in files if _matches(file.path[start:].split("/"), pattern, enters)]


def _matches(names: list[str], pattern: list[str], enters: bool) -> bool:
    """Tells whether a pattern means a path, or with `enters` a folder above it."""
    if not pattern or not names:
        return not pattern and (enters or not names)
    if pattern[0] != "**":
        is_like = fnmatch.fnmatchcase(names[0], pattern[0])
        return is_like and _matches(names[1:], pattern[1:], enters)
    rest = pattern[1:] or ["*"]
    return any(_matches(names[start:], rest, enters) for start in range(len(names)))


def open_read(place: PlaceLike, *, buffering: int = -1) -> BinaryIO:
    """Opens a file to read, with `seek`.

    A file in a store is read as the version that it had when it was opened; if it is replaced
    meanwhile, the next block of it raises `ChangedError`.

    Args:
      place: where it lies.
      buffering: as for `open`; of a store, 0 or a MiB.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    if not is_remote(place):
        return open(place, "rb", buffering=buffering)
    raw = stores.StoreReader(str(place))
    return raw if buffering == 0 else io.BufferedReader(raw, _BUFFER_BYTES)


def read_range(place: PlaceLike, start: int, length: int) -> bytes:
    """Returns `length` bytes of a file, from byte `start` on.

    Raises:
      OSError: it cannot be read, or ends before them.
    """
    return _kind(place).read_range(str(place), start, length)


def create(place: PlaceLike, data: bytes) -> str:
    """Makes a file that is not there yet, whole or not at all; returns its version.

    The answer to a request may be lost, and the next try then finds what the first one made. So a
    file that is there with these very bytes is a success too: whoever needs to be the only winner
    puts a token of its own into `data`.

    Raises:
      FileExistsError: it is there with other bytes.
      OSError: it cannot be written.
    """
    return _kind(place).create(str(place), data)


def replace(place: PlaceLike, data: bytes, *, if_version: str | None = None) -> str:
    """Writes a file whole, or leaves what was there; returns its version.

    Args:
      place: where.
      data: what it holds from then on.
      if_version: the version that it must still have. As with `create`, a file that has these very
        bytes by now is a success.

    Raises:
      ChangedError: it has another version, or is gone.
      OSError: it cannot be written.
    """
    return _kind(place).replace(str(place), data, if_version)


def open_write(place: PlaceLike) -> AbstractContextManager[BinaryIO]:
    """Opens a file to write, to be used with `with`; it is there once the block ends well.

    If the block raises, what was there is as it was. Memory does not grow with the file.

    Raises:
      OSError: it cannot be written.
    """
    return _kind(place).open_write(str(place))


def delete(place: PlaceLike) -> None:
    """Removes a file; one that is not there is removed already.

    Raises:
      OSError: it cannot be removed.
    """
    _kind(place).delete(str(place))


def _kind(place: PlaceLike) -> ModuleType:
    return stores if is_remote(place) else local_places
