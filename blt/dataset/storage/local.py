"""Temporary files in folders on this machine.

A file is written under a temporary name in its own folder and renamed, so that a reader never sees
half of one. Temporary names start with `.tmp-`; what a killed run left is swept by the next run.
"""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"


def temporary_beside(path: str | os.PathLike[str]) -> Path:
    """Returns a new temporary name for what shall be called `path`."""
    path = Path(path)
    # The suffix stays last: some writers choose a compression by it.
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{path.name}")


def remove_temporaries(folder: str | os.PathLike[str]) -> int:
    """Removes what killed runs left in `folder` and below; returns the number of files."""
    left = [path for path in Path(folder).rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


@contextlib.contextmanager
def shared_use(folder: str | os.PathLike[str]) -> Iterator[Callable[[], None]]:
    """Notes for other runs that this one is at work in `folder` while the block runs.

    Yields a function that removes what killed runs left there, unless another run is at work, whose
    temporary files could not be told from theirs. The lock is the system's, so that it goes with
    the process, however that ends. Filesystems without locks have none, and keep what was left.
    """
    descriptor = os.open(folder, os.O_RDONLY)

    def sweep() -> None:
        with contextlib.suppress(OSError):  # another run is at work, or there are no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_temporaries(folder)
        with contextlib.suppress(OSError):  # waits for no more than another's sweep
            fcntl.flock(descriptor, fcntl.LOCK_SH)

    try:
        sweep()
        yield sweep
    finally:
        os.close(descriptor)
