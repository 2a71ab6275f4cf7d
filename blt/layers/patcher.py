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
from blt.tokenizer import BOS_ID, BYTE_OFFSET, NEWLINE_ID


def cut_context(tokens: Any, segment_ids: Any, rule: PatchRule) -> tuple[Any, Any]:
    """Returns a row as the entropy model has to read it for a rule.

    With `reset_on_newline`, each newline becomes the BOS of a document of its own, the line after
    it; what the model says at that place is then about that line's first byte. What it says about
    the newline is said one place before. So nothing moves, and nothing else changes.

    Args:
      tokens: [batch, num_tokens] int32.
      segment_ids: [batch, num_tokens] int32: documents from 1, never decreasing; 0 for padding.
      rule: the rule that will cut.

    Returns:
      Both, of the same shapes.
    """
    if not rule.reset_on_newline:
        return tokens, segment_ids
    tokens, segment_ids = (ops.convert_to_tensor(x, "int32") for x in (tokens, segment_ids))
    is_newline = ops.logical_and(ops.equal(tokens, NEWLINE_ID), ops.greater(segment_ids, 0))
    lines = ops.cumsum(ops.cast(is_newline, "int32"), axis=1)
    return (
        ops.where(is_newline, BOS_ID, tokens),
        ops.where(ops.greater(segment_ids, 0), segment_ids + lines, 0),
    )


@keras.saving.register_keras_serializable(package="blt")
class Patcher(keras.layers.Layer):
    """Cuts rows into patches.

    Args:
      rule: a `PatchRule`, or its fields; without `snap_utf8`, which needs bytes that are to come.

    Call:
      entropies: [batch, num_tokens] nats. Entry i is the uncertainty about token i + 1, as
        `EntropyModel.compute_entropy` gives it: the patcher shifts by one. So a patch opens at
        token t by entry t - 1. Tokens 0 and 1 of a document always open one. For a rule with
        `reset_on_newline` the model must have read what `cut_context` gives.
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
        if self.rule.snap_utf8:
            raise ConfigError(
                "patch_rule snap_utf8=True: whether a patch begins then depends on bytes to come, "
                "so a model cannot cut such patches. Give it patch_lengths, from `blt patch`."
            )

    def call(
        self,
        entropies: Any,
        tokens: Any = None,
        segment_ids: Any = None,
        include_next: bool = False,
    ) -> Any:
        patch_lengths, closes = self.cut(entropies, tokens, segment_ids)
        if not include_next:
            return patch_lengths
        # The next token stands behind a row's last patch, or makes it longer; empty rows have none.
        ends = ops.cumsum(patch_lengths, axis=1)
        last = ops.sum(ops.cast(patch_lengths > 0, "int32"), axis=1, keepdims=True) - 1
        closes_last = ops.take_along_axis(
            ops.cast(closes, "int32"), ops.maximum(ends[:, -1:] - 1, 0), axis=1
        )
        places = ops.expand_dims(ops.arange(ends.shape[1] + 1, dtype="int32"), 0)
        is_next = ops.logical_and(places == last + closes_last, last >= 0)
        return ops.pad(patch_lengths, [[0, 0], [0, 1]]) + ops.cast(is_next, "int32")

    def cut(self, entropies: Any, tokens: Any = None, segment_ids: Any = None) -> tuple[Any, Any]:
        """Does what the layer does, and says which tokens end a patch, as far as is known there.

        Returns:
          Patch lengths [batch, num_tokens] int32, and [batch, num_tokens] bool: whether the token
          that follows in the document would open a patch. Of the last token of a document, which
          may be cut short, that says more than the lengths do.
        """
        num_tokens = entropies.shape[1]
        if segment_ids is None:
            segment_ids = ops.ones_like(entropies, dtype="int32")
        segment_ids = ops.cast(segment_ids, "int32")
        places = ops.expand_dims(ops.arange(num_tokens, dtype="int32"), 0)
        is_token = segment_ids > 0
        before = ops.pad(segment_ids[:, :-1], [[0, 0], [1, 0]])
        is_first = ops.logical_and(segment_ids != before, is_token)
        offsets_of_next = places + 1 - _latest(places, is_first)

        closes = self._closes(ops.cast(entropies, "float32"), tokens, offsets_of_next)
        starts = _after(closes, is_first)
        if self.rule.max_patch_length is not None:
            length = places + 1 - _latest(places, starts)
            closes = ops.logical_or(closes, length % self.rule.max_patch_length == 0)
            starts = _after(closes, is_first)
        starts = ops.logical_and(starts, is_token)
        return _lengths(starts, is_token), ops.logical_and(closes, is_token)

    def _closes(self, entropies: Any, tokens: Any, offsets_of_next: Any) -> Any:
        """[batch, num_tokens] bool: whether what follows each token opens a patch by the rule.

        `offsets_of_next` are places in the document, of what follows.
        """
        rule = self.rule
        if rule.needs_entropies:
            rise = entropies - ops.pad(entropies[:, :-1], [[0, 0], [1, 0]])
            if rule.rule == "monotonic":
                opens = rise > rule.threshold_nats
            else:
                opens = entropies > rule.threshold_nats
            if rule.rule == "combined":
                opens = ops.logical_and(opens, rise > rule.threshold_add_nats)
        elif rule.rule == "static":
            opens = (offsets_of_next - rule.first_offset) % rule.patch_size == 0
        elif rule.rule == "space":
            if tokens is None:
                raise ConfigError("rule 'space' needs the tokens: patcher(entropies, tokens).")
            opens = _ends_word(ops.cast(tokens, "int32"), offsets_of_next == 1, rule)
        else:
            opens = offsets_of_next > 0
        for offset, opens_there in rule.fixed_offsets.items():
            opens = ops.where(offsets_of_next == offset, opens_there, opens)
        return opens

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

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
    latest = ops.where(marked, places, 0)
    reach = 1  # each place knows of so many up to it; `ops.associative_scan` fails in Keras 3.12
    while reach < places.shape[1]:
        latest = ops.maximum(latest, ops.pad(latest[:, :-reach], [[0, 0], [reach, 0]]))
        reach *= 2
    return latest


def _after(closes: Any, is_first: Any) -> Any:
    """Returns where patches start: after one ends, and where a document begins."""
    return ops.logical_or(ops.pad(closes[:, :-1], [[0, 0], [1, 0]]), is_first)


def _lengths(starts: Any, is_token: Any) -> Any:
    """Counts the tokens from each start to the next, [batch, num_tokens] int32."""
    num_places = starts.shape[1]
    patch_ids = ops.cumsum(ops.cast(starts, "int32"), axis=1) - 1
    slots = ops.where(is_token, patch_ids, num_places)
    rows = ops.expand_dims(ops.arange(ops.shape(starts)[0], dtype="int32"), 1)
    flat = ops.reshape(rows * (num_places + 1) + slots, (-1,))
    num_slots = ops.shape(starts)[0] * (num_places + 1)
    counts = ops.segment_sum(ops.ones_like(flat), flat, num_segments=num_slots)
    return ops.reshape(counts, (-1, num_places + 1))[:, :num_places]


def _ends_word(tokens: Any, is_first: Any, rule: PatchRule) -> Any:
    """[batch, num_tokens] bool: the first of a run of space-like bytes, or a special id."""
    is_special = tokens < BYTE_OFFSET
    space_like = ops.take(ops.convert_to_tensor(SPACE_LIKE), tokens, axis=0)
    in_run = ops.logical_or(space_like, is_special) if rule.runs_from_special else space_like
    goes_on = ops.pad(in_run[:, :-1], [[0, 0], [1, 0]])
    goes_on = ops.logical_and(goes_on, ops.logical_not(is_first))
    first_of_run = ops.logical_and(space_like, ops.logical_not(goes_on))
    return ops.logical_or(first_of_run, is_special)
