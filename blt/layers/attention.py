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

import functools
import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers.attention_kernel import choose_attention_kernel, gpu_capability
from blt.layers.registry import Builder, Registry, split_type
from blt.layers.rotary import apply_rotary, rotary_tables

DEFAULT_ATTENTION = "group_query"
DEFAULT_WINDOW = 512
DEFAULT_BLOCK_SIZE = 128
_MASKED = -1e9  # in float32; exp of it is exactly 0 after the softmax's shift
_LARGEST_GROUP = 4  # query heads that share a key head, unless a config says otherwise

_registry = Registry("attention_type")


def register_attention_layer(name: str, builder: Builder | None = None) -> Any:
    """Adds an attention layer; works as a decorator.

    It is a class or function that takes `num_heads`, and makes a layer with the call, the attribute
    `window` and the method `initial_past` of `CausalAttention`.
    """
    return _registry.register(name, builder)


def create_attention_layer(
    attention_type: str | Mapping[str, Any] = DEFAULT_ATTENTION, **kwargs: Any
) -> keras.layers.Layer:
    """Makes a causal self-attention layer.

    Args:
      attention_type: `multi_head`, `group_query`, `sliding_window`, or a name that was registered;
        or a dict of `type` and arguments.
      **kwargs: arguments of the layer: `num_heads`, and as `CausalAttention` has them.

    Raises:
      ConfigError: there is no such attention, or it does not take an argument.
    """
    kind, arguments = split_type(attention_type, DEFAULT_ATTENTION)
    return _registry.create(kind, {**arguments, **kwargs})


def choose_block_size(window: int | None) -> int:
    """Returns how many queries share their keys: half a window, a power of two in [16, 128].

    A block of q queries computes scores for window + q keys at most, so smaller blocks waste less
    and larger ones make larger matrix products. The result of attention does not depend on it.
    """
    if window is None:
        return DEFAULT_BLOCK_SIZE
    half = max(1, window // 2)
    return min(DEFAULT_BLOCK_SIZE, max(16, 2 ** math.floor(math.log2(half))))


def num_past_tokens(window: int, block_size: int) -> int:
    """Returns how many tokens before its own a block of queries must look at: whole blocks."""
    return math.ceil((window - 1) / block_size) * block_size


def make_block_mask(
    segment_ids: Any, *, window: int | None, block_size: int, past_segment_ids: Any = None
) -> Any:
    """Says which keys each query may see.

    Args:
      segment_ids: [batch, num_tokens] int32; equal ids belong to one document, whose tokens follow
        one another. num_tokens is a multiple of `block_size`.
      window: a query sees itself and the window - 1 tokens before it; None for all before it.
      block_size: queries in a block.
      past_segment_ids: [batch, num_past] int32, the tokens before the row (a cache). num_past is
        a multiple of `block_size`, or the row is one block.

    Returns:
      [batch, num_blocks, block_size, num_keys] bool. A query always sees itself.
    """
    batch, num_tokens = segment_ids.shape[0], segment_ids.shape[1]
    num_blocks = num_tokens // block_size
    if past_segment_ids is None:
        num_past = num_tokens - block_size
        if window is not None:
            num_past = min(num_past, num_past_tokens(window, block_size))
        keys = ops.pad(segment_ids, [[0, 0], [num_past, 0]], constant_values=-1)
    else:
        num_past = past_segment_ids.shape[1]
        keys = ops.concatenate([past_segment_ids, segment_ids], axis=1)
    batch = -1 if batch is None else batch
    queries = ops.reshape(segment_ids, (batch, num_blocks, block_size, 1))
    keys = ops.expand_dims(_past_and_own(keys, num_past, block_size), 2)
    places = ops.arange(num_past + block_size, dtype="int32")
    distance = places[num_past:, None] - places[None, :]
    near = distance >= 0
    if window is not None:
        near = ops.logical_and(near, distance < window)
    return ops.logical_and(ops.equal(queries, keys), near)


def _past_and_own(x: Any, num_past: int, block_size: int) -> Any:
    """[batch, num_past + blocks * size, ...] -> [batch, blocks, num_past + size, ...]."""
    num_blocks = (x.shape[1] - num_past) // block_size
    if num_blocks == 1:
        return ops.expand_dims(x, 1)
    batch = -1 if x.shape[0] is None else x.shape[0]
    past = num_past // block_size
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

    Args:
      num_heads: query heads.
      num_kv_heads: key and value heads; None for `num_heads`.
      head_dim: width of a head; None for the input's width over `num_heads`.
      window: tokens that a token sees, itself included; None for all before it.
      rope_theta: base of the rotary positions.

    Call:
      x: [batch, num_tokens, dim].
      block_mask: from `make_block_mask`, which fixes window and block size; None for rows that are
        one sequence each.
      past: None, or (keys, values) of the tokens before the row, each
        [batch, num_past, num_kv_heads, head_dim], keys not yet rotated.

    Returns:
      [batch, num_tokens, dim]; with `past`, also the (keys, values) that the next row takes.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        rope_theta: float = 10_000.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim
        self.window = window
        self.rope_theta = rope_theta
        if num_heads < 1 or num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads ({num_heads}) must be a multiple of num_kv_heads ({num_kv_heads})."
            )
        if window is not None and window < 1:
            raise ConfigError(f"window must be at least 1, got {window}.")
        if head_dim is not None and (head_dim < 2 or head_dim % 2):
            raise ConfigError(f"head_dim must be even, got {head_dim}.")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dim = input_shape[-1]
        if self.head_dim is None and dim % (2 * self.num_heads):
            raise ConfigError(
                f"width {dim} is not a multiple of num_heads ({self.num_heads}) with an even "
                "width of each head; give head_dim."
            )
        self._head_dim = self.head_dim or dim // self.num_heads
        width = (self.num_heads + 2 * self.num_kv_heads) * self._head_dim
        self.qkv = keras.layers.Dense(width, use_bias=False, name="qkv", dtype=self.dtype_policy)
        self.out = keras.layers.Dense(dim, use_bias=False, name="out", dtype=self.dtype_policy)
        self.qkv.build(input_shape)
        self.out.build((*input_shape[:-1], self.num_heads * self._head_dim))

    def call(self, x: Any, block_mask: Any = None, past: tuple[Any, Any] | None = None) -> Any:
        num_tokens = x.shape[1]
        batch = -1 if x.shape[0] is None else x.shape[0]
        if block_mask is None:
            one_sequence = ops.zeros_like(x[..., 0], dtype="int32")
            block_mask = make_block_mask(one_sequence, window=self.window, block_size=num_tokens)
        block_size, num_keys = block_mask.shape[2], block_mask.shape[3]
        num_past = num_keys - block_size
        q_width = self.num_heads * self._head_dim
        kv_width = self.num_kv_heads * self._head_dim

        qkv = self.qkv(x)
        q = ops.reshape(qkv[..., :q_width], (batch, num_tokens, self.num_heads, self._head_dim))
        kv_shape = (batch, num_tokens, self.num_kv_heads, self._head_dim)
        k = ops.reshape(qkv[..., q_width : q_width + kv_width], kv_shape)
        v = ops.reshape(qkv[..., q_width + kv_width :], kv_shape)

        kernel = choose_attention_kernel(self.compute_dtype, self._head_dim, num_tokens)
        if past is not None:
            k = ops.concatenate([ops.cast(past[0], k.dtype), k], axis=1)
            v = ops.concatenate([ops.cast(past[1], v.dtype), v], axis=1)
            next_past = (k[:, num_tokens:], v[:, num_tokens:])
        elif kernel == "fused":
            num_past = 0
        elif num_past:
            padding = [[0, 0], [num_past, 0], [0, 0], [0, 0]]
            k, v = ops.pad(k, padding), ops.pad(v, padding)

        scale = 1.0 / math.sqrt(self._head_dim)
        cos, sin = rotary_tables(num_past + num_tokens, self._head_dim, self.rope_theta)
        q = apply_rotary(q, cos[num_past:] * scale, sin[num_past:] * scale)
        k = apply_rotary(k, cos, sin)
        if kernel == "fused":
            attended = _attend_fused(q, k, v, block_mask)
        else:
            attended = self._attend(q, k, v, block_mask, num_past, block_size, kernel)
        y = self.out(ops.reshape(attended, (batch, num_tokens, q_width)))
        return y if past is None else (y, next_past)

    def _attend(
        self,
        q: Any,
        k: Any,
        v: Any,
        block_mask: Any,
        num_past: int,
        block_size: int,
        kernel: str = "blocks",
    ) -> Any:
        """Softmax attention of each block of queries; q is already scaled.

        Batch and blocks are one axis here: some kernels take five axes at most.
        """
        group = self.num_heads // self.num_kv_heads
        kv_shape = (-1, num_past + block_size, self.num_kv_heads, self._head_dim)
        k = ops.reshape(_past_and_own(k, num_past, block_size), kv_shape)
        v = ops.reshape(_past_and_own(v, num_past, block_size), kv_shape)
        if kernel == "cudnn":
            q = ops.reshape(q, (-1, block_size, self.num_heads, self._head_dim))
            return _attend_by_cudnn(q, k, v, block_mask)
        q = ops.reshape(q, (-1, block_size, self.num_kv_heads, group, self._head_dim))
        block_mask = ops.reshape(block_mask, (-1, 1, 1, *block_mask.shape[2:]))
        # b block, q query, k key, h key-value head, g query head in its group, d head_dim
        scores = ops.cast(ops.einsum("bqhgd,bkhd->bhgqk", q, k), "float32")
        # As a tensor: else PyTorch's backend makes it one of `floatx`, which may not hold it.
        scores = ops.where(block_mask, scores, ops.convert_to_tensor(_MASKED, scores.dtype))
        weights = ops.cast(ops.softmax(scores, axis=-1), v.dtype)
        return ops.einsum("bhgqk,bkhd->bqhgd", weights, v)

    def initial_past(self, batch: int, num_past: int) -> tuple[Any, Any]:
        """Returns the (keys, values) of nothing; their segment ids must match no token's."""
        shape = (batch, num_past, self.num_kv_heads, self._head_dim)
        return ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "window": self.window,
            "rope_theta": self.rope_theta,
        }


def _attend_fused(q: Any, k: Any, v: Any, block_mask: Any) -> Any:
    """As `CausalAttention._attend`, by one kernel."""
    from blt.layers.fused_attention import fused_attention

    # Documents are contiguous, so the keys that a query sees are so many up to its own.
    num_visible = ops.sum(ops.cast(block_mask, "int32"), axis=-1)
    num_visible = ops.reshape(num_visible, (-1, q.shape[1]))
    return fused_attention(q, k, v, num_visible, interpret=gpu_capability() is None)


def _attend_by_cudnn(q: Any, k: Any, v: Any, block_mask: Any) -> Any:
    """As `CausalAttention._attend`, of blocks [batch * blocks, tokens, heads, head_dim]."""
    import jax

    mask = ops.reshape(block_mask, (-1, 1, *block_mask.shape[2:]))
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=1.0, implementation="cudnn")


@register_attention_layer("multi_head")
def _multi_head(
    num_heads: int,
    *,
    head_dim: int | None = None,
    window: int | None = None,
    rope_theta: float = 10_000.0,
    **kwargs: Any,
) -> CausalAttention:
    return CausalAttention(
        num_heads, head_dim=head_dim, window=window, rope_theta=rope_theta, **kwargs
    )


@register_attention_layer("group_query")
def _group_query(
    num_heads: int,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    window: int | None = None,
    rope_theta: float = 10_000.0,
    **kwargs: Any,
) -> CausalAttention:
    if num_kv_heads is None:
        group = max(g for g in range(1, _LARGEST_GROUP + 1) if num_heads % g == 0)
        num_kv_heads = num_heads // group
    return CausalAttention(
        num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        window=window,
        rope_theta=rope_theta,
        **kwargs,
    )


register_attention_layer(
    "sliding_window", functools.partial(CausalAttention, window=DEFAULT_WINDOW)
)
