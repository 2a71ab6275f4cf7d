"""Shards of datasets as files here, for trainers, which read them again and again.

Of a dataset on this machine they are its own files. Those of one in a store are fetched into
scratch and checked; the next ones come while one is read, and few are kept.
"""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from blt.dataset.manifest import Manifest
from blt.dataset.several import Datasets, as_datasets, shares
from blt.dataset.storage import Place, errors_named, local_folder, place_errors, remove_scratch
from blt.errors import UserError

NUM_AHEAD = 2  # shards that are asked for while another is read
_NUM_KEPT = 8  # with those; what is needed again after more others is fetched again

_Record = TypeVar("_Record")


class ShardFeed:
    """Gives paths of shards; a context, after which those that were fetched are gone.

    Memory and scratch do not grow with the datasets. Several threads may use it.

    Args:
      data: the dataset, or several that are used together.

    Raises:
      UserError: a shard that a manifest lists is not there, or a store cannot be asked.

    Attributes:
      names: that the shards go by, those of all datasets in order.
      is_local: whether all paths are those of the datasets themselves.
      num_fetched: how many shards were fetched so far; one that came twice counts twice.
    """

    def __init__(self, data: Manifest | Datasets) -> None:
        self._data = as_datasets(data)
        self._folders = [member.folder for member in self._data.members]
        self._shards = {shard.name: shard for shard in self._data.numbered}
        self.names = tuple(self._shards)
        self.is_local = all(local_folder(folder) is not None for folder in self._folders)
        self.num_fetched = 0
        self._check_all_there()  # now: an epoch may come to it hours from now
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[str, Future[tuple[contextlib.ExitStack, Path]]]
        self._kept = collections.OrderedDict()  # the one that was asked for last stands last
        self._error: Exception | None = None
        self._is_closed = False
        if not self.is_local:
            remove_scratch()
            self._pool = ThreadPoolExecutor(NUM_AHEAD)

    def _check_all_there(self) -> None:
        for member in self._data.members:
            places = [member.shard_path(shard) for shard in member.shards]
            if local_folder(member.folder) is not None:
                missing = [place for place in places if not place.is_file()]
            else:
                with place_errors(member.folder):
                    there = {place.name for place in member.folder.iterdir()}
                missing = [place for place in places if place.name not in there]
            if missing:
                raise UserError(
                    f"{missing[0]}: missing, though the manifest lists it. Make the dataset again."
                )

    def __enter__(self) -> "ShardFeed":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Removes what was fetched.

        An error of a fetch is raised in place of what a library, in whose threads it came up, has
        made of it.
        """
        if not self.is_local:
            self._is_closed = True  # threads of a library may go on asking for a while
            self._pool.shutdown(cancel_futures=True)
            with self._lock:
                for future in self._kept.values():
                    _drop(future)
                self._kept.clear()
        if self._error is not None and isinstance(error, Exception) and error is not self._error:
            raise self._error from error

    def shared(self, total: int) -> list[tuple[list[str], int]]:
        """Returns, of each dataset, the names of its shards and how much of `total` it is due."""
        names: list[list[str]] = [[] for _ in self._folders]
        for shard in self._data.numbered:
            names[shard.dataset].append(shard.name)
        return list(zip(names, shares(total, self._data), strict=True))

    def _place(self, name: str) -> Place:
        shard = self._shards[name]
        return self._folders[shard.dataset] / shard.info.name

    def request(self, name: str) -> None:
        """Sees to it that a shard will be here; does not wait for it."""
        if not self._is_closed and local_folder(self._place(name)) is None:
            self._requested(name)

    def path(self, name: str) -> Path:
        """Returns the path of a shard, which stays until `_NUM_KEPT` others are asked for.

        Raises:
          UserError: it is missing, or not what the manifest says.
        """
        if (own := local_folder(self._place(name))) is not None:
            return own
        try:
            return self._requested(name).result()[1]
        except Exception as error:
            self._error = error
            raise

    def _requested(self, name: str) -> Future[tuple[contextlib.ExitStack, Path]]:
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._pool.submit(self._fetch, name)
            self._kept.move_to_end(name)
            while len(self._kept) > _NUM_KEPT:
                _drop(self._kept.popitem(last=False)[1])
            return self._kept[name]

    def _fetch(self, name: str) -> tuple[contextlib.ExitStack, Path]:
        own = contextlib.ExitStack()
        path = own.enter_context(self._shards[name].fetched(self._folders))
        with self._lock:
            self.num_fetched += 1
        return own, path

    def read(
        self,
        names: Sequence[str],
        reader: Callable[[Path], Iterator[_Record]],
        *,
        then: Sequence[str] = (),
    ) -> Iterator[_Record]:
        """Yields what a reader of files yields, shard by shard.

        The next shards are fetched while one is read. Errors of ours name the shard by its place in
        its dataset.

        Args:
          names: of the shards, in order.
          reader: of a file.
          then: names of those that will be read after them.
        """
        order = [*names, *then]
        for index, name in enumerate(names):
            for coming in order[index : index + 1 + NUM_AHEAD]:
                self.request(coming)
            yield from self._read_one(name, reader)

    def _read_one(
        self, name: str, reader: Callable[[Path], Iterator[_Record]]
    ) -> Iterator[_Record]:
        path = self.path(name)
        try:
            with errors_named(path, self._place(name)):
                yield from reader(path)
        except Exception as error:
            self._error = error
            raise


def _drop(future: Future[tuple[contextlib.ExitStack, Path]]) -> None:
    """Removes a shard that was fetched, or is being fetched."""
    if not future.cancel():
        future.add_done_callback(_close)


def _close(future: Future[tuple[contextlib.ExitStack, Path]]) -> None:
    if future.exception() is None:
        future.result()[0].close()
