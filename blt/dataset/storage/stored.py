"""What both kinds of places speak of: a file as it was seen, and what came of it since."""

import dataclasses
import errno
import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


class ChangedError(OSError):
    """A file is no longer the version that was asked for."""


def changed(place: str) -> ChangedError:
    """Makes the error for a place."""
    return ChangedError(errno.ESTALE, "was changed by someone else meanwhile", place)


@dataclasses.dataclass(frozen=True, slots=True)
class StoredFile:
    """A file at a place, as it was seen.

    Attributes:
      path: its whole path or URL.
      size: in bytes.
      mtime_ns: when it was last changed; of a store in whole seconds, since more is not told
        everywhere.
      version: another one once the file is replaced by other bytes; of a store, its etag.
    """

    path: str
    size: int
    mtime_ns: int
    version: str


def is_remote(path: object) -> bool:
    """Tells whether a path is a URL: begins with a scheme."""
    return _SCHEME.match(str(path)) is not None


def scheme_of(url: str) -> str:
    """Returns the scheme of a URL, in small letters."""
    return _SCHEME.match(url)[1].lower()
