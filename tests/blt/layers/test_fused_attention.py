"""The fused kernel, interpreted, beside attention by its definition."""

import keras
import numpy as np
import pytest

from blt.errors import ConfigError
from blt.layers import CausalAttention, make_block_mask
from blt.layers.attention_kernel import choose_attention_kernel

needs_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="a kernel of JAX")


ROWS = [  # num_tokens, num_past, window, num_kv_heads, head_dim, num_documents
    (64, 0, 33, 2, 16, 3),
    (1, 40, 500, 4, 16, 1),
    (77, 16, 7, 1, 32, 5),
    (40, 0, 1, 4, 16, 2),
]


def count_visible(segments, num_past, window):
    """[batch, num_tokens]: the keys up to its own that are of its document and in its window."""
    visible = np.zeros((len(segments), segments.shape[1] - num_past), np.int32)
    for row, place in np.ndindex(visible.shape):
        own, count = num_past + place, 1
        while count < window and own >= count and segments[row, own - count] == segments[row, own]:
            count += 1
        visible[row, place] = count
    return visible


def by_definition(q, k, v, visible):
    import jax
    import jax.numpy as jnp

    num_past = k.shape[1] - q.shape[1]
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    own = num_past + jnp.arange(q.shape[1])[None, :, None]
    keys = jnp.arange(k.shape[1])[None, None]
    seen = (keys <= own) & (keys > own - visible[..., None])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30)), v)


@needs_jax
@pytest.mark.parametrize("row", ROWS)
def test_the_kernel_and_its_gradients_equal_the_definition(row):
    import jax
    import jax.numpy as jnp

    from blt.layers.fused_attention import Tiles, fused_attention

    num_tokens, num_past, window, num_kv_heads, head_dim, num_documents = row
    rng = np.random.default_rng(0)
    shape = (2, num_past + num_tokens, num_kv_heads, head_dim)
    q = rng.standard_normal((2, num_tokens, 4, head_dim)).astype("float32")
    k, v = (rng.standard_normal(shape).astype("float32") for _ in range(2))
    q /= np.sqrt(head_dim)
    segments = np.sort(rng.integers(0, num_documents, shape[:2]), axis=1)
    visible = jnp.asarray(count_visible(segments, num_past, window))
    weights = rng.standard_normal(q.shape).astype("float32")
    tiles = Tiles(32, 16, 4, 2), Tiles(16, 32, 4, 2)

    def figures(attend):
        def weighted(*arrays):
            out = attend(*arrays)
            return jnp.sum(out * weights), out

        return jax.value_and_grad(weighted, (0, 1, 2), has_aux=True)(q, k, v)

    found = figures(lambda *x: fused_attention(*x, visible, interpret=True, tiles=tiles))
    expected = figures(lambda *x: by_definition(*x, visible))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-4)


@needs_jax
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("with_past", [False, True])
def test_the_layer_gives_the_same_by_either_kernel(monkeypatch, window, with_past):
    rng = np.random.default_rng(0)
    layer = CausalAttention(4, num_kv_heads=2, window=window)
    layer.build((None, None, 64))
    x = rng.standard_normal((2, 128, 64)).astype("float32")
    segments = np.sort(rng.integers(1, 4, (2, 192)), axis=1).astype("int32")
    past = None
    if with_past:
        past = tuple(rng.standard_normal((2, 64, 2, 16)).astype("float32") for _ in range(2))
    mask = make_block_mask(
        segments[:, 64:],
        window=window,
        block_size=128 if with_past else 32,
        past_segment_ids=segments[:, :64] if with_past else None,
    )

    def run(kernel):
        monkeypatch.setenv("BLT_ATTENTION", kernel)
        out = layer(x, mask, past=past)
        return [np.asarray(array) for array in (out[0], *out[1])] if with_past else [out]

    for found, expected in zip(run("fused"), run("blocks"), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_kernels_go_by_name(monkeypatch):
    monkeypatch.setenv("BLT_ATTENTION", "flash")
    with pytest.raises(ConfigError, match="BLT_ATTENTION=flash: not one of auto, blocks"):
        choose_attention_kernel("float32", 64, 512)
    monkeypatch.delenv("BLT_ATTENTION")
    assert choose_attention_kernel("bfloat16", 64, 512) == "blocks"  # there is no GPU here


@needs_jax
def test_the_fused_kernel_is_for_halves_on_a_gpu(monkeypatch):
    from blt.layers import attention_kernel

    monkeypatch.setattr(attention_kernel, "gpu_capability", lambda: 9.0)
    assert choose_attention_kernel("bfloat16", 64, 512) == "fused"
    assert choose_attention_kernel("float32", 64, 512) == "blocks"
    assert choose_attention_kernel("bfloat16", 48, 512) == "blocks"
    assert choose_attention_kernel("bfloat16", 64, 1) == "blocks"
    monkeypatch.setattr(attention_kernel, "gpu_capability", lambda: 7.5)
    assert choose_attention_kernel("bfloat16", 64, 512) == "blocks"


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="for the other backends")
def test_other_backends_refuse_kernels_of_jax_by_name(monkeypatch):
    monkeypatch.setenv("BLT_ATTENTION", "fused")
    with pytest.raises(ConfigError, match="needs KERAS_BACKEND=jax"):
        choose_attention_kernel("bfloat16", 64, 512)
