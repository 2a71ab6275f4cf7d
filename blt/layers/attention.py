"""Causal self-attention inside documents, over all of the past or over a sliding window.

The row is cut into blocks of queries; each block looks at itself and at as many blocks before it as
the window reaches. Cost is linear in the row and proportional to the window. With blocks of 2, a
window of 3 and documents a and b, the queries (rows) see these keys (columns):

         a0 a1 | a2 a3 | b0 b1
    a0    x                       block 0 looks at block 0
    a1    x  x
    a2    x  x    x               block 1 looks at blocks 0 and 1
    a3       x    x  x
    b0                    x       block 2 looks at blocks 1 and 2, of which
    b1                    x  x    document a is masked

Positions are counted inside the row. Rotary attention depends on differences of positions alone, so
where a document lies in its row does not show in the result.
"""

import math
from typing import Any

import keras
from keras import ops

from blt.layers.rotary import apply_rotary, rotary_tables

DEFAULT_BLOCK_SIZE = 128
_MASKED = -1e9  # in float32; exp of it is exactly 0 after the softmax's shift


def num_past_blocks(window: int, block_size: int) -> int:
    """Returns how many blocks before its own a block of queries must look at."""
    return math.ceil((window - 1) / block_size)


def make_block_mask(
    segment_ids: Any, *, window: int | None, block_size: int, past_segment_ids: Any = None
) -> Any:
    """Says which keys each query may see.

    Args:
      segment_ids: [batch, num_tokens] int32; equal ids belong to one document. num_tokens is a
        multiple of `block_size`.
      window: a query sees itself and the window - 1 tokens before it; None for all before it.
      block_size: queries in a block.
      past_segment_ids: [batch, past] int32, the tokens before the row (a cache); `past` is
        `num_past_blocks(window, block_size) * block_size`.

    Returns:
      [batch, num_blocks, block_size, num_keys] bool. A query always sees itself.
    """
    batch, num_tokens = segment_ids.shape[0], segment_ids.shape[1]
    num_blocks = num_tokens // block_size
    if past_segment_ids is None:
        past = num_blocks - 1
        if window is not None:
            past = min(past, num_past_blocks(window, block_size))
        keys = ops.pad(segment_ids, [[0, 0], [past * block_size, 0]], constant_values=-1)
    else:
        past = past_segment_ids.shape[1] // block_size
        keys = ops.concatenate([past_segment_ids, segment_ids], axis=1)
    batch = -1 if batch is None else batch
    queries = ops.reshape(segment_ids, (batch, num_blocks, block_size, 1))
    keys = ops.expand_dims(_past_and_own(keys, past, block_size), 2)
    distance = (past * block_size + ops.arange(block_size))[:, None] - ops.arange(
        (past + 1) * block_size
    )[None, :]
    near = distance >= 0
    if window is not None:
        near = ops.logical_and(near, distance < window)
    return ops.logical_and(ops.equal(queries, keys), near)


def _past_and_own(x: Any, past: int, block_size: int) -> Any:
    """[batch, (past + blocks) * size, ...] -> [batch, blocks, (past + 1) * size, ...]."""
    num_blocks = x.shape[1] // block_size - past
    batch = -1 if x.shape[0] is None else x.shape[0]
    blocks = ops.reshape(x, (batch, num_blocks + past, block_size, *x.shape[2:]))
    if past == 0:
        return blocks
    shifted = [blocks[:, i : i + num_blocks] for i in range(past + 1)]
    return ops.concatenate(shifted, axis=2)


@keras.saving.register_keras_serializable(package="blt")
class CausalAttention(keras.layers.Layer):
    """Grouped-query causal self-attention with rotary positions, block by block, without biases.

    Query head h uses key and value head h // (num_heads / num_kv_heads) (Ainslie et al. 2023,
    arXiv 2305.13245). Query, key and value are one matrix, [query | key | value].

    Call:
      x: [batch, num_tokens, dim].
      mask: from `make_block_mask`, which fixes window and block size.
      past: None, or (keys, values) of the tokens before the row, each
        [batch, past, num_kv_heads, head_dim], keys not yet rotated.

    Returns:
      [batch, num_tokens, dim]; with `past`, also the (keys, values) that the next row takes.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        rope_theta: float = 10_000.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim
        self.rope_theta = rope_theta
        if num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({num_heads}) must be a multiple of num_kv_heads ({num_kv_heads})."
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dim = input_shape[-1]
        if self.head_dim is None and dim % self.num_heads:
            raise ValueError(f"width {dim} is not a multiple of num_heads ({self.num_heads}).")
        self._head_dim = self.head_dim or dim // self.num_heads
        width = (self.num_heads + 2 * self.num_kv_heads) * self._head_dim
        self.qkv = keras.layers.Dense(width, use_bias=False, name="qkv", dtype=self.dtype_policy)
        self.out = keras.layers.Dense(dim, use_bias=False, name="out", dtype=self.dtype_policy)
        self.qkv.build(input_shape)
        self.out.build((*input_shape[:-1], self.num_heads * self._head_dim))

    def call(self, x: Any, mask: Any, past: tuple[Any, Any] | None = None) -> Any:
        num_tokens = x.shape[1]
        batch = -1 if x.shape[0] is None else x.shape[0]
        block_size, num_keys = mask.shape[2], mask.shape[3]
        num_past = num_keys - block_size
        q_width = self.num_heads * self._head_dim
        kv_width = self.num_kv_heads * self._head_dim

        qkv = self.qkv(x)
        q = ops.reshape(qkv[..., :q_width], (batch, num_tokens, self.num_heads, self._head_dim))
        kv_shape = (batch, num_tokens, self.num_kv_heads, self._head_dim)
        k = ops.reshape(qkv[..., q_width : q_width + kv_width], kv_shape)
        v = ops.reshape(qkv[..., q_width + kv_width :], kv_shape)

        if past is not None:
            k = ops.concatenate([ops.cast(past[0], k.dtype), k], axis=1)
            v = ops.concatenate([ops.cast(past[1], v.dtype), v], axis=1)
            next_past = (k[:, num_tokens:], v[:, num_tokens:])
        elif num_past:
            padding = [[0, 0], [num_past, 0], [0, 0], [0, 0]]
            k, v = ops.pad(k, padding), ops.pad(v, padding)

        scale = 1.0 / math.sqrt(self._head_dim)
        cos, sin = rotary_tables(num_past + num_tokens, self._head_dim, self.rope_theta)
        q = apply_rotary(q, cos[num_past:] * scale, sin[num_past:] * scale)
        k = apply_rotary(k, cos, sin)
        attended = self._attend(q, k, v, mask, num_past // block_size, block_size)
        y = self.out(ops.reshape(attended, (batch, num_tokens, q_width)))
        return y if past is None else (y, next_past)

    def _attend(self, q: Any, k: Any, v: Any, mask: Any, past: int, block_size: int) -> Any:
        """Softmax attention of each block of queries; q is already scaled.

        Batch and blocks are one axis here: some kernels take five axes at most.
        """
        group = self.num_heads // self.num_kv_heads
        q = ops.reshape(q, (-1, block_size, self.num_kv_heads, group, self._head_dim))
        kv_shape = (-1, (past + 1) * block_size, self.num_kv_heads, self._head_dim)
        k = ops.reshape(_past_and_own(k, past, block_size), kv_shape)
        v = ops.reshape(_past_and_own(v, past, block_size), kv_shape)
        mask = ops.reshape(mask, (-1, 1, 1, *mask.shape[2:]))
        # b block, q query, k key, h key-value head, g query head in its group, d head_dim
        scores = ops.cast(ops.einsum("bqhgd,bkhd->bhgqk", q, k), "float32")
        scores = ops.where(mask, scores, _MASKED)
        weights = ops.cast(ops.softmax(scores, axis=-1), v.dtype)
        return ops.einsum("bhgqk,bkhd->bqhgd", weights, v)

    def initial_past(self, batch: int, num_past: int) -> tuple[Any, Any]:
        """Returns the (keys, values) of nothing; their segment ids must match no token's."""
        shape = (batch, num_past, self.num_kv_heads, self._head_dim)
        return ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any, *_: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "rope_theta": self.rope_theta,
        }
