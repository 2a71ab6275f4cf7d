"""The dynamic patcher inside a model: entropies in, patch lengths out, on every backend.

It cuts as `blt.patching.rules` does, which the pipelines use and which says what the rules are;
here a whole batch is cut at once, in shapes that do not depend on the result.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.patching.rules import SPACE_LIKE, PatchRule
from blt.tokenizer import BYTE_OFFSET


@keras.saving.register_keras_serializable(package="blt")
class Patcher(keras.layers.Layer):
    """Cuts rows into patches.

    Args:
      rule: a `PatchRule`, or its fields.

    Call:
      entropies: [batch, num_tokens] nats. Entry i is the uncertainty about token i + 1, as
        `EntropyModel.compute_entropy` gives it: the patcher shifts by one. So a patch opens at
        token t by entry t - 1. Tokens 0 and 1 of a document always open one.
      tokens: [batch, num_tokens] integers; only the rule `space` needs them.
      segment_ids: [batch, num_tokens] integers: documents of a row from 1, 0 for padding at its
        end. None: each row is one document.
      include_next: count the token after a row's last one, too: it opens a patch of 1, or makes the
        last patch longer by 1. What it is does not matter.

    Returns:
      [batch, num_tokens] int32 ([batch, num_tokens + 1] with `include_next`): tokens in each patch,
      0 for no patch at the end. A row sums to its tokens (and the next).
    """

    def __init__(self, rule: PatchRule | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = rule if isinstance(rule, PatchRule) else PatchRule(**rule)

    def call(
        self,
        entropies: Any,
        tokens: Any = None,
        segment_ids: Any = None,
        include_next: bool = False,
    ) -> Any:
        num_tokens = entropies.shape[1]
        if segment_ids is None:
            segment_ids = ops.ones_like(entropies, dtype="int32")
        segment_ids = ops.cast(segment_ids, "int32")
        places = ops.expand_dims(ops.arange(num_tokens + 1, dtype="int32"), 0)
        count = ops.sum(ops.cast(segment_ids > 0, "int32"), axis=1, keepdims=True)

        # The next token is of the row's last document.
        last = ops.sum(ops.where(places[:, :-1] == count - 1, segment_ids, 0), 1, keepdims=True)
        segments = ops.where(places == count, last, ops.pad(segment_ids, [[0, 0], [0, 1]]))
        before = ops.pad(segments[:, :-1], [[0, 0], [1, 0]])
        is_first = ops.logical_and(segments != before, segments > 0)
        offsets = places - _latest(places, is_first)

        is_counted = places < count + int(include_next)
        starts = self._starts(ops.cast(entropies, "float32"), tokens, offsets)
        starts = ops.logical_and(starts, is_counted)
        if self.rule.max_patch_length is not None:
            since_start = places - _latest(places, starts)
            cut = since_start % self.rule.max_patch_length == 0
            starts = ops.logical_and(ops.logical_or(starts, cut), is_counted)
        return self._lengths(starts, is_counted)[:, : num_tokens + int(include_next)]

    def _starts(self, entropies: Any, tokens: Any, offsets: Any) -> Any:
        """[batch, num_tokens + 1] bool; offsets are places in the document."""
        rule = self.rule
        always = offsets == 0
        if rule.needs_entropies:
            about = ops.pad(entropies, [[0, 0], [1, 0]])  # entry t is about token t
            rise = about - ops.pad(about[:, :-1], [[0, 0], [1, 0]])
            if rule.rule == "monotonic":
                opens = rise > rule.threshold_nats
            else:
                opens = about > rule.threshold_nats
            if rule.rule == "combined":
                opens = ops.logical_and(opens, rise > rule.threshold_add_nats)
        elif rule.rule == "static":
            opens = (offsets - rule.first_offset) % rule.patch_size == 0
        elif rule.rule == "space":
            if tokens is None:
                raise ConfigError("rule 'space' needs the tokens: patcher(entropies, tokens).")
            opens = ops.pad(_ends_word(ops.cast(tokens, "int32")), [[0, 0], [1, 0]])
        else:
            opens = offsets >= 0
        for offset, opens_there in rule.fixed_offsets.items():
            opens = ops.where(offsets == offset, opens_there, opens)
        return ops.logical_or(always, opens)

    def _lengths(self, starts: Any, is_counted: Any) -> Any:
        """Counts the tokens from each start to the next."""
        num_places = starts.shape[1]
        patch_ids = ops.cumsum(ops.cast(starts, "int32"), axis=1) - 1
        slots = ops.where(is_counted, patch_ids, num_places)
        rows = ops.expand_dims(ops.arange(ops.shape(starts)[0], dtype="int32"), 1)
        flat = ops.reshape(rows * (num_places + 1) + slots, (-1,))
        num_slots = ops.shape(starts)[0] * (num_places + 1)
        counts = ops.segment_sum(ops.ones_like(flat), flat, num_segments=num_slots)
        return ops.reshape(counts, (-1, num_places + 1))

    def compute_output_spec(
        self, entropies: Any, *_: Any, include_next: bool = False, **__: Any
    ) -> Any:
        batch, num_tokens = entropies.shape
        if num_tokens is not None:
            num_tokens += int(include_next)
        return keras.KerasTensor((batch, num_tokens), dtype="int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rule": dataclasses.asdict(self.rule)}


def _latest(places: Any, marked: Any) -> Any:
    """Returns for each place the latest one up to it that is marked; 0 before the first."""
    latest = ops.associative_scan(ops.maximum, ops.where(marked, places, 0), axis=1)
    return ops.reshape(latest, (-1, places.shape[1]))  # TensorFlow forgets the shape


def _ends_word(tokens: Any) -> Any:
    """[batch, num_tokens] bool: the first of a run of space-like bytes, or a special id."""
    space_like = ops.take(ops.convert_to_tensor(SPACE_LIKE), tokens, axis=0)
    before = ops.pad(space_like[:, :-1], [[0, 0], [1, 0]])
    first_of_run = ops.logical_and(space_like, ops.logical_not(before))
    return ops.logical_or(first_of_run, tokens < BYTE_OFFSET)
