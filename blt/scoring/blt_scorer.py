"""Scores by a BLT: windows of many documents, a window a row, batches of one shape.

A row holds one window, so that a document's score never depends on what is scored beside it.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from blt.compiled import compile_function
from blt.formats.scores import ScoresRow
from blt.model.blt import ByteLatentTransformer
from blt.model.serialization import fingerprint
from blt.scoring.documents import Part, Parts, Tally
from blt.scoring.windows import Window, WindowShape, make_windows
from blt.tokenizer import PAD_ID

TOKENS_PER_BATCH = 8192


class BltScorer:
    """Scores documents by a BLT.

    Args:
      model: the BLT.
      min_context: tokens of context that every byte has, as far as its document goes; None for
        half of the model's longest sequence.
      batch_size: windows in a batch; None for about 8,192 tokens.
      xz: also compress documents with xz.
    """

    def __init__(
        self,
        model: ByteLatentTransformer,
        *,
        min_context: int | None = None,
        batch_size: int | None = None,
        xz: bool = False,
    ) -> None:
        seq_len = model.max_sequence_length
        self._shape = WindowShape(
            seq_len=seq_len,
            max_patches=model.max_patches,
            min_context=seq_len // 2 if min_context is None else min_context,
        )
        self._batch_size = batch_size or max(1, TOKENS_PER_BATCH // seq_len)
        self._xz = xz
        self._program = compile_function(model, lambda *arrays: _token_nats(model, *arrays))
        self.fingerprint = fingerprint(model)
        self.entropy_fingerprint = model.entropy_fingerprint
        self.score_spec: dict[str, Any] = {
            "model": "blt",
            "context": "windows",
            "window": seq_len,
            "max_patches": self._shape.max_patches,
            "min_context": self._shape.min_context,
            "bos": "context",
            "eos": "eos_nats",
            "probabilities_over": "all ids",
        }

    def score(self, parts: Parts) -> Iterator[ScoresRow]:
        """Yields a row for each document, in order.

        Args:
          parts: records with their patch lengths; the parts of a document follow one another.
        """
        windows = self._windows(iter(parts))
        while batch := list(itertools.islice(windows, self._batch_size)):
            nats = self._run([window for _, window in batch])
            for row, (tally, window) in enumerate(batch):
                scored = slice(window.first_scored, len(window.tokens))
                tally.score(window.tokens[scored], nats[row, scored])
                if window.is_last:
                    yield tally.finish()

    def _windows(self, parts: Iterator[Part]) -> Iterator[tuple[Tally, Window]]:
        for record, patch_lengths in parts:
            tally = Tally(record, xz=self._xz)
            first: Part = (record, patch_lengths)
            more = itertools.islice(parts, record.num_parts - 1)
            read = _read(itertools.chain([first], more), tally)
            for window in make_windows(read, self._shape):
                yield tally, window

    def _run(self, windows: list[Window]) -> np.ndarray:
        """[windows] -> [batch_size, seq_len] float32, -ln p of each token, 0 for the first."""
        tokens = np.full((self._batch_size, self._shape.seq_len), PAD_ID, np.int32)
        patch_lengths = np.zeros((self._batch_size, self._shape.max_patches), np.int32)
        segment_ids = np.zeros_like(tokens)
        for row, window in enumerate(windows):
            tokens[row, : len(window.tokens)] = window.tokens
            segment_ids[row, : len(window.tokens)] = 1
            patch_lengths[row, : len(window.patch_lengths)] = window.patch_lengths
        return ops.convert_to_numpy(self._program(tokens, patch_lengths, segment_ids))


def _read(parts: Iterator[Part], tally: Tally) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for record, patch_lengths in parts:
        tally.read(record, patch_lengths)
        yield record.tokens, patch_lengths


def _token_nats(
    model: ByteLatentTransformer, tokens: Any, patch_lengths: Any, segment_ids: Any
) -> Any:
    """Returns [batch, num_tokens] float32: -ln p of each token, 0 for the first."""
    log_probabilities = ops.log_softmax(model(tokens, patch_lengths, segment_ids), axis=-1)
    following = ops.convert_to_tensor(tokens)[:, 1:, None]
    nats = -ops.take_along_axis(log_probabilities[:, :-1], following, axis=-1)[..., 0]
    return ops.pad(nats, [[0, 0], [1, 0]])
