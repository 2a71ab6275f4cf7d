"""What the user sees while work goes on: lines and progress, on standard error."""

import contextlib
import dataclasses
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from blt.dataset.units import Progress

_TERMINAL_INTERVAL_SEC = 0.2
_LOG_INTERVAL_SEC = 5.0


class Console:
    """Writes lines, and one live line of progress, to standard error.

    On a terminal the progress line is rewritten in place; elsewhere (a file, a pipe) it becomes a
    plain line every few seconds.
    """

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self.stream = stream or _own_stderr()
        self.verbose = verbose
        self.is_terminal = self.stream.isatty()
        self._lock = threading.Lock()
        self._live = ""

    def say(self, line: str) -> None:
        """Writes a line."""
        with self._lock:
            self._clear()
            self.stream.write(f"{line}\n")
            self.stream.flush()

    def show(self, line: str) -> None:
        """Shows a line of progress in place of the last one (a terminal), or as a line."""
        if not self.is_terminal:
            self.say(line)
            return
        with self._lock:
            self._clear()
            self._live = line[:119]
            self.stream.write(self._live)
            self.stream.flush()

    def _clear(self) -> None:
        if self._live:
            self.stream.write("\r" + " " * len(self._live) + "\r")
            self._live = ""

    @contextlib.contextmanager
    def progress(
        self, label: str, total: int | None = None, noun: str | None = None
    ) -> Iterator[Progress]:
        """Shows the progress of its block, which tells of it by what this yields; see `Phase`."""
        done = 0

        def add(number: int) -> None:
            nonlocal done
            done += number

        with ProgressLine(self, [Phase(label, lambda: done, total, noun)]):
            yield add

    def end_progress(self) -> None:
        with self._lock:
            self._clear()
            self.stream.flush()


def printable(text: str) -> str:
    """Returns `text` as one line that no terminal obeys: control characters are written out.

    >>> printable("a\\nb\\x1b[31m")
    'a\\\\nb\\\\x1b[31m'
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if 0xDC80 <= ord(char) < 0xDD00:  # a byte of a path that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def _own_stderr() -> TextIO:
    """Standard error under a descriptor of our own, which silencing others leaves alone."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace")
    except (OSError, ValueError, AttributeError):  # replaced (tests, notebooks) or closed
        return sys.stderr or io.StringIO()


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of some work that has a progress of its own.

    Attributes:
      label: what is being done.
      read_done: returns how much is done, of `total`; called from another thread.
      total: all of the phase, which ends when that is done; None if it is not known.
      noun: what is counted, such as "file"; None for bytes.
    """

    label: str
    read_done: Callable[[], int]
    total: int | None = None
    noun: str | None = None


class ProgressLine:
    """Shows how far some work is, from a thread of its own, while its block runs.

    Args:
      console: where to.
      phases: of the work, one after the other.
    """

    def __init__(self, console: Console, phases: Sequence[Phase]) -> None:
        self._console = console
        self._phases = list(phases)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProgressLine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._console.end_progress()

    def _watch(self) -> None:
        interval = _TERMINAL_INTERVAL_SEC if self._console.is_terminal else _LOG_INTERVAL_SEC
        start = last = time.monotonic()
        while not self._stop.wait(interval):
            done = self._phases[0].read_done()
            while len(self._phases) > 1 and done >= (self._phases[0].total or 0):
                del self._phases[0]
                start, done = last, self._phases[0].read_done()
            phase, last = self._phases[0], time.monotonic()
            self._console.show(
                progress_text(phase.label, done, phase.total, last - start, phase.noun)
            )


def progress_text(
    label: str, done: int, total: int | None, elapsed_sec: float, noun: str | None = None
) -> str:
    """Returns a line such as "patch: 42%, 1.2 MB of 2.9 MB, 98.0 KB/s, 17 s left".

    Args:
      label: what is being done.
      done: how much of it is done.
      total: how much there is; None if it is not known.
      elapsed_sec: the time that it took.
      noun: what is counted; None for bytes.
    """
    if total is None:
        shown = count(done, noun) if noun else format_bytes(done)
        return f"{label}: {shown}, {format_seconds(elapsed_sec)} so far"
    done = min(done, total)
    share = done / total if total else 1.0
    shown = (
        f"{done:,} of {count(total, noun)}"
        if noun
        else f"{format_bytes(done)} of {format_bytes(total)}"
    )
    text = f"{label}: {share:.0%}, {shown}"
    if done and elapsed_sec > 0:
        rate = done / elapsed_sec
        shown = f"{rate:,.0f}" if noun else format_bytes(rate)
        return f"{text}, {shown}/s, {format_seconds((total - done) / rate)} left"
    return f"{text}, {format_seconds(elapsed_sec)} so far" if elapsed_sec >= 1 else text


def count(number: int, noun: str, nouns: str | None = None) -> str:
    """Returns a number with its noun: "1 document", "2,470 documents".

    Args:
      nouns: of several, where no "s" makes it.
    """
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def format_bytes(num_bytes: float) -> str:
    """Returns a size for people, in decimal units: "1.7 MB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def format_seconds(seconds: float) -> str:
    """Returns a time for people: "48 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
