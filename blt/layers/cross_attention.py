"""Attention between bytes and patches, in both directions, without positions and biases.

A patch has `num_slices` queries (in the encoder) or keys and values (in the decoder): its vector,
cut into slices of the width of a byte. Both directions cost as much as there are bytes: a byte
belongs to one patch, and reads one.
"""

import math
from typing import Any

import keras
from keras import ops

from blt.layers.normalization import create_normalization_layer
from blt.layers.patches import PatchLayout


class _PatchCrossAttention(keras.layers.Layer):
    """What both directions share: options, norms and projections."""

    def __init__(
        self,
        num_heads: int,
        *,
        normalization_type: str = "zero_centered_rms_norm",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.normalization_type = normalization_type

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dim = input_shape[-1]
        if dim % self.num_heads:
            raise ValueError(f"width {dim} is not a multiple of num_heads ({self.num_heads}).")
        self._head_dim = dim // self.num_heads
        policy = self.dtype_policy
        for name in ("query_norm", "key_value_norm"):
            norm = create_normalization_layer(self.normalization_type, name=name, dtype=policy)
            norm.build((None, dim))
            setattr(self, name, norm)
        for name, width in (("query", dim), ("key_value", 2 * dim), ("out", dim)):
            dense = keras.layers.Dense(width, use_bias=False, name=name, dtype=policy)
            dense.build((None, dim))
            setattr(self, name, dense)

    def _split_heads(self, x: Any) -> Any:
        """[..., dim] -> [..., num_heads, head_dim]; the batch may be unknown."""
        shape = (ops.shape(x)[0], *x.shape[1:-1], self.num_heads, self._head_dim)
        return ops.reshape(x, shape)

    def _queries(self, x: Any) -> Any:
        return self._split_heads(self.query(self.query_norm(x)) / math.sqrt(self._head_dim))

    def _keys_and_values(self, x: Any) -> tuple[Any, Any]:
        keys, values = ops.split(self.key_value(self.key_value_norm(x)), 2, axis=-1)
        return self._split_heads(keys), self._split_heads(values)

    def compute_output_shape(self, input_shape: Any, *_: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "normalization_type": self.normalization_type,
        }


@keras.saving.register_keras_serializable(package="blt")
class EncoderCrossAttention(_PatchCrossAttention):
    """Patches gather their own bytes: `queries + attention(norm(queries), norm(byte_states))`.

    Call:
      queries: [batch, num_patches, num_slices, dim]. All slices of a patch see its bytes, and
        no others.
      byte_states: [batch, num_tokens, dim].
      layout: where the patches lie.

    Returns:
      The shape of `queries`.
    """

    def call(self, queries: Any, byte_states: Any, layout: PatchLayout) -> Any:
        keys, values = self._keys_and_values(byte_states)
        # b batch, t token, s slice, h head, d head_dim
        of_tokens = layout.own_patch(self._queries(queries))
        scores = ops.sum(ops.cast(of_tokens * keys[:, :, None], "float32"), axis=-1)
        spread = ops.broadcast_to(values[:, :, None], ops.shape(of_tokens))
        attended = layout.softmax_by_patch(scores, spread)
        return queries + self.out(ops.reshape(attended, ops.shape(queries)))


@keras.saving.register_keras_serializable(package="blt")
class DecoderCrossAttention(_PatchCrossAttention):
    """Bytes read their patch: `byte_states + attention(norm(byte_states), norm(patch_slices))`.

    Call:
      byte_states: [batch, num_tokens, dim].
      patch_slices: [batch, num_patches, num_slices, dim].
      layout: where the patches lie. A byte sees the slices of the last patch of its document that
        is complete once the byte is read; before there is one it attends to nothing, and its
        state stays as it is.

    Returns:
      The shape of `byte_states`.
    """

    def call(self, byte_states: Any, patch_slices: Any, layout: PatchLayout) -> Any:
        keys, values = self._keys_and_values(patch_slices)
        keys, values = layout.readable_patch(keys), layout.readable_patch(values)
        queries = self._queries(byte_states)[:, :, None]
        scores = ops.sum(ops.cast(queries * keys, "float32"), axis=-1)  # [b, t, slice, head]
        weights = ops.cast(ops.softmax(scores, axis=2), values.dtype)
        attended = ops.sum(weights[..., None] * values, axis=2)
        return byte_states + self.out(ops.reshape(attended, ops.shape(byte_states)))
