"""Scores by an entropy model: exact at any length, as the engine carries its context along."""

import collections
from collections.abc import Iterator
from typing import Any

from blt.engine import Engine
from blt.formats.scores import ScoresRow
from blt.scoring.documents import Parts, Tally


class EntropyScorer:
    """Scores documents by an entropy model.

    Args:
      engine: of the model.
      xz: also compress documents with xz.
    """

    def __init__(self, engine: Engine, *, xz: bool = False) -> None:
        self._engine = engine
        self._xz = xz
        self.fingerprint = engine.fingerprint
        self.entropy_fingerprint = engine.fingerprint
        self.score_spec: dict[str, Any] = {
            "model": "entropy_model",
            **engine.context,
            "precision": engine.precision,
            "bos": "context",
            "eos": "eos_nats",
            "probabilities_over": "all ids",
        }

    def score(self, parts: Parts) -> Iterator[ScoresRow]:
        """Yields a row for each document, in order; the parts of one follow one another."""
        tallies: collections.deque[Tally] = collections.deque()
        for result in self._engine.run(self._read(parts, tallies)):
            record, tally = result.key
            first = int(record.part == 0)  # BOS is given, not scored
            tally.score(record.tokens[first:], result.token_nats[first:])
            if record.part == record.num_parts - 1:
                yield tallies.popleft().finish()

    def _read(self, parts: Parts, tallies: collections.deque[Tally]) -> Iterator[tuple]:
        for record, patch_lengths in parts:
            if record.part == 0:
                tallies.append(Tally(record, xz=self._xz))
            tallies[-1].read(record, patch_lengths)
            yield (record, tallies[-1]), record.tokens, record.part > 0
