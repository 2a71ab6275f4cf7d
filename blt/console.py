"""What the user sees while work goes on: lines and progress, on standard error."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

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


class ProgressLine:
    """Shows how far some bytes of work are, from a thread of its own, while its block runs.

    Args:
      console: where to.
      label: what is being done.
      total_bytes: all of the work.
      read_done_bytes: returns how much is done; called from the thread.
    """

    def __init__(
        self, console: Console, label: str, total_bytes: int, read_done_bytes: Callable[[], int]
    ) -> None:
        self._console = console
        self._label = label
        self._total = total_bytes
        self._read = read_done_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProgressLine":
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._console.end_progress()

    def _watch(self) -> None:
        interval = _TERMINAL_INTERVAL_SEC if self._console.is_terminal else _LOG_INTERVAL_SEC
        while not self._stop.wait(interval):
            done = min(self._read(), self._total)
            self._console.show(
                progress_text(self._label, done, self._total, time.monotonic() - self._start)
            )


def progress_text(label: str, done: int, total: int, elapsed_sec: float) -> str:
    """Returns a line such as "patch: 42 %, 1.2 of 2.9 MB, 98 KB/s, 17 s left"."""
    share = done / total if total else 1.0
    text = f"{label}: {share:.0%}, {format_bytes(done)} of {format_bytes(total)}"
    if done and elapsed_sec > 0:
        rate = done / elapsed_sec
        text += f", {format_bytes(rate)}/s, {format_seconds((total - done) / rate)} left"
    return text


def count(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 document", "2,470 documents"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


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
