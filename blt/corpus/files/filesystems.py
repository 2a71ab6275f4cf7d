"""Inputs, which are files here or in a store (`gs://…`, `s3://…`, `az://…`).

A store may list an object before it can be read, and the other way round. So what is not there is
looked for again, a few times with growing pauses.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import BinaryIO, TypeVar

from blt.dataset.storage import StoredFile, find, is_remote, open_read, stat

__all__ = ["find_remote", "is_remote", "open_input", "size_of"]

_PAUSES = (0.2, 1.0, 4.0)  # seconds before the second, third and fourth attempt
_Result = TypeVar("_Result")


def find_remote(argument: str) -> Sequence[StoredFile]:
    """Returns what an argument with a scheme means; asks again before it returns nothing.

    Raises:
      OSError: the store cannot be asked, or there is none for it.
    """
    for pause in _PAUSES:
        if found := find(argument):
            return found
        time.sleep(pause)
    return find(argument)


def size_of(path: str) -> int:
    """Returns the size of a file in bytes.

    Raises:
      OSError: it is not there.
    """
    if is_remote(path):
        return _looked_for(lambda: stat(path)).size
    return os.stat(path).st_size


def open_input(path: str, *, buffering: int = -1) -> BinaryIO:
    """Opens a file to read; `buffering` as for `open`, 0 or the default.

    Raises:
      OSError: it cannot be opened.
    """
    if is_remote(path):
        return _looked_for(lambda: open_read(path, buffering=buffering))
    return open_read(path, buffering=buffering)


def _looked_for(attempt: Callable[[], _Result]) -> _Result:
    for pause in _PAUSES:
        try:
            return attempt()
        except FileNotFoundError:
            time.sleep(pause)
    return attempt()
