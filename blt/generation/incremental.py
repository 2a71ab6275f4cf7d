"""A BLT one token at a time, with what it has seen kept in caches.

The attention layers keep the keys and values of their window (local models) or of all patches so
far (global transformer), the last place always being the latest: rotary attention depends on
differences of positions alone, so rows of unequal lengths end side by side and shift together. A
row that closes no patch keeps its global cache as it is. So a token costs the same whatever its row
has
seen, but for one look at the cached patches where a patch ends.

Whoever drives this (see `blt.generation`) says where patches end.
"""

from typing import Any

from keras import ops

from blt.layers import make_block_mask
from blt.layers.attention import num_past_tokens
from blt.layers.patches import LastPatches, PatchLayout
from blt.model.blt import ByteLatentTransformer

State = dict[str, Any]
_NO_SEGMENT = -1  # of places in a cache that hold nothing


class IncrementalBlt:
    """The steps of a BLT; a state goes in and out of each.

    A state is a dict of tensors. `tokens` and `segment_ids` [batch, kept]: the last ones, for
    n-grams and windows. `encoder`, `decoder`, `global`: the caches of their layers.
    `patch_segment_ids`
    [batch, patch_room]. `patches` [batch, window, global_dim] and `patches_exist`: those that bytes
    read, latest first. `open_states`: byte states [batch, byte_room, local_dim] of the last tokens,
    which the open patch is among, for each layer where patches look at them.
    """

    def __init__(self, model: ByteLatentTransformer) -> None:
        self._model = model
        self._encoder, self._decoder = model.local_encoder, model.local_decoder
        self._global = model.global_transformer
        windows = model.encoder_window, model.decoder_window
        self._past = [num_past_tokens(window, model.block_size) for window in windows]
        self._num_context = max(self._encoder.ngram_sizes, default=1) - 1
        self._num_kept = max(*self._past, self._num_context)
        self._patch_window = 1
        if self._decoder.cross_attention_layers:
            self._patch_window = self._decoder.cross_attention_layers[0].window

    def prefill(
        self, tokens: Any, segment_ids: Any, patch_lengths: Any, *, patch_room: int, byte_room: int
    ) -> State:
        """Reads rows at once.

        Args:
          tokens: [batch, num_tokens] int32, each row's last token in the last place; num_tokens is
            a multiple of the model's `block_size`.
          segment_ids: the same shape: 1, and 0 for the padding before a row.
          patch_lengths: [batch, num_patches] int32: each row's last complete patch in the last
            place, 0 before the first. What stands before a row counts as a patch, so that all sum
            to num_tokens less the tokens of the open patch.
          patch_room: patches that the global cache holds; at least num_patches.
          byte_room: bytes that the open patch can have before it ends, not counting its last.

        Returns:
          The state after the rows.
        """
        batch = tokens.shape[0]
        block_size = self._model.block_size
        nothing = ops.full((batch, self._num_kept), _NO_SEGMENT, "int32")
        state: State = {"tokens": ops.zeros_like(nothing), "segment_ids": nothing}
        encoder_mask, decoder_mask = self._masks(segment_ids, state, block_size)
        caches = [
            [layer.attention.initial_past(batch, past) for layer in part.transformer_layers]
            for part, past in zip((self._encoder, self._decoder), self._past, strict=True)
        ]
        states, encoder_cache = self._encoder.encode(tokens, segment_ids, encoder_mask, caches[0])
        layout = PatchLayout(
            patch_lengths, segment_ids, across_documents=self._model.compat is not None
        )
        no_patches = ops.full((batch, patch_room), _NO_SEGMENT, "int32")
        patches, global_cache = self._global.transform(
            self._encoder.make_patches(states, layout),
            layout.patch_segment_ids,
            [
                layer.attention.initial_past(batch, patch_room)
                for layer in self._global.transformer_layers
            ],
            no_patches,
        )
        _, decoder_cache = self._decoder.decode(
            states[-1], patches, decoder_mask, layout, caches[1], self._model.tied_embedding
        )
        patch_segment_ids = ops.concatenate([no_patches, layout.patch_segment_ids], axis=1)
        first = patches.shape[1] - self._patch_window  # there is room for many more
        return {
            **self._with_tokens(state, tokens, segment_ids),
            "encoder": encoder_cache,
            "decoder": decoder_cache,
            "global": global_cache,
            "patch_segment_ids": patch_segment_ids[:, -patch_room:],
            "patches": ops.flip(patches[:, first:], axis=1),
            "patches_exist": ops.flip(layout.patch_segment_ids[:, first:], axis=1) > 0,
            "open_states": [
                ops.pad(x, [[0, 0], [byte_room, 0], [0, 0]])[:, -byte_room:] for x in states
            ],
        }

    def step(self, tokens: Any, open_lengths: Any, closes: Any, state: State) -> tuple[Any, State]:
        """Reads one token of each row, some of which may end a patch.

        Args:
          tokens: [batch] int32.
          open_lengths: [batch] int32, tokens in the open patch, this one included.
          closes: [batch] bool, whether this token ends its patch; None if none does.
          state: of the rows.

        Returns:
          [batch, vocab_size] float32 logits of the next token, and the state after this one.
        """
        tokens = tokens[:, None]
        segment_ids = ops.ones_like(tokens)
        encoder_mask, decoder_mask = self._masks(segment_ids, state, 1)
        context = state["tokens"].shape[1] - self._num_context
        states, encoder_cache = self._encoder.encode(
            ops.concatenate([state["tokens"][:, context:], tokens], axis=1),
            ops.concatenate([state["segment_ids"][:, context:], segment_ids], axis=1),
            encoder_mask,
            state["encoder"],
        )
        all_states = [
            ops.concatenate([before, x], axis=1)
            for before, x in zip(state["open_states"], states, strict=True)
        ]
        after = {
            **state,
            **self._with_tokens(state, tokens, segment_ids),
            "encoder": encoder_cache,
            "open_states": [x[:, 1:] for x in all_states],
        }
        if closes is not None:
            after |= self._close_patches(all_states, open_lengths, closes, state)
        logits, after["decoder"] = self._decoder.decode(
            states[-1],
            after["patches"],
            decoder_mask,
            LastPatches(after["patches_exist"]),
            state["decoder"],
            self._model.tied_embedding,
        )
        return logits[:, 0], after

    def _close_patches(
        self, all_states: list[Any], open_lengths: Any, closes: Any, state: State
    ) -> State:
        """Returns what of the state changes where a patch ends."""
        num_places = all_states[0].shape[1]
        # What stands before the open patch counts as a patch, which nobody looks at.
        lengths = ops.stack([num_places - open_lengths, open_lengths], axis=1)
        layout = PatchLayout(lengths, ops.ones_like(all_states[0][..., 0], dtype="int32"))
        patch = self._encoder.make_patches(all_states, layout)[:, 1:]
        segment_ids = ops.ones_like(lengths[:, :1])
        patch, cache = self._global.transform(
            patch, segment_ids, state["global"], state["patch_segment_ids"]
        )
        shifted = {
            "global": cache,
            "patch_segment_ids": _shift_in(state["patch_segment_ids"], segment_ids),
            "patches": ops.concatenate([patch, state["patches"][:, :-1]], axis=1),
            "patches_exist": ops.concatenate(
                [segment_ids > 0, state["patches_exist"][:, :-1]], axis=1
            ),
        }
        return {name: _where_rows(closes, value, state[name]) for name, value in shifted.items()}

    def _masks(self, segment_ids: Any, state: State, block_size: int) -> tuple[Any, Any]:
        before = state["segment_ids"]
        windows = self._model.encoder_window, self._model.decoder_window
        encoder, decoder = (
            make_block_mask(
                segment_ids,
                window=window,
                block_size=block_size,
                past_segment_ids=before[:, before.shape[1] - past :],
            )
            for window, past in zip(windows, self._past, strict=True)
        )
        return encoder, decoder

    def _with_tokens(self, state: State, tokens: Any, segment_ids: Any) -> State:
        return {
            "tokens": _shift_in(state["tokens"], tokens),
            "segment_ids": _shift_in(state["segment_ids"], segment_ids),
        }


def _shift_in(before: Any, new: Any) -> Any:
    """[batch, kept], [batch, any number] -> the last [batch, kept] of both."""
    return ops.concatenate([before, new], axis=1)[:, new.shape[1] :]


def _where_rows(rows: Any, new: Any, old: Any) -> Any:
    """Returns for each row what is new if `rows` [batch] says so; lists and tuples inside out."""
    if isinstance(new, list | tuple):
        return type(new)(_where_rows(rows, *pair) for pair in zip(new, old, strict=True))
    return ops.where(ops.reshape(rows, (-1, *[1] * (len(new.shape) - 1))), new, old)


def make_room(state: State, *, patches: int = 0, byte_states: int = 0) -> State:
    """Returns a state with room for so many more patches, and more bytes in the open patch."""

    def widen(x: Any, more: int, fill: int = 0) -> Any:
        padding = [[0, 0], [more, 0], *([0, 0] for _ in x.shape[2:])]
        return ops.pad(x, padding, constant_values=fill)

    return {
        **state,
        "global": [tuple(widen(x, patches) for x in pair) for pair in state["global"]],
        "patch_segment_ids": widen(state["patch_segment_ids"], patches, _NO_SEGMENT),
        "open_states": [widen(x, byte_states) for x in state["open_states"]],
    }
