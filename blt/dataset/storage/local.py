"""Files as the stages need them: written whole or not at all, and known by their content.

A file is written under a temporary name in its own folder and renamed, so that a reader never sees
half of one. Temporary names start with `.tmp-`; what a killed run left is swept by the next run.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blt.errors import UserError, WorkError

TEMPORARY_PREFIX = ".tmp-"
_COPY_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary_beside(path: str | os.PathLike[str]) -> Path:
    """Returns a new temporary name for what shall be called `path`."""
    path = Path(path)
    # The suffix stays last: some writers choose a compression by it.
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{path.name}")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its name when the block ends well.

    The file is flushed to disk before the rename. When the block raises, the temporary file is
    removed and `path` is as it was.
    """
    path, temporary = Path(path), temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # Arrow's own words are long; the number says the same.
        reason = os.strerror(error.errno) if error.errno else error
        hint = " Make room for it." if error.errno in _NO_ROOM else ""
        raise WorkError(f"{path}: cannot be written ({reason}).{hint}") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be what could not be made
            temporary.unlink(missing_ok=True)


def remove_temporaries(folder: str | os.PathLike[str]) -> int:
    """Removes what killed runs left in `folder` and below; returns the number of files."""
    left = [path for path in Path(folder).rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def prepare_output_folder(folder: str | os.PathLike[str]) -> Path:
    """Makes `folder` and proves that it can be written to.

    Raises:
      UserError: it exists as something else, or cannot be made or written to.
    """
    folder = Path(folder)
    probe = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--output {folder}: cannot be written to ({error.strerror or error}). "
            "Choose a folder that you may write to."
        ) from error
    return folder


@contextlib.contextmanager
def sole_use(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other runs on this machine out of `folder` while the block runs.

    The lock is the system's, so that it goes with the process, however that ends. Filesystems
    without locks have none.

    Raises:
      UserError: another run has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"--output {folder}: another run is at work there. Wait for it, or choose another "
            "folder."
        ) from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def prepare_output_file(path: str | os.PathLike[str]) -> Path:
    """Proves that a file can be made at `path`.

    Raises:
      UserError: the folder it lies in cannot be made or written to.
    """
    path = Path(path)
    prepare_output_folder(path.parent)
    return path


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Returns the sha256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_COPY_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Returns the sha256 of a value's canonical JSON (sorted keys, no blanks, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, sort_keys=True, indent=2) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: it is missing, unreadable or not JSON; the message names it.
    """
    with json_errors(path):
        return json.loads(Path(path).read_bytes())


@contextlib.contextmanager
def json_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises what goes wrong with reading a JSON file as an error that names it.

    Raises:
      UserError: it is missing, unreadable or not JSON.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error}).") from error
