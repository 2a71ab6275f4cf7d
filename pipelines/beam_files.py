"""Inputs on any filesystem that Beam knows (`gs://`, `s3://`, `hdfs://`, …), for `blt.corpus`."""

import contextlib
import errno
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from blt.corpus.files.filesystems import StoredFile


class BeamFiles:
    """Beam's filesystems, chosen by the scheme of a path; see `blt.corpus.files.filesystems`."""

    def find(self, argument: str) -> Sequence[StoredFile]:
        """Returns the file, all files below the folder, or what the glob means; or none."""
        from apache_beam.io.filesystems import FileSystems

        argument = argument.rstrip("/")  # to which Beam would add "*", which does not go down
        with _as_os_errors(argument):
            found = FileSystems.match([argument])[0].metadata_list
            if not found:
                found = FileSystems.match([argument + "/**"])[0].metadata_list
        # Stores have empty objects that stand for folders.
        return [_stored(metadata) for metadata in found if not metadata.path.endswith("/")]

    def stat(self, path: str) -> StoredFile:
        """Returns the file at a path."""
        from apache_beam.io.filesystems import FileSystems

        with _as_os_errors(path):
            store = FileSystems.get_filesystem(path)
            if not store.exists(path):
                raise FileNotFoundError(errno.ENOENT, "No such file", path)
            return _stored(store.metadata(path))

    def open(self, path: str) -> BinaryIO:
        """Opens a file as it is stored; Beam would decompress by the suffix."""
        from apache_beam.io.filesystem import CompressionTypes
        from apache_beam.io.filesystems import FileSystems

        with _as_os_errors(path):
            return _File(
                FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED), path
            )


class _File:
    """An open file, whose failures are OSErrors."""

    def __init__(self, handle: BinaryIO, path: str) -> None:
        self._handle, self._path = handle, path

    def read(self, size: int) -> bytes:
        with _as_os_errors(self._path):
            return self._handle.read(size)

    def seek(self, offset: int) -> int:
        with _as_os_errors(self._path):
            return self._handle.seek(offset)

    def close(self) -> None:
        with contextlib.suppress(Exception):  # it was only read
            self._handle.close()


def _stored(metadata: "FileMetadata") -> StoredFile:  # noqa: F821 (Beam's)
    seconds = metadata.last_updated_in_seconds or 0
    return StoredFile(metadata.path, metadata.size_in_bytes, round(seconds * 10**9))


@contextlib.contextmanager
def _as_os_errors(path: str) -> Iterator[None]:
    """Raises what the libraries of the stores raise, which is anything, as OSError."""
    try:
        yield
    except OSError:
        raise
    except ValueError as error:  # no filesystem for the scheme: asking again does not help
        raise OSError(errno.ENOTSUP, str(error)) from error
    except Exception as error:
        details = getattr(error, "exception_details", None)
        reason = next(iter(details.values())) if details else error
        raise OSError(errno.EIO, f"{type(reason).__name__}: {reason}", path) from error
