"""Attention between bytes and patches, in both directions, without positions and biases.

A patch has `num_slices` queries (in the encoder) or keys and values (in the decoder): its vector,
cut into slices of the width of a byte. Both directions cost as much as there are bytes: a byte
belongs to one patch, and reads one. With a window, a patch also sees the bytes of the patches
before it, and a byte reads also those before the latest.

The slices (rows) of patches 0 to 2 and the bytes (columns) that they see in the encoder, and, the
other way round, the bytes (rows) and the patches (columns) that they read in the decoder, where a
byte that ends its patch is marked with a dot:

          b0. b1 b2.  b3 b4 b5.            p0  p1  p2
    p0     x                         b0.    x
    p1        x  x                   b1     x
    p2               x  x  x         b2.        x
                                     b3         x
                                     b4         x
                                     b5.            x
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers.normalization import DEFAULT_NORMALIZATION, create_normalization_layer
from blt.layers.patches import LastPatches, PatchLayout

_NOTHING = -1e9  # the score of a patch that is not there; its value is 0


def _dot(queries: Any, keys: Any) -> Any:
    """Returns the products of vectors in the last axis, float32."""
    return ops.sum(ops.cast(queries, "float32") * ops.cast(keys, "float32"), axis=-1)


class _PatchCrossAttention(keras.layers.Layer):
    """What both directions share: options, norms and projections.

    Args:
      num_heads: heads.
      window: patches; see the module.
      residual_scale: what the result is added to is scaled by it: 1, or 2 in the published
        checkpoints, whose residual is added twice.
      normalization_type: see `create_normalization_layer`.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        window: int = 1,
        residual_scale: float = 1.0,
        normalization_type: str | Mapping[str, Any] = DEFAULT_NORMALIZATION,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if window < 1:
            raise ConfigError(f"the window of cross-attention must be at least 1, got {window}.")
        self.num_heads = num_heads
        self.window = window
        self.residual_scale = residual_scale
        self.normalization_type = normalization_type

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dim = input_shape[-1]
        if dim % self.num_heads:
            raise ConfigError(f"width {dim} is not a multiple of num_heads ({self.num_heads}).")
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

    def _add(self, x: Any, attended: Any) -> Any:
        """x [..., dim] plus attended [..., num_heads, head_dim], through the last matrix."""
        return self.residual_scale * x + self.out(ops.reshape(attended, ops.shape(x)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window": self.window,
            "residual_scale": self.residual_scale,
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
        # A byte stands once for each patch that sees it: p place, s slice, h head, d head_dim.
        slots = [layout.patch_slots(shift) for shift in range(self.window)]
        slots = slots[0] if self.window == 1 else ops.concatenate(slots, axis=1)
        of_places = layout.take_by_patch(self._queries(queries), slots)  # [batch, p, s, h, d]
        keys, values = (self._at_places(x) for x in (keys, values))
        scores = _dot(of_places, keys)
        spread = ops.broadcast_to(values, ops.shape(of_places))
        return self._add(queries, layout.softmax_by_patch(scores, spread, slots))

    def _at_places(self, x: Any) -> Any:
        """[batch, num_tokens, heads, head_dim] -> [batch, window * num_tokens, 1, heads, ...]."""
        x = ops.expand_dims(x, 2)
        return x if self.window == 1 else ops.concatenate([x] * self.window, axis=1)


@keras.saving.register_keras_serializable(package="blt")
class DecoderCrossAttention(_PatchCrossAttention):
    """Bytes read their patch: `byte_states + attention(norm(byte_states), norm(patch_slices))`.

    Call:
      byte_states: [batch, num_tokens, dim].
      patch_slices: [batch, num_patches, num_slices, dim].
      layout: where the patches lie. A byte sees the slices of the last patch of its document that
        is complete once the byte is read; before there is one it attends to nothing, and nothing
        is added to its state.

    Returns:
      The shape of `byte_states`.
    """

    def call(self, byte_states: Any, patch_slices: Any, layout: PatchLayout | LastPatches) -> Any:
        num_slices = patch_slices.shape[2]
        keys, values = self._keys_and_values(patch_slices)
        (keys, exists), (values, _) = (
            layout.readable_patches(x, self.window) for x in (keys, values)
        )  # [batch, token, window, slice, head, head_dim]
        heads = (-1, keys.shape[1], self.window * num_slices, *keys.shape[-2:])
        keys, values = ops.reshape(keys, heads), ops.reshape(values, heads)
        queries = self._queries(byte_states)[:, :, None]
        scores = _dot(queries, keys)  # [batch, token, slice, head]
        exists = ops.repeat(exists, num_slices, axis=2)[..., None]
        # As a tensor: else PyTorch's backend makes it one of `floatx`, which may not hold it.
        scores = ops.where(exists, scores, ops.convert_to_tensor(_NOTHING, scores.dtype))
        # Not Keras's softmax, which warns where a patch is one slice.
        weights = ops.exp(scores - ops.max(scores, axis=2, keepdims=True))
        weights = weights / ops.sum(weights, axis=2, keepdims=True)
        attended = ops.sum(ops.cast(weights, values.dtype)[..., None] * values, axis=2)
        return self._add(byte_states, attended)
