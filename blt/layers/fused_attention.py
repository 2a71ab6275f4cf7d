"""Attention on a GPU as one kernel: no scores in memory, and only keys that some query sees.

A token sees itself and a number of tokens right before it: the window, or less where its document
begins. So a block of queries needs one stretch of keys. The kernel goes over that stretch in tiles
and keeps a running softmax (Dao 2023, FlashAttention-2, arXiv 2307.08691), forward and backward:

    keys      0  1  2 | 3  4  5 | 6  7  8        queries 6 to 8, of which 8 begins a document,
    query 6         x   x  x  x   x              visible 5
    query 7            x  x  x    x  x           visible 5
    query 8                             x        visible 1

It is written in Pallas, which JAX compiles with Triton. It needs JAX and an NVIDIA GPU of compute
capability 8.0 or more; `interpret=True` runs it anywhere, slowly. Import it only under JAX.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

HEAD_DIMS = (16, 32, 64, 128)
_LOG2_E = math.log2(math.e)
_MASKED = -1e30  # 2 ** (_MASKED - anything that occurs) is exactly 0


class Tiles(NamedTuple):
    """How a kernel cuts its work: queries and keys in a tile, warps of a program, and stages."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


# By head_dim, measured: docs/gpu.md.
FORWARD_TILES = {16: Tiles(64, 64, 4, 3), 32: Tiles(64, 64, 4, 3), 64: Tiles(128, 64, 4, 3)}
BACKWARD_TILES = {16: Tiles(64, 64, 4, 2), 32: Tiles(64, 64, 4, 2), 64: Tiles(64, 64, 4, 2)}
FORWARD_TILES[128] = Tiles(128, 64, 8, 2)
BACKWARD_TILES[128] = Tiles(64, 64, 8, 2)


def fused_attention(
    q: Any, k: Any, v: Any, num_visible: Any, *, interpret: bool = False, tiles: Any = None
) -> Any:
    """Softmax attention of each query over the keys up to its own.

    Args:
      q: [batch, num_tokens, num_heads, head_dim], already scaled and rotated; head_dim is one of
        `HEAD_DIMS`.
      k, v: [batch, num_past + num_tokens, num_kv_heads, head_dim], keys rotated. Query head h uses
        head h // (num_heads / num_kv_heads).
      num_visible: [batch, num_tokens] int32, keys that a query sees, its own included: at least 1,
        and from one query to the next at most 1 more.
      interpret: run without a GPU.
      tiles: a pair of `Tiles`, forward and backward; None for what suits the head_dim.

    Returns:
      [batch, num_tokens, num_heads, head_dim], in the number format of q. It can be differentiated
      by q, k and v.
    """
    num_tokens, num_past = q.shape[1], k.shape[1] - q.shape[1]
    forward, backward = tiles or (FORWARD_TILES[q.shape[3]], BACKWARD_TILES[q.shape[3]])
    # Whole tiles. Added queries see their own keys; nobody sees those but they.
    multiple = math.lcm(forward.queries, backward.queries)
    q = _pad_tokens(q, -num_tokens % multiple)
    added = q.shape[1] - num_tokens
    own = num_past + jnp.arange(q.shape[1], dtype=jnp.int32)
    num_visible = jnp.pad(num_visible, [[0, 0], [0, added]], constant_values=1)
    multiple = math.lcm(forward.keys, backward.keys)
    k, v = (_pad_tokens(x, added + -(num_past + q.shape[1]) % multiple) for x in (k, v))
    first = own[None] + 1 - num_visible
    return _attention(q, k, v, first, num_past, forward, backward, interpret)[:, :num_tokens]


def _pad_tokens(x: Any, count: int) -> Any:
    return jnp.pad(x, [[0, 0], [0, count], [0, 0], [0, 0]]) if count else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _attention(
    q: Any,
    k: Any,
    v: Any,
    first: Any,
    num_past: int,
    forward: Tiles,
    backward: Tiles,
    interpret: bool,
) -> Any:
    """`first` [batch, num_tokens] int32 is the place of the first key that a query sees."""
    return _run_forward(q, k, v, first, num_past, forward, interpret, keep_sums=False)[0]


def _forward_for_gradient(
    q: Any,
    k: Any,
    v: Any,
    first: Any,
    num_past: int,
    forward: Tiles,
    backward: Tiles,
    interpret: bool,
) -> Any:
    out, log_sums = _run_forward(q, k, v, first, num_past, forward, interpret, keep_sums=True)
    return out, (q, k, v, first, out, log_sums)


def _run_forward(
    q: Any,
    k: Any,
    v: Any,
    first: Any,
    num_past: int,
    tiles: Tiles,
    interpret: bool,
    *,
    keep_sums: bool,
) -> list[Any]:
    batch, num_tokens, num_heads, head_dim = q.shape
    group = num_heads // k.shape[2]
    rows = pl.BlockSpec((None, tiles.queries, None, head_dim), lambda i, b, h: (b, i, h, 0))
    keys = pl.BlockSpec((None, k.shape[1], None, head_dim), lambda i, b, h: (b, 0, h // group, 0))
    out_specs = [rows]
    out_shape = [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    if keep_sums:
        out_specs.append(pl.BlockSpec((None, None, tiles.queries), lambda i, b, h: (b, h, i)))
        out_shape.append(jax.ShapeDtypeStruct((batch, num_heads, num_tokens), jnp.float32))
    return pl.pallas_call(
        functools.partial(_forward_kernel, num_past=num_past, tiles=tiles),
        grid=(num_tokens // tiles.queries, batch, num_heads),
        in_specs=[rows, keys, keys, pl.BlockSpec((None, tiles.queries), lambda i, b, h: (b, i))],
        out_specs=out_specs,
        out_shape=out_shape,
        name="fused_attention",
        **_compiled(tiles, interpret),
    )(q, k, v, first)


def _compiled(tiles: Tiles, interpret: bool) -> dict[str, Any]:
    if interpret:
        return {"interpret": True}
    parameters = triton.CompilerParams(num_warps=tiles.num_warps, num_stages=tiles.num_stages)
    return {"compiler_params": parameters}


def _forward_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    first_ref: Any,
    out_ref: Any,
    *sums_ref: Any,
    num_past: int,
    tiles: Tiles,
) -> None:
    """One tile of queries of one head: sums_ref is [queries] float32, or is not there."""
    q, first = q_ref[...], first_ref[...]
    own_first = num_past + pl.program_id(0) * tiles.queries
    own = own_first + jnp.arange(tiles.queries, dtype=jnp.int32)

    def visit(tile: Any, carry: tuple[Any, Any, Any], *, masks: bool) -> tuple[Any, Any, Any]:
        out, largest, total = carry
        places = pl.ds(tile * tiles.keys, tiles.keys)
        scores = _dot(q, k_ref[places, :], 1, 1) * _LOG2_E
        if masks:
            scores = jnp.where(_sees(first, own, tile, tiles.keys), scores, _MASKED)
        now_largest = jnp.maximum(largest, jnp.max(scores, axis=1))
        shrink = jnp.exp2(largest - now_largest)
        weights = jnp.exp2(scores - now_largest[:, None])
        total = total * shrink + jnp.sum(weights, axis=1)
        v = v_ref[places, :]
        out = out * shrink[:, None] + _dot(weights.astype(v.dtype), v, 1, 0)
        return out, now_largest, total

    # The tiles of keys that some query sees, of which those in the middle are seen by all.
    begin = jnp.min(first) // tiles.keys
    end = (own_first + tiles.queries - 1) // tiles.keys + 1
    whole_begin = jnp.minimum((jnp.max(first) + tiles.keys - 1) // tiles.keys, end)
    whole_end = jnp.maximum((own_first + 1) // tiles.keys, whole_begin)
    carry = (
        jnp.zeros(q.shape, jnp.float32),
        jnp.full((tiles.queries,), _MASKED, jnp.float32),
        jnp.zeros((tiles.queries,), jnp.float32),
    )
    with_mask = functools.partial(visit, masks=True)
    carry = jax.lax.fori_loop(begin, whole_begin, with_mask, carry)
    carry = jax.lax.fori_loop(whole_begin, whole_end, functools.partial(visit, masks=False), carry)
    out, largest, total = jax.lax.fori_loop(whole_end, end, with_mask, carry)
    out_ref[...] = (out / total[:, None]).astype(out_ref.dtype)
    for ref in sums_ref:
        ref[...] = largest + jnp.log2(total)


def _dot(a: Any, b: Any, axis_of_a: int, axis_of_b: int) -> Any:
    """The product of two matrices over an axis of each, float32."""
    axes = (((axis_of_a,), (axis_of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _sees(first: Any, own: Any, tile: Any, num_keys: int) -> Any:
    """[queries, keys] bool: which keys of a tile each query sees."""
    keys = tile * num_keys + jnp.arange(num_keys, dtype=jnp.int32)
    return (keys[None, :] >= first[:, None]) & (keys[None, :] <= own[:, None])


def _gradients(
    num_past: int, forward: Tiles, tiles: Tiles, interpret: bool, kept: tuple, d_out: Any
) -> tuple[Any, Any, Any, None]:
    """Gradients by q, k and v: two passes, each of which makes the weights again."""
    q, k, v, first, out, log_sums = kept
    batch, num_tokens, num_heads, head_dim = q.shape
    num_keys, group = k.shape[1], num_heads // k.shape[2]
    d_out = d_out.astype(q.dtype)
    products = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    products = jnp.transpose(products, (0, 2, 1))  # [batch, heads, tokens]

    # The queries that see a key come one after another from its own on: how many tokens are there
    # whose first key is no later?
    places = jnp.arange(num_keys, dtype=jnp.int32)
    ends = jax.vmap(lambda row: jnp.searchsorted(row, places, side="right"))(first)
    ends = ends.astype(jnp.int32)

    def tile(size: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, size, None, head_dim), lambda i, b, h: (b, i, h, 0))

    def shared(size: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, size, None, head_dim), lambda i, b, h: (b, 0, h, 0))

    key_tile = pl.BlockSpec(
        (None, tiles.keys, None, head_dim), lambda i, b, h: (b, i, h // group, 0)
    )
    all_keys = pl.BlockSpec((None, num_keys, None, head_dim), lambda i, b, h: (b, 0, h // group, 0))
    one_head = pl.BlockSpec((None, None, num_tokens), lambda i, b, h: (b, h, 0))
    head_tile = pl.BlockSpec((None, None, tiles.queries), lambda i, b, h: (b, h, i))

    dq = pl.pallas_call(
        functools.partial(_query_gradient_kernel, num_past=num_past, tiles=tiles),
        grid=(num_tokens // tiles.queries, batch, num_heads),
        in_specs=[
            tile(tiles.queries),
            all_keys,
            all_keys,
            pl.BlockSpec((None, tiles.queries), lambda i, b, h: (b, i)),
            tile(tiles.queries),
            head_tile,
            head_tile,
        ],
        out_specs=tile(tiles.queries),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        name="fused_attention_dq",
        **_compiled(tiles, interpret),
    )(q, k, v, first, d_out, log_sums, products)
    by_head = jax.ShapeDtypeStruct((batch, num_keys, num_heads, head_dim), q.dtype)
    dk, dv = pl.pallas_call(
        functools.partial(_key_gradient_kernel, num_past=num_past, tiles=tiles),
        grid=(num_keys // tiles.keys, batch, num_heads),
        in_specs=[
            shared(num_tokens),
            key_tile,
            key_tile,
            pl.BlockSpec((None, num_tokens), lambda i, b, h: (b, 0)),
            shared(num_tokens),
            one_head,
            one_head,
            pl.BlockSpec((None, tiles.keys), lambda i, b, h: (b, i)),
        ],
        out_specs=[tile(tiles.keys), tile(tiles.keys)],
        out_shape=[by_head, by_head],
        name="fused_attention_dkv",
        **_compiled(tiles, interpret),
    )(q, k, v, first, d_out, log_sums, products, ends)
    if group > 1:
        shape = (batch, num_keys, k.shape[2], group, head_dim)
        dk, dv = (jnp.sum(x.reshape(shape), axis=3, dtype=jnp.float32) for x in (dk, dv))
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None


def _query_gradient_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    first_ref: Any,
    d_out_ref: Any,
    log_sums_ref: Any,
    products_ref: Any,
    dq_ref: Any,
    *,
    num_past: int,
    tiles: Tiles,
) -> None:
    q, d_out, first = q_ref[...], d_out_ref[...], first_ref[...]
    log_sums, products = log_sums_ref[...], products_ref[...]
    own_first = num_past + pl.program_id(0) * tiles.queries
    own = own_first + jnp.arange(tiles.queries, dtype=jnp.int32)

    def visit(tile: Any, dq: Any) -> Any:
        places = pl.ds(tile * tiles.keys, tiles.keys)
        k = k_ref[places, :]
        scores = _dot(q, k, 1, 1) * _LOG2_E
        seen = _sees(first, own, tile, tiles.keys)
        weights = jnp.exp2(jnp.where(seen, scores - log_sums[:, None], _MASKED))
        d_weights = _dot(d_out, v_ref[places, :], 1, 1)
        d_scores = weights * (d_weights - products[:, None])
        return dq + _dot(d_scores.astype(k.dtype), k, 1, 0)

    begin = jnp.min(first) // tiles.keys
    end = (own_first + tiles.queries - 1) // tiles.keys + 1
    dq = jax.lax.fori_loop(begin, end, visit, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = dq.astype(dq_ref.dtype)


def _key_gradient_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    first_ref: Any,
    d_out_ref: Any,
    log_sums_ref: Any,
    products_ref: Any,
    ends_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
    *,
    num_past: int,
    tiles: Tiles,
) -> None:
    k, v = k_ref[...], v_ref[...]
    tile_of_keys = pl.program_id(0)

    def visit(tile: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        dk, dv = carry
        places = pl.ds(tile * tiles.queries, tiles.queries)
        q, d_out = q_ref[places, :], d_out_ref[places, :]
        own = num_past + tile * tiles.queries + jnp.arange(tiles.queries, dtype=jnp.int32)
        seen = _sees(first_ref[places], own, tile_of_keys, tiles.keys)
        scores = _dot(q, k, 1, 1) * _LOG2_E
        weights = jnp.exp2(jnp.where(seen, scores - log_sums_ref[places][:, None], _MASKED))
        dv = dv + _dot(weights.astype(d_out.dtype), d_out, 0, 0)
        d_weights = _dot(d_out, v, 1, 1)
        d_scores = weights * (d_weights - products_ref[places][:, None])
        dk = dk + _dot(d_scores.astype(q.dtype), q, 0, 0)
        return dk, dv

    begin = jnp.maximum(tile_of_keys * tiles.keys - num_past, 0) // tiles.queries
    end = (jnp.max(ends_ref[...]) + tiles.queries - 1) // tiles.queries
    zeros = jnp.zeros(k.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(begin, end, visit, (zeros, zeros))
    dk_ref[...] = dk.astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


_attention.defvjp(_forward_for_gradient, _gradients)
