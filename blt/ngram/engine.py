"""Entropies of documents by an n-gram model, on one CPU core."""

import collections
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from blt.engine.options import FLOAT32
from blt.engine.results import DocumentEntropies
from blt.ngram.grams import pack_grams
from blt.ngram.model import NgramModel, fingerprint
from blt.tokenizer import PAD_ID

CHUNK_TOKENS = 1 << 16  # looked up at a time, so that what is at work stays in the cache


class NgramEngine:
    """Runs an n-gram model over documents.

    Documents are laid end to end, each after as much PAD as the model looks back, or after the end
    of the part before it; every token is then looked up on its own. So neither neighbours nor seams
    show, and threads may share an engine.

    Args:
      model: the n-gram model.
      chunk_tokens: looked up at a time.
    """

    def __init__(self, model: NgramModel, *, chunk_tokens: int = CHUNK_TOKENS) -> None:
        self.model = model
        self.fingerprint = fingerprint(model)
        self.context = {"context": "the last ids, continued exactly", "order": model.order}
        self.precision = FLOAT32
        self._chunk_tokens = chunk_tokens
        self._nothing = np.full(model.max_length, PAD_ID, np.uint16)

    def run(
        self,
        parts: Iterable[tuple],
        counters: collections.Counter | None = None,
    ) -> Iterator[DocumentEntropies]:
        """Yields the result of each document, in the order they came; see `blt.engine.Engine`."""
        counters = collections.Counter() if counters is None else counters
        waiting: list[tuple[Any, np.ndarray, np.ndarray, bool]] = []
        num_waiting = 0
        before = tokens = self._nothing
        for key, part_tokens, *rest in parts:
            is_continuation = bool(rest and rest[0])
            before = self._end_of(before, tokens) if is_continuation else self._nothing
            tokens = np.asarray(part_tokens).astype(np.uint16, copy=False)
            waiting.append((key, before, tokens, is_continuation))
            num_waiting += len(before) + len(tokens)
            if num_waiting >= self._chunk_tokens:
                yield from self._look_up(waiting, counters)
                waiting, num_waiting = [], 0
        if waiting:
            yield from self._look_up(waiting, counters)

    def _end_of(self, before: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        size = len(self._nothing)
        return np.concatenate([before, tokens[-size:]])[-size:]

    def _look_up(
        self,
        parts: list[tuple[Any, np.ndarray, np.ndarray, bool]],
        counters: collections.Counter,
    ) -> Iterator[DocumentEntropies]:
        started = time.perf_counter()
        pieces = [piece for _, before, tokens, _ in parts for piece in (before, tokens)]
        entropies, token_nats = self._values(np.concatenate(pieces))
        padding = len(parts) * len(self._nothing)
        counters["tokens"] += len(entropies) - padding
        counters["padding"] += padding
        counters["device_microseconds"] += round(1e6 * (time.perf_counter() - started))
        first = 0
        for key, before, tokens, is_continuation in parts:
            first += len(before)
            here = slice(first, first + len(tokens))
            if len(tokens) and not is_continuation:
                entropies[first] = token_nats[first] = 0.0
            yield DocumentEntropies(key, entropies[here], token_nats[here])
            first += len(tokens)

    def _values(self, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n] ids -> [n] float32 each: the entropy of, and -ln p of, every id but the first."""
        entropies = np.zeros(len(stream), np.float32)
        token_nats = np.zeros(len(stream), np.float32)
        size = self._chunk_tokens
        for start in range(1, len(stream), size):
            stop = min(start + size, len(stream))
            lead = max(0, start - len(self._nothing))  # what the first id's context looks back on
            grams = pack_grams(stream[lead:stop], self.model.max_length)[start - lead - 1 :]
            log_shares, log_backoffs, after = self.model.find(grams).T
            entropies[start:stop] = after[:-1]
            np.add(log_shares[1:], log_backoffs[:-1], out=token_nats[start:stop])
        np.maximum(entropies, 0.0, out=entropies)
        np.negative(token_nats, out=token_nats)
        np.maximum(token_nats, 0.0, out=token_nats)
        return entropies, token_nats
