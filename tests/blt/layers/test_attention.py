import keras
import numpy as np
import pytest
from keras import ops

from blt.layers import CausalAttention, make_block_mask

BATCH, NUM_TOKENS, DIM = 2, 32, 24


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def dense_attention(layer, x, segment_ids, window):
    """The same layer by its definition: one token at a time, in NumPy float64."""
    dim = x.shape[-1]
    heads, kv_heads = layer.num_heads, layer.num_kv_heads
    size = dim // heads
    qkv = x.astype(np.float64) @ layer.qkv.kernel.numpy().astype(np.float64)
    q, k, v = np.split(qkv, [heads * size, (heads + kv_heads) * size], axis=-1)
    half = np.arange(size // 2)
    out = np.zeros((*x.shape[:2], heads * size))

    def rotate(vector, position):
        angle = position * layer.rope_theta ** (-2 * half / size)
        first, second = vector[: size // 2], vector[size // 2 :]
        return np.concatenate(
            [
                first * np.cos(angle) - second * np.sin(angle),
                second * np.cos(angle) + first * np.sin(angle),
            ]
        )

    for b in range(x.shape[0]):
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            kv_head = head // (heads // kv_heads)
            theirs = slice(kv_head * size, (kv_head + 1) * size)
            for t in range(x.shape[1]):
                seen = [
                    s
                    for s in range(t + 1)
                    if segment_ids[b, s] == segment_ids[b, t] and (window is None or t - s < window)
                ]
                query = rotate(q[b, t, mine], t)
                scores = np.array([query @ rotate(k[b, s, theirs], s) for s in seen])
                weights = np.exp((scores - scores.max()) / np.sqrt(size))
                weights /= weights.sum()
                out[b, t, mine] = weights @ v[b, seen, theirs]
    return out @ layer.out.kernel.numpy().astype(np.float64)


@pytest.mark.parametrize(
    ("window", "block_size"), [(None, 8), (1, 8), (5, 8), (8, 8), (9, 8), (17, 4), (100, 16)]
)
def test_attention_equals_its_definition(rng, window, block_size):
    layer = CausalAttention(4, num_kv_heads=2)
    layer.build((None, None, DIM))
    x = rng.normal(size=(BATCH, NUM_TOKENS, DIM)).astype(np.float32)
    segment_ids = np.sort(rng.integers(1, 4, (BATCH, NUM_TOKENS)), axis=1).astype(np.int32)
    mask = make_block_mask(ops.convert_to_tensor(segment_ids), window=window, block_size=block_size)
    got = ops.convert_to_numpy(layer(x, mask))
    np.testing.assert_allclose(got, dense_attention(layer, x, segment_ids, window), atol=2e-6)


def test_attention_does_not_look_ahead(rng):
    layer = CausalAttention(4)
    x = rng.normal(size=(1, NUM_TOKENS, DIM)).astype(np.float32)
    segment_ids = ops.ones((1, NUM_TOKENS), "int32")
    mask = make_block_mask(segment_ids, window=None, block_size=8)
    before = ops.convert_to_numpy(layer(x, mask))
    x[:, 20:] += 1.0
    after = ops.convert_to_numpy(layer(x, mask))
    np.testing.assert_array_equal(before[:, :20], after[:, :20])
    assert not np.allclose(before[:, 20:], after[:, 20:])


def test_scores_are_float32_under_mixed_precision(rng):
    """Scores of 1000 and 1001 are one number in bfloat16; their softmax is not."""
    layer = CausalAttention(1, dtype="mixed_bfloat16")
    layer.build((None, None, 2))
    q = ops.convert_to_tensor(np.array([[[[1.0, 0.0]], [[1.0, 0.0]]]]), "bfloat16")
    k = ops.convert_to_tensor(np.array([[[[0.0, 0.0]], [[0.0, 0.0]]]]), "bfloat16")
    v = ops.convert_to_tensor(np.array([[[[1.0, 0.0]], [[0.0, 1.0]]]]), "bfloat16")
    mask = make_block_mask(ops.ones((1, 2), "int32"), window=None, block_size=2)
    out = ops.convert_to_numpy(ops.cast(layer._attend(q, k, v, mask, 0, 2), "float32"))
    np.testing.assert_allclose(out[0, 0, 0, 0], [1.0, 0.0])
    np.testing.assert_allclose(out[0, 1, 0, 0], [0.5, 0.5])
    assert keras.backend.standardize_dtype(layer(np.ones((1, 2, 2)), mask).dtype) == "bfloat16"


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of num_kv_heads"):
        CausalAttention(4, num_kv_heads=3)
    with pytest.raises(ValueError, match="multiple of num_heads"):
        CausalAttention(5).build((None, None, 24))
