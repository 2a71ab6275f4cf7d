"""Files that are made under a path here and take their place whole or not at all.

A place here: a temporary file beside it, flushed and renamed. A place in a store: a file of the
same name in local scratch, which is uploaded when it is done. Nothing half-made is ever seen.
"""

import collections
import contextlib
import contextvars
import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blt.dataset.storage import places, stores
from blt.dataset.storage.following import FollowingUpload
from blt.dataset.storage.local import TEMPORARY_PREFIX, temporary_beside
from blt.dataset.storage.local_places import version_at
from blt.dataset.storage.places import PlaceLike
from blt.dataset.storage.reading import errors_named, sha256_file
from blt.dataset.storage.store_place import Place, StorePlace, as_place
from blt.errors import UserError, WorkError

_COPY_BYTES = 4 << 20
_NUM_AHEAD = 16
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SCRATCH_PREFIX = "blt-scratch-"


class Publications:
    """What a block published: the version and size of each file, by place."""

    def __init__(self, may_publish: Callable[[], None]) -> None:
        self._may_publish = may_publish
        self.files: dict[str, tuple[int, str]] = {}

    def check(self) -> None:
        """Raises unless files may be published still."""
        self._may_publish()


_publications: contextvars.ContextVar[Publications | None] = contextvars.ContextVar(
    "publications", default=None
)


@contextlib.contextmanager
def noted_publications(may_publish: Callable[[], None]) -> Iterator[Publications]:
    """Notes what `atomic_path` and `write_json` publish in the block, in this thread.

    Args:
      may_publish: called right before each file takes its place; raises if it must not.
    """
    publications = Publications(may_publish)
    token = _publications.set(publications)
    try:
        yield publications
    finally:
        _publications.reset(token)


@contextlib.contextmanager
def atomic_path(place: PlaceLike, *, is_appended: bool = False) -> Iterator[Path]:
    """Yields a path here whose file takes its place when the block ends well.

    When the block raises, the file is removed and the place is as it was.

    Args:
      place: of the file.
      is_appended: the file is written from front to back, so that its upload to a store may begin
        before it is whole.

    Raises:
      WorkError: it cannot be written; names the place.
    """
    place = as_place(place)
    try:
        with _made(place, is_appended) as path:
            yield path
    except OSError as error:
        # Arrow's own words are long; the number says the same.
        local_reason = os.strerror(error.errno) if error.errno else error
        reason = error.strerror if isinstance(place, StorePlace) else local_reason
        hint = " Make room for it." if error.errno in _NO_ROOM else ""
        raise WorkError(f"{place}: cannot be written ({reason or error}).{hint}") from error


@contextlib.contextmanager
def _made(place: Place, is_appended: bool) -> Iterator[Path]:
    if isinstance(place, StorePlace):
        with _scratch_folder() as folder:
            path = folder / place.name
            following = FollowingUpload(str(place), path) if is_appended else None
            try:
                yield path
                if following is not None:
                    following.drain()
                check_publication()
                if following is not None and following.complete():
                    version = stores.stat(str(place)).version
                else:
                    version = stores.upload(str(place), path)
            finally:
                if following is not None:
                    following.stop()
            _note_publication(place, path.stat().st_size, version)
        return
    temporary = temporary_beside(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        size, version = temporary.stat().st_size, version_at(temporary)
        check_publication()
        os.replace(temporary, place)
        _note_publication(place, size, version)
    finally:
        with contextlib.suppress(OSError):  # its folder may be what could not be made
            temporary.unlink(missing_ok=True)


def check_publication() -> None:
    """Raises unless files may be published still; see `noted_publications`."""
    if (publications := _publications.get()) is not None:
        publications.check()


def _note_publication(place: Place, size: int, version: str) -> None:
    if (publications := _publications.get()) is not None:
        publications.files[str(place)] = size, version


@contextlib.contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Yields a new folder here, which is gone after the block; see `remove_scratch`."""
    folder = tempfile.mkdtemp(prefix=f"{_SCRATCH_PREFIX}{os.getpid()}-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_file(name: str) -> Iterator[Path]:
    """Yields a path here for a file of a name, which is gone after the block."""
    with _scratch_folder() as folder:
        yield folder / name


@contextlib.contextmanager
def fetched(place: PlaceLike, *, sha256: str | None = None) -> Iterator[Path]:
    """Yields a path here with the bytes of a file, for as long as the block runs.

    Of a place here that is the path itself; a file of a store is fetched into scratch. Errors of
    ours that the block raises name the place.

    Args:
      place: of the file.
      sha256: that its bytes must have; None if any will do.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it has another sha256.
      OSError: it cannot be read.
    """
    place = as_place(place)
    with contextlib.ExitStack() as resources:
        path, digest = place, None
        if isinstance(place, StorePlace):
            path = resources.enter_context(_scratch_folder()) / place.name
            with places.open_read(place) as source, open(path, "wb") as target:
                digest = hashlib.sha256()
                while block := source.read(_COPY_BYTES):
                    target.write(block)
                    digest.update(block)
            digest = digest.hexdigest()
        if sha256 is not None and (digest or sha256_file(path)) != sha256:
            raise UserError(
                f"{place}: its sha256 is not the manifest's; it was changed or damaged."
            )
        with errors_named(path, place):
            yield path


def fetch_all(files: Iterable[PlaceLike]) -> Iterator[Path]:
    """Yields a path here of each file, in order, until the next is asked for; see `fetched`.

    Some are fetched ahead.

    Raises:
      OSError: one is not there, or cannot be read.
    """

    def fetch(file: PlaceLike) -> tuple[contextlib.ExitStack, Path]:
        own = contextlib.ExitStack()
        return own, own.enter_context(fetched(file))

    with ThreadPoolExecutor(_NUM_AHEAD) as pool:
        waiting: collections.deque[Future[tuple[contextlib.ExitStack, Path]]] = collections.deque()
        try:
            for file in itertools.chain(files, itertools.repeat(None, _NUM_AHEAD)):
                if file is not None:
                    waiting.append(pool.submit(fetch, file))
                if waiting and (file is None or len(waiting) == _NUM_AHEAD):
                    own, path = waiting.popleft().result()
                    with own:
                        yield path
        finally:
            for future in waiting:
                with contextlib.suppress(OSError):
                    future.result()[0].close()


def remove_scratch() -> None:
    """Removes the scratch of processes of this user that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_PREFIX}*"):
        pid = folder.name.removeprefix(_SCRATCH_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid() and pid.isdecimal() and not _is_alive(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def json_bytes(value: Any) -> bytes:
    """Returns `value` as indented JSON with sorted keys."""
    return (json.dumps(value, sort_keys=True, indent=2) + "\n").encode("utf-8")


def write_json(place: PlaceLike, value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically.

    Raises:
      WorkError: it cannot be written; names the place.
    """
    place = as_place(place)
    data = json_bytes(value)
    if not isinstance(place, StorePlace):
        with atomic_path(place) as temporary:
            temporary.write_bytes(data)
        return
    try:
        check_publication()
        _note_publication(place, len(data), places.replace(place, data))
    except OSError as error:
        raise WorkError(f"{place}: cannot be written ({error.strerror or error}).") from error


def prepare_output_folder(folder: PlaceLike) -> Place:
    """Proves that a folder can be written to, as far as that leaves no trace.

    A folder here is made. Of one in a store it is seen that the bucket is there and may be listed.

    Raises:
      UserError: it exists as something else, or cannot be made, written to or asked.
    """
    folder = as_place(folder)
    try:
        if isinstance(folder, StorePlace):
            folder.is_dir()
            return folder
        probe = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-probe"
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        hint = "" if isinstance(folder, StorePlace) else " Choose a folder that you may write to."
        raise UserError(
            f"--output {folder}: cannot be written to ({error.strerror or error}).{hint}"
        ) from error
    return folder


def prepare_output_file(place: PlaceLike) -> Place:
    """Proves that a file can be made at a place, as `prepare_output_folder` does.

    Raises:
      UserError: the folder it lies in cannot be made or written to.
    """
    place = as_place(place)
    prepare_output_folder(place.parent)
    return place
