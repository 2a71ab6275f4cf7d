"""A stream of documents through an entropy model, a fixed number of tokens at a time.

A stream has a fixed number of *lanes*. A lane is documents laid end to end; every step takes the
next `row_length` tokens of each lane and goes on where the step before ended, with the keys and
values of the model's window carried along:

    step        1              2              3
    lane 0   a a a a a a a a  a a a b b b b b  b b d d d d d .
    lane 1   c c c c e e e e  e e e e e e f f  f f f f f . . .

So one program of one shape does all the work, a document of any length is continued exactly, and
there is padding only when documents run out. Documents never see one another (segment ids).
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from blt.engine.results import DocumentEntropies
from blt.tokenizer import PAD_ID

# Tokens that may be read and not yet handed back, so that memory does not follow the input. Each
# takes 10 bytes. A document longer than this has its lane to itself at the end.
MAX_TOKENS_IN_FLIGHT = 4 << 20
_MAX_SEGMENT = 1 << 30

# A step: (tokens, segment_ids, state) -> (results [2, lanes, row_length], state). What it returns
# need not be there yet; `read` waits for it.
Step = Callable[[np.ndarray, np.ndarray, Any], tuple[Any, Any]]


class Part:
    """A document, or a part of one, in flight: its tokens, and how many are taken and done."""

    def __init__(self, key: Any, tokens: np.ndarray, is_continuation: bool = False) -> None:
        self.tokens = tokens
        self.is_continuation = is_continuation
        self.taken = self.done = 0
        self.result = DocumentEntropies(
            key, np.empty(len(tokens), np.float32), np.empty(len(tokens), np.float32)
        )


class _Lane:
    """The documents that wait for one lane."""

    def __init__(self) -> None:
        self.parts: collections.deque[Part] = collections.deque()
        self.waiting = 0  # tokens
        self.dealt = 0  # tokens, ever
        self.segment = 0

    def append(self, part: Part) -> None:
        self.parts.append(part)
        self.waiting += len(part.tokens)
        self.dealt += len(part.tokens)

    def fill(
        self, tokens: np.ndarray, segment_ids: np.ndarray
    ) -> Iterator[tuple[Part, int, int, int]]:
        """Fills a row; yields (part, its first token here, column, number of tokens)."""
        column = 0
        while self.parts and column < len(tokens):
            part = self.parts[0]
            if part.taken == 0 and not part.is_continuation:
                self.segment = self.segment % _MAX_SEGMENT + 1
            count = min(len(tokens) - column, len(part.tokens) - part.taken)
            tokens[column : column + count] = part.tokens[part.taken : part.taken + count]
            segment_ids[column : column + count] = self.segment
            yield part, part.taken, column, count
            part.taken += count
            column += count
            self.waiting -= count
            if part.taken == len(part.tokens):
                self.parts.popleft()


def run_stream(
    parts: Iterable[Part],
    *,
    lanes: int,
    row_length: int,
    step: Step,
    read: Callable[[Any], np.ndarray],
    state: Any,
    counters: collections.Counter,
) -> Iterator[DocumentEntropies]:
    """Yields the result of each part, in the order they came.

    Two steps are under way at a time, so that packing the next rows and reading the last results
    are done while the device computes.

    Args:
      parts: of documents; the first part of the stream is no continuation.
      lanes, row_length: the shape of every step.
      step: runs the model.
      read: waits for what a step gave.
      state: of `lanes` lanes in which nothing was seen.
      counters: `tokens` and `padding` are added to it.
    """
    source = iter(parts)
    upcoming = next(source, None)
    queues = [_Lane() for _ in range(lanes)]
    last_lane = queues[0]
    in_flight: collections.deque[Part] = collections.deque()
    tokens_in_flight = 0
    under_way: tuple[list, Any] | None = None
    while upcoming is not None or in_flight:
        while upcoming is not None:
            # A lane must not run dry inside a document: padding would move its positions.
            must = upcoming.is_continuation and last_lane.waiting < row_length
            may = tokens_in_flight < MAX_TOKENS_IN_FLIGHT and any(
                lane.waiting < row_length for lane in queues
            )
            if not must and not may:
                break
            if not upcoming.is_continuation:
                last_lane = min(queues, key=lambda lane: lane.dealt)
            if len(upcoming.tokens):
                last_lane.append(upcoming)
            in_flight.append(upcoming)
            tokens_in_flight += len(upcoming.tokens)
            upcoming = next(source, None)
        before = under_way
        under_way = None
        if any(lane.waiting for lane in queues):
            tokens = np.full((lanes, row_length), PAD_ID, np.int32)
            segment_ids = np.zeros((lanes, row_length), np.int32)
            placed = [
                (index, *placement)
                for index, lane in enumerate(queues)
                for placement in lane.fill(tokens[index], segment_ids[index])
            ]
            results, state = step(tokens, segment_ids, state)
            under_way = placed, results
            num_tokens = sum(count for *_, count in placed)
            counters["tokens"] += num_tokens
            counters["padding"] += tokens.size - num_tokens
        if before is not None:
            _hand_out(before[0], read(before[1]))
        while in_flight and in_flight[0].done == len(in_flight[0].tokens):
            part = in_flight.popleft()
            tokens_in_flight -= len(part.tokens)
            yield part.result


def _hand_out(placed: list[tuple[int, Part, int, int, int]], results: np.ndarray) -> None:
    """Puts the results of a step where they belong."""
    for index, part, first, column, count in placed:
        here, there = slice(column, column + count), slice(first, first + count)
        part.result.entropies[there] = results[0, index, here]
        part.result.token_nats[there] = results[1, index, here]
        if first == 0 and not part.is_continuation:
            part.result.entropies[0] = part.result.token_nats[0] = 0.0
        part.done += count
