"""Entropies whose context ends at newlines; a line that comes again is looked at once.

The newline closes its line, and the next line starts from BOS: what is said about a byte depends on
the bytes of its own line alone. So an engine of whole documents does the work: every line is a
document to it, `BOS bytes newline`, and a document's result is put together again from its lines'.

    BOS a b \\n c d \\n EOS    ->    BOS a b \\n    BOS c d \\n    BOS EOS

Equal lines have equal results. A memo holds those of the lines last seen, within a bound, by the
lines themselves: a hash table that keeps its keys, so no two lines are ever taken for one. A line
that comes again before its result is back waits for that result. What the memo holds shows in no
result.
"""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from blt.engine.results import DocumentEntropies, Engine
from blt.engine.stream import MAX_TOKENS_IN_FLIGHT
from blt.tokenizer import BOS_ID, EOS_ID, NEWLINE_ID

MEMO_BYTES = 64 << 20
# Longer lines are not looked up: few of them come again, and they would push many others out.
MAX_MEMO_TOKENS = 512
_LINE_BYTES = 448  # what an entry of the memo takes besides its 10 bytes a token
_LINES_AT_A_TIME = 4096


class _Line:
    """A line, or a piece of one; its results as the bytes of float32 arrays, once they are there.

    `skip` is what the engine says about BOS in front of it, which is no part of the document.
    """

    __slots__ = ("entropies", "skip", "stays", "token_nats")

    def __init__(self, skip: int, *, stays: bool = False) -> None:
        self.skip = skip
        self.stays = stays
        self.entropies = self.token_nats = b""

    def take(self, result: DocumentEntropies) -> None:
        self.entropies = result.entropies[self.skip :]
        self.token_nats = result.token_nats[self.skip :]
        if self.stays:  # a copy: the engine's array may hold much else
            self.entropies, self.token_nats = self.entropies.tobytes(), self.token_nats.tobytes()


_Piece = tuple[_Line, np.ndarray, bool]  # what an engine takes: key, tokens, is_continuation


class _Part:
    """A part in flight: its lines, and how many were sent when the last of them had been."""

    def __init__(self, key: Any, num_tokens: int) -> None:
        self.key = key
        self.num_tokens = num_tokens
        self.lines: list[_Line] = []
        self.num_sent: int | None = None  # until all of it is read

    def result(self) -> DocumentEntropies:
        entropies, token_nats = (
            np.frombuffer(bytearray().join(values), np.float32)
            for values in (
                [line.entropies for line in self.lines],
                [line.token_nats for line in self.lines],
            )
        )
        return DocumentEntropies(self.key, entropies, token_nats)


class _Memo:
    """The lines last seen, by their tokens, as many as the bound lets stay."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self.num_lines = self.num_hits = 0
        self._lines: collections.OrderedDict[bytes, _Line] = collections.OrderedDict()

    def find(self, keys: list[bytes]) -> tuple[list[_Line], list[int]]:
        """Returns the line of each key, and the places of those that are new."""
        lines: list[_Line] = []
        new: list[int] = []
        known = self._lines
        for place, key in enumerate(keys):
            line = known.get(key)
            if line is None:
                line = _Line(1, stays=True)
                new.append(place)
                known[key] = line
                self.num_bytes += _size(key)
                if self.num_bytes > self.most_bytes:
                    self._forget()
            else:
                known.move_to_end(key)
            lines.append(line)
        self.num_lines += len(keys)
        self.num_hits += len(keys) - len(new)
        return lines, new

    def _forget(self) -> None:
        while self.num_bytes > self.most_bytes:
            key, _ = self._lines.popitem(last=False)
            self.num_bytes -= _size(key)


def _size(key: bytes) -> int:
    """Bytes that an entry takes: a key of uint16, and two float32 for each of its tokens."""
    return _LINE_BYTES + 5 * len(key)


class LineEngine:
    """Runs another engine line by line.

    The first byte of a line has the entropy that it has after BOS, and EOS after a newline too. The
    entropy of BOS, or of whatever a document begins with, is 0 as ever. Each line but the first
    costs the engine a token more than it has, its BOS.

    A run has a memo of its own, so that neither other runs nor threads show in what it costs.

    Args:
      engine: does the work.
      memo_bytes: the most that the memo may hold; 0 for none.
    """

    def __init__(self, engine: Engine, *, memo_bytes: int = MEMO_BYTES) -> None:
        self._engine = engine
        self._memo_bytes = memo_bytes
        self.fingerprint = engine.fingerprint
        self.precision = engine.precision
        self.context = {
            **engine.context,
            "context": f"{engine.context['context']}; from BOS anew after every newline",
        }

    def run(
        self, parts: Iterable[tuple], counters: collections.Counter | None = None
    ) -> Iterator[DocumentEntropies]:
        """Yields the result of each document, in the order they came; see `blt.engine.Engine`.

        Args:
          parts: as there.
          counters: as there, and besides: `memo_lines` that were looked up in the memo, and
            `memo_hits`, those of them that the engine did not have to look at.
        """
        run = _Run(parts, self._memo_bytes)
        while not run.is_read:
            for result in self._engine.run(run.round(), counters):
                run.take(result)
                yield from run.complete()
            yield from run.complete()
        if counters is not None:
            counters["memo_lines"] += run.memo.num_lines
            counters["memo_hits"] += run.memo.num_hits


class _Run:
    """What is in flight between the documents and the engine."""

    def __init__(self, parts: Iterable[tuple], memo_bytes: int) -> None:
        self.memo = _Memo(memo_bytes)
        self.is_read = False
        self._steps = self._read(parts)
        self._parts: collections.deque[_Part] = collections.deque()
        self._tokens_in_flight = 0
        self._num_sent = self._num_taken = 0

    def round(self) -> Iterator[_Piece]:
        """Yields what the engine has to look at, until too much waits, or there is no more.

        Lines that are known go by without a result, so an engine that waits for more of them would
        let any number of documents in. Where a round ends, all that waits is handed back.
        """
        for piece in self._steps:
            if piece is not None:
                self._num_sent += 1
                yield piece
            elif self._tokens_in_flight >= MAX_TOKENS_IN_FLIGHT:
                return
        self.is_read = True

    def take(self, result: DocumentEntropies) -> None:
        result.key.take(result)
        self._num_taken += 1

    def complete(self) -> Iterator[DocumentEntropies]:
        """Yields the parts that wait for nothing, in order."""
        while self._parts:
            part = self._parts[0]
            if part.num_sent is None or part.num_sent > self._num_taken:
                return
            self._parts.popleft()
            self._tokens_in_flight -= part.num_tokens
            yield part.result()

    def _read(self, parts: Iterable[tuple]) -> Iterator[_Piece | None]:
        """Yields what has to be looked at, in order; None where a round may end."""
        is_open = False  # whether the last piece is of a line that may go on
        for key, tokens, *rest in parts:
            is_continuation = bool(rest and rest[0])
            is_open = is_open and is_continuation
            if not is_open:
                yield None
            tokens = np.asarray(tokens).astype(np.uint16, copy=False)
            part = _Part(key, len(tokens))
            self._parts.append(part)
            self._tokens_in_flight += len(tokens)
            ends = np.flatnonzero(tokens == NEWLINE_ID) + 1
            start = 0
            if len(tokens) and not is_continuation and tokens[0] == BOS_ID:
                part.lines.append(_BOS)
                start = 1
            # What goes on with a line, or begins without BOS, is sent as it is, up to its newline.
            elif len(tokens) and (is_open or not is_continuation):
                start = int(ends[0]) if len(ends) else len(tokens)
                ends = ends[1:]
                line = _Line(0)
                part.lines.append(line)
                yield line, tokens[:start], is_open
                is_open = not _closes_line(tokens[start - 1])
                if not is_open:
                    yield None
            if start < len(tokens):
                yield from self._read_lines(part, tokens, start, ends)
                is_open = not _closes_line(tokens[-1])
            part.num_sent = self._num_sent

    def _read_lines(
        self, part: _Part, tokens: np.ndarray, start: int, ends: np.ndarray
    ) -> Iterator[_Piece]:
        """Yields the lines from `start` on that are not known; each begins from BOS.

        Args:
          part: gets the lines.
          tokens: [num_tokens] uint16 of the part.
          start: where the first line begins; before the end of the part.
          ends: [num_newlines] int64, where the lines end.
        """
        if not len(ends) or ends[-1] < len(tokens):
            ends = np.append(ends, len(tokens))
        starts = np.append(start, ends[:-1])
        may_stay = ends - starts <= MAX_MEMO_TOKENS
        may_stay[-1] &= _closes_line(tokens[-1])
        for first in range(0, len(ends), _LINES_AT_A_TIME):
            here = slice(first, first + _LINES_AT_A_TIME)
            yield from self._read_some(part, tokens, starts[here], ends[here], may_stay[here])

    def _read_some(
        self,
        part: _Part,
        tokens: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        may_stay: np.ndarray,
    ) -> Iterator[_Piece]:
        base = int(starts[0])
        tokens = tokens[base : ends[-1]]
        starts, ends = starts - base, ends - base
        raw = tokens.tobytes()
        keys = [
            raw[begin:end]
            for begin, end in zip(
                (2 * starts[may_stay]).tolist(), (2 * ends[may_stay]).tolist(), strict=True
            )
        ]
        lines, new = self.memo.find(keys)
        is_new = ~may_stay
        is_new[np.flatnonzero(may_stay)[new]] = True
        for place in np.flatnonzero(~may_stay).tolist():
            lines.insert(place, _Line(1))
        part.lines += lines
        places = np.flatnonzero(is_new)
        if not len(places):
            return
        framed = np.insert(tokens, starts, BOS_ID)  # line i is shifted by its own BOS and i others
        bounds = zip(
            places.tolist(),
            (starts[places] + places).tolist(),
            (ends[places] + places + 1).tolist(),
            strict=True,
        )
        for place, begin, end in bounds:
            yield lines[place], framed[begin:end], False


def _closes_line(token: Any) -> bool:
    return token in (NEWLINE_ID, EOS_ID)


_BOS = _Line(0)
_BOS.entropies = _BOS.token_nats = bytes(4)  # a zero
