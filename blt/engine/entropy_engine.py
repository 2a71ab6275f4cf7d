"""Entropies of documents, as many at a time as the hardware likes, exact for each.

The engine has a fixed number of *lanes*. A lane is an endless stream of documents laid end to end;
every step takes the next `row_length` tokens of each lane and goes on where the step before ended,
with the keys and values of the model's window carried along:

    step        1              2              3
    lane 0   a a a a a a a a  a a a b b b b b  b b d d d d d .
    lane 1   c c c c e e e e  e e e e e e f f  f f f f f . . .

So one program of one shape does all the work, a document of any length is continued exactly, and
there is padding only when documents run out. Documents never see one another (segment ids).
"""

import collections
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from blt.compiled import compile_function
from blt.engine.results import DocumentEntropies
from blt.model.entropy_model import EntropyModel
from blt.model.serialization import fingerprint
from blt.tokenizer import PAD_ID

# On a CPU what a step makes should stay in the caches: `benchmarks/lanes.py`.
CPU_LANES = 1
ACCELERATOR_LANES = 64  # not measured
DEFAULT_ROW_LENGTH = 512
# Tokens that may be read and not yet handed back, so that memory does not follow the input. Each
# takes 10 bytes. A document longer than this has its lane to itself at the end.
MAX_TOKENS_IN_FLIGHT = 4 << 20
_MAX_SEGMENT = 1 << 30


class _Part:
    """A part in flight: its tokens, and how many of them were taken and are done."""

    def __init__(self, key: Any, tokens: np.ndarray, is_continuation: bool) -> None:
        self.tokens = tokens
        self.is_continuation = is_continuation
        self.taken = self.done = 0
        self.result = DocumentEntropies(
            key, np.empty(len(tokens), np.float32), np.empty(len(tokens), np.float32)
        )


class _Lane:
    """The documents that wait for one lane."""

    def __init__(self) -> None:
        self.parts: collections.deque[_Part] = collections.deque()
        self.waiting = 0  # tokens
        self.dealt = 0  # tokens, ever
        self.segment = 0

    def append(self, part: _Part) -> None:
        self.parts.append(part)
        self.waiting += len(part.tokens)
        self.dealt += len(part.tokens)

    def fill(
        self, tokens: np.ndarray, segment_ids: np.ndarray
    ) -> Iterator[tuple[_Part, int, int, int]]:
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


class EntropyEngine:
    """Runs an entropy model over documents.

    Args:
      model: the entropy model.
      lanes: streams that run side by side; None for what suits the device.
      row_length: tokens of each in a step; a multiple of the model's `block_size`.
    """

    def __init__(
        self,
        model: EntropyModel,
        *,
        lanes: int | None = None,
        row_length: int = DEFAULT_ROW_LENGTH,
    ) -> None:
        if row_length % model.block_size:
            raise ValueError(
                f"row_length ({row_length}) must be a multiple of the model's block size "
                f"({model.block_size})."
            )
        self.model = model
        self.lanes = lanes or (ACCELERATOR_LANES if _has_accelerator() else CPU_LANES)
        self.row_length = row_length
        self.fingerprint = fingerprint(model)
        self.context = {
            "context": "sliding window in every layer, continued exactly",
            "window": model.window,
            "num_layers": model.num_layers,
        }
        self._program = compile_function(
            model, lambda tokens, segment_ids, state: _entropies(model, tokens, segment_ids, state)
        )
        self._lock = threading.Lock()  # one forward pass at a time, however many threads

    def run(
        self, parts: Iterable[tuple], counters: collections.Counter | None = None
    ) -> Iterator[DocumentEntropies]:
        """Yields the result of each document, in the order they came; see `blt.engine.Engine`."""
        source = (_Part(*part[:2], bool(part[2:] and part[2])) for part in parts)
        upcoming = next(source, None)
        lanes = [_Lane() for _ in range(self.lanes)]
        last_lane = lanes[0]
        in_flight: collections.deque[_Part] = collections.deque()
        tokens_in_flight = 0
        state = self._initial_state()
        while upcoming is not None or in_flight:
            while upcoming is not None:
                # A lane must not run dry inside a document: padding would move its positions.
                must = upcoming.is_continuation and last_lane.waiting < self.row_length
                may = tokens_in_flight < MAX_TOKENS_IN_FLIGHT and any(
                    lane.waiting < self.row_length for lane in lanes
                )
                if not must and not may:
                    break
                if not upcoming.is_continuation:
                    last_lane = min(lanes, key=lambda lane: lane.dealt)
                if len(upcoming.tokens):
                    last_lane.append(upcoming)
                in_flight.append(upcoming)
                tokens_in_flight += len(upcoming.tokens)
                upcoming = next(source, None)
            if any(lane.waiting for lane in lanes):
                state = self._step(lanes, state, counters)
            while in_flight and in_flight[0].done == len(in_flight[0].tokens):
                part = in_flight.popleft()
                tokens_in_flight -= len(part.tokens)
                yield part.result

    def _step(self, lanes: list[_Lane], state: Any, counters: collections.Counter | None) -> Any:
        shape = (self.lanes, self.row_length)
        tokens = np.full(shape, PAD_ID, np.int32)
        segment_ids = np.zeros(shape, np.int32)
        placed = [
            (index, *placement)
            for index, lane in enumerate(lanes)
            for placement in lane.fill(tokens[index], segment_ids[index])
        ]
        with self._lock:
            start = time.monotonic_ns()
            results, state = self._program(tokens, segment_ids, state)
            results = ops.convert_to_numpy(results)
            elapsed = time.monotonic_ns() - start
        if counters is not None:
            num_tokens = sum(count for *_, count in placed)
            counters["tokens"] += num_tokens
            counters["padding"] += tokens.size - num_tokens
            counters["device_microseconds"] += elapsed // 1000
        for index, part, first, column, count in placed:
            here, there = slice(column, column + count), slice(first, first + count)
            part.result.entropies[there] = results[0, index, here]
            part.result.token_nats[there] = results[1, index, here]
            if first == 0 and not part.is_continuation:
                part.result.entropies[0] = part.result.token_nats[0] = 0.0
            part.done += count
        return state

    def _initial_state(self) -> dict[str, Any]:
        # What the last token of the row before said about the first of this one.
        uniform = ops.zeros((self.lanes, self.model.vocab_size), "float32")
        return {"model": self.model.initial_state(self.lanes), "log_probabilities": uniform}


def _entropies(model: EntropyModel, tokens: Any, segment_ids: Any, state: Any) -> tuple[Any, Any]:
    """One step: [2, lanes, row_length] float32 (entropy of, and -ln p of, each token), and state.

    Only these leave the device, not the logits.
    """
    logits, model_state = model.stream(tokens, segment_ids, state["model"])
    log_probabilities = ops.log_softmax(logits, axis=-1)
    before = state["log_probabilities"][:, None]
    all_log_probabilities = ops.concatenate([before, log_probabilities[:, :-1]], axis=1)
    entropies = -ops.sum(ops.exp(all_log_probabilities) * all_log_probabilities, axis=-1)
    chosen = ops.take_along_axis(all_log_probabilities, tokens[..., None], axis=-1)[..., 0]
    results = ops.stack([ops.maximum(entropies, 0.0), -chosen])
    return results, {"model": model_state, "log_probabilities": log_probabilities[:, -1]}


def _has_accelerator() -> bool:
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())
