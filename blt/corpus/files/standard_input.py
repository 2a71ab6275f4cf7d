"""`--input -`: standard input, copied to a file so that it can be split, read twice and resumed."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

from blt.dataset.storage import (
    Place,
    atomic_path,
    local_folder,
    scratch_file,
    sha256_file,
    stat,
)
from blt.errors import UserError

_COPY_BYTES = 1 << 20


class KeptInput(NamedTuple):
    """The copy of standard input, and the modification time that it counts as having, in ns."""

    place: Place
    mtime_ns: int


def keep_standard_input(stream: BinaryIO | None, place: Place) -> KeptInput:
    """Copies `stream` to a place; its modification time is made from its content.

    So the same bytes are the same input to a plan, whenever they are given again. On a terminal
    nothing is read, and the copy that a killed run left is used.

    Raises:
      UserError: the stream is a terminal and there is no copy, or there is no stream (closed).
      WorkError: the copy cannot be written.
    """
    if stream is None:
        raise UserError("--input -: standard input is closed. Pipe the corpus in.")
    if stream.isatty():
        if place.is_file():
            return KeptInput(place, _time_of(sha256_file(place)))
        raise UserError("--input -: standard input is a terminal. Pipe the corpus in.")
    digest = hashlib.sha256()
    with atomic_path(place) if local_folder(place) else scratch_file(place.name) as copy:
        with open(copy, "wb") as file:
            while block := stream.read(_COPY_BYTES):
                digest.update(block)
                file.write(block)
        if local_folder(place) is None and not _is_there(place, copy, digest.hexdigest()):
            with atomic_path(place) as upload:
                os.replace(copy, upload)
    return KeptInput(place, _time_of(digest.hexdigest()))


def _time_of(sha256: str) -> int:
    return int(sha256[:12], 16) * 1000  # in the nine years from 1970 on


def _is_there(place: Place, copy: Path, sha256: str) -> bool:
    """Tells whether a store has the copy already, whose time then stays as it is."""
    try:
        is_of_size = stat(place).size == copy.stat().st_size
        return is_of_size and sha256_file(place) == sha256
    except FileNotFoundError:
        return False
