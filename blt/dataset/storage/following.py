"""Uploads a file while it is being written, from front to back."""

import threading
from pathlib import Path

from blt.dataset.storage import stores

_START_BYTES = 10 << 20  # a smaller file is uploaded once it is whole, in one request
_BLOCK_BYTES = 1 << 20
_PAUSE_SECONDS = 0.05


class _Stopped(Exception):
    """The file is not to be published."""


class FollowingUpload:
    """An upload that follows a growing file, in a thread of its own.

    Nothing is to be seen of it before `complete`. It is a shortcut: where it fails, whoever wrote
    the file still has it.

    Args:
      place: a URL.
      path: the file, which is only ever appended to.
    """

    def __init__(self, place: str, path: Path) -> None:
        self._place, self._path = place, path
        self._is_written = threading.Event()
        self._is_drained = threading.Event()
        self._may_complete: bool | None = None
        self._decided = threading.Event()
        self._is_complete = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Waits until all of the file is on its way; nothing is appended any more."""
        self._is_written.set()
        self._is_drained.wait()

    def complete(self) -> bool:
        """Publishes the file; returns whether that was done. After `drain`."""
        self._end(may_complete=True)
        return self._is_complete

    def stop(self) -> None:
        """Gives the upload up."""
        self._end(may_complete=False)

    def _end(self, *, may_complete: bool) -> None:
        if self._may_complete is None:
            self._may_complete = may_complete
        self._is_written.set()
        self._decided.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._wait_for_size():
                with stores.open_write(self._place) as sink:
                    with open(self._path, "rb") as file:
                        while True:
                            is_last = self._is_written.is_set()  # before it is read
                            while block := file.read(_BLOCK_BYTES):
                                sink.write(block)
                            if is_last:
                                break
                            self._is_written.wait(_PAUSE_SECONDS)
                    self._is_drained.set()
                    self._decided.wait()
                    if not self._may_complete:
                        raise _Stopped
                self._is_complete = True
        except (OSError, _Stopped):
            pass
        finally:
            self._is_drained.set()

    def _wait_for_size(self) -> bool:
        """Returns whether the file has become large enough to begin with, while it is written."""
        while not self._is_written.wait(_PAUSE_SECONDS):
            if self._path.exists() and self._path.stat().st_size >= _START_BYTES:
                return True
        return False
