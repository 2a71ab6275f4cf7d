"""Entropies of documents by a neural model, at the speed of the device, exact for each.

On a CPU, documents go in *groups* of some thousand tokens. Each group is a stream of its own, one
row at a time (`blt/engine/stream.py`), and there is a thread for every core. What a step makes
stays in the caches, cores never wait for one another, and a document's result depends on its group
alone: not on the number of threads. On an accelerator everything is one stream of long rows: one
long document fills it as well as many short ones do.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from keras import ops

from blt.engine import stream
from blt.engine.accelerator import choose_row_length, has_accelerator
from blt.engine.options import FLOAT32, num_cores
from blt.engine.precision import in_precision
from blt.engine.results import DocumentEntropies
from blt.engine.stream import Part, run_stream
from blt.model.compiled import compile_function, start_copy_to_host
from blt.model.entropy_model import EntropyModel
from blt.model.serialization import fingerprint

DEFAULT_LANES = 1  # `docs/engine.md`
CPU_ROW_LENGTH = 512
CPU_GROUP_TOKENS = 8192
# A group ends with a document that leaves at most 1 / 8 of a row to padding, or at twice its size.
_SMALL_PADDING = 8


class EntropyEngine:
    """Runs an entropy model over documents.

    Args:
      model: the entropy model.
      lanes: streams that run side by side in a step.
      row_length: tokens of each in a step, a multiple of the model's `block_size`; None for what
        suits the device and its memory.
      group_tokens: tokens of documents that are a stream of their own; 0 for one stream of all;
        None for what suits the device.
      num_threads: groups that run side by side; None for one on each core that this process may
        use, or a single one on an accelerator. The results do not depend on it.
      precision: "float32" or "bfloat16", of the layers; logits and entropies are float32.
    """

    def __init__(
        self,
        model: EntropyModel,
        *,
        lanes: int = DEFAULT_LANES,
        row_length: int | None = None,
        group_tokens: int | None = None,
        num_threads: int | None = None,
        precision: str = FLOAT32,
    ) -> None:
        on_cpu = not has_accelerator()
        if row_length is None:
            row_length = CPU_ROW_LENGTH if on_cpu else choose_row_length(model, precision)
        if row_length % model.block_size:
            raise ValueError(
                f"row_length ({row_length}) must be a multiple of the model's block size "
                f"({model.block_size})."
            )
        self.lanes = lanes
        self.row_length = row_length
        self.group_tokens = (
            (CPU_GROUP_TOKENS if on_cpu else 0) if group_tokens is None else group_tokens
        )
        self.num_threads = num_threads or (num_cores() if on_cpu else 1)
        self.precision = precision
        self.fingerprint = fingerprint(model)
        self.context = {
            "context": "sliding window in every layer, continued exactly",
            "window": model.window,
            "num_layers": model.num_layers,
        }
        self.model = model = in_precision(model, precision)
        self._program = compile_function(
            model,
            lambda tokens, segment_ids, state: _entropies(model, tokens, segment_ids, state),
            # A GPU would multiply float32 matrices in TensorFloat-32, with 10 bits of mantissa.
            exact_float32=precision == FLOAT32,
            # On a CPU, TensorFlow's own kernels are as fast as XLA's or faster, most of all in
            # bfloat16, and need no compiling: `benchmarks/engine.py`.
            jit_compile=not on_cpu,
        )
        # The first step compiles. On an accelerator, one forward pass runs at a time.
        self._lock = threading.Lock()
        self._takes_turns = not on_cpu
        self._compiled = False
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    def run(
        self, parts: Iterable[tuple], counters: collections.Counter | None = None
    ) -> Iterator[DocumentEntropies]:
        """Yields the result of each document, in the order they came; see `blt.engine.Engine`."""
        counters = collections.Counter() if counters is None else counters
        source = (Part(*part[:2], bool(part[2:] and part[2])) for part in parts)
        if not self.group_tokens:
            yield from self._run_stream(source, counters)
        elif self.num_threads == 1:
            for group in _groups(source, self.group_tokens, self.row_length):
                yield from self._run_stream(group, counters)
        else:
            yield from self._run_in_threads(source, counters)

    def _run_in_threads(
        self, source: Iterator[Part], counters: collections.Counter
    ) -> Iterator[DocumentEntropies]:
        pending: collections.deque[tuple[concurrent.futures.Future, int]] = collections.deque()
        waiting = 0  # tokens

        def finish_first() -> Iterator[DocumentEntropies]:
            nonlocal waiting
            future, num_tokens = pending.popleft()
            results, counted = future.result()
            counters.update(counted)
            waiting -= num_tokens
            yield from results

        try:
            for group in _groups(source, self.group_tokens, self.row_length):
                if not isinstance(group, list):  # one endless document
                    while pending:
                        yield from finish_first()
                    yield from self._run_stream(group, counters)
                    continue
                num_tokens = sum(len(part.tokens) for part in group)
                while pending and (
                    pending[0][0].done()
                    or len(pending) >= 2 * self.num_threads
                    or waiting + num_tokens > stream.MAX_TOKENS_IN_FLIGHT
                ):
                    yield from finish_first()
                pending.append((self._submit(group), num_tokens))
                waiting += num_tokens
            while pending:
                yield from finish_first()
        finally:  # the caller may have had enough
            for future, _ in pending:
                future.cancel()

    def _submit(self, group: list[Part]) -> concurrent.futures.Future:
        def work() -> tuple[list[DocumentEntropies], collections.Counter]:
            counted: collections.Counter = collections.Counter()
            return list(self._run_stream(group, counted)), counted

        with self._lock:
            if self._threads is None:
                self._threads = concurrent.futures.ThreadPoolExecutor(
                    self.num_threads, thread_name_prefix="entropy-engine"
                )
        return self._threads.submit(work)

    def _run_stream(
        self, parts: Iterable[Part], counters: collections.Counter
    ) -> Iterator[DocumentEntropies]:
        return run_stream(
            parts,
            lanes=self.lanes,
            row_length=self.row_length,
            step=lambda *arguments: self._step(*arguments, counters),
            read=lambda results: self._read(results, counters),
            state=self._initial_state(),
            counters=counters,
        )

    def _step(
        self, tokens: np.ndarray, segment_ids: np.ndarray, state: Any, counters: collections.Counter
    ) -> tuple[Any, Any]:
        must_wait = self._takes_turns or not self._compiled
        with self._lock if must_wait else contextlib.nullcontext(), _timed(counters):
            results, state = self._program(tokens, segment_ids, state)
            start_copy_to_host(results)
        self._compiled = True
        return results, state

    def _read(self, results: Any, counters: collections.Counter) -> np.ndarray:
        with _timed(counters):
            return ops.convert_to_numpy(results)

    def _initial_state(self) -> dict[str, Any]:
        # What the last token of the row before said about the first of this one; nothing yet.
        return {
            "model": self.model.initial_state(self.lanes),
            "log_probabilities": ops.zeros((self.lanes, self.model.vocab_size), "float32"),
            "entropies": ops.zeros((self.lanes, 1), "float32"),
        }


def _groups(
    source: Iterator[Part], group_tokens: int, row_length: int
) -> Iterator[list[Part] | Iterator[Part]]:
    """Yields whole documents in groups of `group_tokens` tokens or more.

    A document that is too long to be held comes as an iterator of its parts, after the documents of
    its group; it must be used up before the next group is asked for.
    """
    target = min(group_tokens, stream.MAX_TOKENS_IN_FLIGHT // 2)
    upcoming = next(source, None)

    def rest_of_document() -> Iterator[Part]:
        nonlocal upcoming
        while upcoming is not None and upcoming.is_continuation:
            part = upcoming
            upcoming = next(source, None)
            yield part

    while upcoming is not None:
        group: list[Part] = []
        num_tokens = 0
        while upcoming is not None:
            if upcoming.is_continuation and num_tokens > stream.MAX_TOKENS_IN_FLIGHT:
                break
            padding = -num_tokens % row_length
            is_full = num_tokens >= target and padding <= row_length // _SMALL_PADDING
            if not upcoming.is_continuation and (is_full or num_tokens >= 2 * target):
                break
            group.append(upcoming)
            num_tokens += len(upcoming.tokens)
            upcoming = next(source, None)
        if upcoming is not None and upcoming.is_continuation:
            yield itertools.chain(group, rest_of_document())
        else:
            yield group


@contextlib.contextmanager
def _timed(counters: collections.Counter) -> Iterator[None]:
    start = time.monotonic_ns()
    yield
    counters["device_microseconds"] += (time.monotonic_ns() - start) // 1000


def _entropies(model: EntropyModel, tokens: Any, segment_ids: Any, state: Any) -> tuple[Any, Any]:
    """One step: [2, lanes, row_length] float32 (entropy of, and -ln p of, each token), and state.

    Only these leave the device, not the logits.
    """
    logits, model_state = model.stream(tokens, segment_ids, state["model"])
    log_probabilities = ops.log_softmax(logits, axis=-1)
    # Entry i of the row predicts token i + 1, and the last entry the first token of the next row.
    predicted = -ops.sum(ops.exp(log_probabilities) * log_probabilities, axis=-1)
    entropies = ops.concatenate([state["entropies"], predicted[:, :-1]], axis=1)
    first = ops.take_along_axis(state["log_probabilities"], tokens[:, :1], axis=-1)
    chosen = ops.take_along_axis(log_probabilities[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]
    token_nats = -ops.concatenate([first, chosen], axis=1)
    results = ops.stack([ops.maximum(entropies, 0.0), token_nats])
    return results, {
        "model": model_state,
        "log_probabilities": log_probabilities[:, -1],
        "entropies": predicted[:, -1:],
    }
