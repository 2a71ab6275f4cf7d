"""Files of stores that are needed as files here: one copy a machine, in a bounded folder.

A copy is named by the digest of its place, size and version, so that a file that is replaced gets
another one. Processes that need the same file wait for the one that fetches it. The copies not used
for longest go first. Python has them open or mapped while they go, which does no harm.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from blt.dataset.storage import places
from blt.dataset.storage.places import PlaceLike
from blt.dataset.storage.reading import errors_named
from blt.dataset.storage.store_place import StorePlace, as_place
from blt.errors import UserError

CACHE_VARIABLE = "BLT_CACHE"  # where copies are kept
CACHE_BYTES_VARIABLE = "BLT_CACHE_BYTES"  # and how much of them
_DEFAULT_BYTES = 20 << 30
_COPY_BYTES = 4 << 20
_PARTIAL_PREFIX = "part-"
_DAY_SECONDS = 24 * 3600


def local_copy(place: PlaceLike) -> Path:
    """Returns a path here with the bytes of a file: of a place here the path itself.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be read, or kept here.
      UserError: the folder for copies is another user's.
    """
    place = as_place(place)
    if not isinstance(place, StorePlace):
        return place
    file = places.stat(place)
    digest = hashlib.sha256(f"{file.path}\n{file.size}\n{file.version}".encode()).hexdigest()
    folder = cache_folder()
    # The suffix stays: models are told by it.
    copy = folder / f"{digest[:40]}{place.suffix}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # whose files may be anything
        raise UserError(
            f"{folder}: belongs to another user, so that no copies of models are kept there. Set "
            f"{CACHE_VARIABLE} to a folder of yours."
        )
    if _use(copy):
        return copy
    with open(folder / f"{digest[:40]}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _use(copy):
            _make_room(folder, file.size)
            partial = folder / f"{_PARTIAL_PREFIX}{uuid.uuid4().hex[:12]}"
            try:
                with places.open_read(place) as source, open(partial, "wb") as target:
                    shutil.copyfileobj(source, target, _COPY_BYTES)
                os.replace(partial, copy)
            finally:
                partial.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / f"{digest[:40]}.lock").unlink()
    return copy


@contextlib.contextmanager
def kept_copy(place: PlaceLike) -> Iterator[Path]:
    """Yields the path of `local_copy`; errors of ours that the block raises name the place.

    Raises:
      UserError: it is not there, cannot be read, or cannot be kept here.
    """
    place = as_place(place)
    try:
        path = local_copy(place)
    except OSError as error:
        reason = error.strerror or error
        if str(error.filename) != str(place):
            where = error.filename or cache_folder()
            reason = f"no copy of it can be kept in {where}: {reason}; set {CACHE_VARIABLE}"
        raise UserError(f"{place}: cannot be read ({reason}).") from error
    with errors_named(path, place):
        yield path


def cache_folder() -> Path:
    """Returns where copies are kept: $BLT_CACHE, else a folder of this user's for temporaries."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(tempfile.gettempdir()) / f"blt-cache-{os.getuid()}"


def _use(copy: Path) -> bool:
    """Tells whether a copy is there, and notes that it is used."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    return True


def _limit_bytes() -> int:
    text = os.environ.get(CACHE_BYTES_VARIABLE, "")
    if not text:
        return _DEFAULT_BYTES
    if not text.isdecimal():
        raise UserError(f"{CACHE_BYTES_VARIABLE}: a number of bytes expected, got {text!r}.")
    return int(text)


def _make_room(folder: Path, num_bytes: int) -> None:
    """Removes the copies not used for longest, so that `num_bytes` more are within the limit."""
    copies = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            if path.name.startswith(_PARTIAL_PREFIX) and time.time() - info.st_mtime > _DAY_SECONDS:
                path.unlink()  # of a process that was killed
            else:
                copies.append((info.st_mtime_ns, info.st_size, path))
    total = sum(size for _, size, _ in copies) + num_bytes
    for _, size, path in sorted(copies):
        if total <= _limit_bytes():
            return
        if not path.name.startswith(_PARTIAL_PREFIX):
            path.unlink(missing_ok=True)
            total -= size
