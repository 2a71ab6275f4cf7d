"""Scores by a BLT: windows of many documents, a window a row, batches of one shape.

A row holds one window, so that a document's score never depends on what is scored beside it. Two
batches are under way at a time: the host makes the next one while the device computes.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from blt.engine.accelerator import has_accelerator, tokens_that_fit
from blt.engine.options import FLOAT32
from blt.engine.precision import in_precision
from blt.formats.scores import ScoresRow
from blt.model.blt import ByteLatentTransformer
from blt.model.compiled import compile_function, start_copy_to_host
from blt.model.serialization import fingerprint
from blt.scoring.documents import Part, Parts, Tally
from blt.scoring.windows import Window, WindowShape, make_windows
from blt.tokenizer import PAD_ID

CPU_BATCH_TOKENS = 8192
ACCELERATOR_BATCH_TOKENS = 131_072  # or what its memory holds: docs/gpu.md


class BltScorer:
    """Scores documents by a BLT.

    Args:
      model: the BLT.
      min_context: tokens of context that every byte has, as far as its document goes; None for
        half of the model's longest sequence.
      batch_size: windows in a batch; None for what suits the device and its memory.
      precision: "float32" or "bfloat16", of the layers; logits and scores are float32.
      xz: also compress documents with xz.
    """

    def __init__(
        self,
        model: ByteLatentTransformer,
        *,
        min_context: int | None = None,
        batch_size: int | None = None,
        precision: str = FLOAT32,
        xz: bool = False,
    ) -> None:
        seq_len = model.max_sequence_length
        self._shape = WindowShape(
            seq_len=seq_len,
            max_patches=model.max_patches,
            min_context=seq_len // 2 if min_context is None else min_context,
        )
        self._batch_size = batch_size or _choose_batch_size(model, precision)
        self._xz = xz
        self.fingerprint = fingerprint(model)
        model = in_precision(model, precision)
        self._program = compile_function(
            model,
            lambda *arrays: _token_nats(model, *arrays),
            exact_float32=precision == FLOAT32,
        )
        self.entropy_fingerprint = model.entropy_fingerprint
        self.score_spec: dict[str, Any] = {
            "model": "blt",
            "context": "windows",
            "window": seq_len,
            "max_patches": self._shape.max_patches,
            "min_context": self._shape.min_context,
            "precision": precision,
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
        under_way: tuple[list[tuple[Tally, Window]], Any] | None = None
        while True:
            before, under_way = under_way, None
            if batch := list(itertools.islice(windows, self._batch_size)):
                under_way = batch, self._start([window for _, window in batch])
            if before is not None:
                yield from _hand_out(*before)
            if under_way is None:
                return

    def _windows(self, parts: Iterator[Part]) -> Iterator[tuple[Tally, Window]]:
        for record, patch_lengths in parts:
            tally = Tally(record, xz=self._xz)
            first: Part = (record, patch_lengths)
            more = itertools.islice(parts, record.num_parts - 1)
            read = _read(itertools.chain([first], more), tally)
            for window in make_windows(read, self._shape):
                yield tally, window

    def _start(self, windows: list[Window]) -> Any:
        """[windows] -> [batch_size, seq_len] float32, -ln p of each token, 0 for the first.

        What it returns need not be there yet.
        """
        tokens = np.full((self._batch_size, self._shape.seq_len), PAD_ID, np.int32)
        patch_lengths = np.zeros((self._batch_size, self._shape.max_patches), np.int32)
        segment_ids = np.zeros_like(tokens)
        for row, window in enumerate(windows):
            tokens[row, : len(window.tokens)] = window.tokens
            segment_ids[row, : len(window.tokens)] = 1
            patch_lengths[row, : len(window.patch_lengths)] = window.patch_lengths
        nats = self._program(tokens, patch_lengths, segment_ids)
        start_copy_to_host(nats)
        return nats


def _choose_batch_size(model: ByteLatentTransformer, precision: str) -> int:
    tokens = CPU_BATCH_TOKENS
    if has_accelerator():
        attention = model.local_decoder.transformer_layers[0].attention
        fits = tokens_that_fit(
            widths=_WIDTHS_HELD * model.local_decoder.dim * model.local_decoder.num_slices,
            num_heads=attention.num_heads,
            head_dim=attention.head_dim or model.local_decoder.dim // attention.num_heads,
            num_keys=model.decoder_window + model.block_size,
            precision=precision,
        )
        tokens = min(ACCELERATOR_BATCH_TOKENS, fits)
    return max(1, tokens // model.max_sequence_length)


# A byte in cross-attention: keys, values, queries and products, several in float32.
_WIDTHS_HELD = 24


def _hand_out(batch: list[tuple[Tally, Window]], nats: Any) -> Iterator[ScoresRow]:
    """Adds what a batch gave to the tallies; yields the rows that it ends."""
    nats = ops.convert_to_numpy(nats)
    for row, (tally, window) in enumerate(batch):
        scored = slice(window.first_scored, len(window.tokens))
        tally.score(window.tokens[scored], nats[row, scored])
        if window.is_last:
            yield tally.finish()


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
