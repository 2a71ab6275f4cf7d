"""How far units are, for the progress line: what is done, and what is at work in this process."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable

from blt.dataset.units import Unit


class _BytesDone:
    """How much the units at work in this process have done; read by the progress line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_unit: dict[tuple[str, int], int] = {}

    def add(self, unit: Unit, num_bytes: int, step: str) -> None:
        with self._lock:
            done = self._by_unit.get((step, unit.index), 0) + num_bytes
            self._by_unit[step, unit.index] = min(done, unit.num_bytes)

    def of_units(self, indices: Iterable[int], step: str) -> int:
        with self._lock:
            return sum(self._by_unit.get((step, index), 0) for index in indices)

    def forget(self, step: str) -> None:
        """Forgets what an earlier run in this process did."""
        with self._lock:
            self._by_unit = {key: done for key, done in self._by_unit.items() if key[0] != step}


_BYTES_DONE = _BytesDone()
_LONG_SECONDS = 0.1  # a look that takes longer is followed by a pause
_LOOK_SHARE = 20  # times as long, so that little time goes into looking
WORK = "work"  # the step of units themselves


def count_done(
    units: Iterable[Unit], read_done_indices: Callable[[], set[int]], step: str
) -> Callable[[], int]:
    """Returns a function that tells how many bytes of some units are done.

    Args:
      units: those to do.
      read_done_indices: tells, from files, which units are done, wherever that was. It is asked
        seldom where it takes long.
      step: what is done, as in `report_progress`, which tells of units at work in this process.
    """
    left = {unit.index: unit for unit in units}
    done_bytes = 0
    next_look = 0.0
    _BYTES_DONE.forget(step)

    def read_done() -> int:
        nonlocal done_bytes, next_look
        start = time.monotonic()
        if start >= next_look:
            with contextlib.suppress(OSError):
                for index in left.keys() & read_done_indices():
                    done_bytes += left.pop(index).num_bytes
            took = time.monotonic() - start
            next_look = start + took * _LOOK_SHARE if took > _LONG_SECONDS else start
        return done_bytes + _BYTES_DONE.of_units(left, step)

    return read_done


def report_progress(unit: Unit, num_bytes: int, step: str = WORK) -> None:
    """Notes that `num_bytes` more of a unit are done, for the progress line of this process."""
    _BYTES_DONE.add(unit, num_bytes, step)
