"""A place in a store: a URL with the methods of `pathlib.Path` that places here are asked for."""

import dataclasses
import errno
import fnmatch
from collections.abc import Iterator
from pathlib import Path

from blt.dataset.storage import stores
from blt.dataset.storage.store_client import check_scheme
from blt.dataset.storage.stored import is_remote


@dataclasses.dataclass(frozen=True, order=True, slots=True, repr=False)
class StorePlace:
    """A URL, `scheme://bucket/key`; `as_place` makes it.

    It names a file or a folder, which is what lies below it. What asks the store raises OSError, as
    the functions of `blt.dataset.storage` do. It is no `os.PathLike`: what opens files by path
    takes `storage.open_read`, `storage.atomic_path` or `storage.local_copy`.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"StorePlace({self.url!r})"

    def __truediv__(self, name: str) -> "StorePlace":
        return StorePlace(f"{self.url}/{str(name).strip('/')}")

    @property
    def bucket(self) -> "StorePlace":
        return StorePlace("/".join(self.url.split("/")[:3]))

    @property
    def name(self) -> str:
        """The last part; of a bucket, the bucket's."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def parent(self) -> "StorePlace":
        """What it lies in; of a bucket, the bucket."""
        return self if self == self.bucket else StorePlace(self.url.rpartition("/")[0])

    @property
    def parents(self) -> "tuple[StorePlace, ...]":
        return () if self == self.bucket else (self.parent, *self.parent.parents)

    def with_name(self, name: str) -> "StorePlace":
        return self.parent / name

    def with_suffix(self, suffix: str) -> "StorePlace":
        return self.with_name(self.stem + suffix)

    def is_relative_to(self, other: object) -> bool:
        return self == other or other in self.parents

    def resolve(self) -> "StorePlace":
        return self

    absolute = resolve

    def is_file(self) -> bool:
        try:
            stores.stat(self.url)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Tells whether anything lies below it."""
        return stores.holds_any(self.url)

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> "Iterator[StorePlace]":
        """Yields the files and folders right in it, in order of their names."""
        for name in sorted(stores.names_in(self.url)):
            yield self / name

    def glob(self, pattern: str) -> "Iterator[StorePlace]":
        """Yields what a pattern of names means: parts with `*`, `?` and `[ab]`, but no `**`."""
        head, _, rest = pattern.partition("/")
        for place in self.iterdir():
            if fnmatch.fnmatchcase(place.name, head):
                if rest:
                    yield from place.glob(rest)
                else:
                    yield place

    def read_bytes(self) -> bytes:
        return stores.read_whole(self.url)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok:
            stores.stat(self.url)
        stores.delete(self.url)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder of a store needs no making."""


Place = Path | StorePlace


def check_url(url: str) -> StorePlace:
    """Returns the place of a URL that may be used.

    Raises:
      OSError: its scheme is none that is taken, what reads it is not installed, or no bucket is in
        it.
    """
    check_scheme(url)
    place = as_place(url)
    if not place.url.partition("://")[2]:
        raise OSError(errno.EINVAL, "names no bucket", url)
    return place


def as_place(text: object) -> Place:
    """Returns the place that a path or a URL names; a place is returned as it is."""
    if isinstance(text, StorePlace | Path):
        return text
    if is_remote(str(text)):
        scheme, _, rest = str(text).partition("://")
        return StorePlace(f"{scheme.lower()}://{rest.rstrip('/')}")
    return Path(text)
