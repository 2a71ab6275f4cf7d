"""`--input -`: standard input, copied to a file so that it can be split, read twice and resumed."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from blt.dataset.storage import atomic_path
from blt.errors import UserError

_COPY_BYTES = 1 << 20


def keep_standard_input(stream: BinaryIO | None, path: Path) -> None:
    """Copies `stream` to `path`, whose modification time is made from the content.

    So the same bytes are the same input to a plan, whenever they are given again. On a terminal
    nothing is read, and the copy that a killed run left is used.

    Raises:
      UserError: the stream is a terminal and there is no copy, or there is no stream (closed).
      WorkError: the copy cannot be written.
    """
    if stream is None:
        raise UserError("--input -: standard input is closed. Pipe the corpus in.")
    if stream.isatty():
        if path.is_file():
            return
        raise UserError("--input -: standard input is a terminal. Pipe the corpus in.")
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, open(temporary, "wb") as copy:
        while block := stream.read(_COPY_BYTES):
            digest.update(block)
            copy.write(block)
    time_ns = int.from_bytes(digest.digest()[:6], "big") * 1000  # in the nine years from 1970 on
    os.utime(path, ns=(time_ns, time_ns))
