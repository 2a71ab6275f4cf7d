import itertools
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from blt.layers.attention import choose_block_size
from blt.model import EntropyModel
from tests.shared import SHARED, needs_shared


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return EntropyModel(
        dim=16, num_layers=2, num_heads=2, window=20, ngram_sizes=(2, 5), ngram_table_size=50
    )


def numpy_logits(model, tokens, segment_ids=None):
    return ops.convert_to_numpy(model(tokens, segment_ids=segment_ids))


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, 8)), seed=st.integers(0, 1000))
def test_streaming_rows_equals_one_pass(model, cuts, seed):
    rng = np.random.default_rng(seed)
    size = model.block_size
    tokens = rng.integers(0, 260, (2, 9 * size)).astype(np.int32)
    segment_ids = np.sort(rng.integers(1, 5, tokens.shape), axis=1).astype(np.int32)
    state, pieces = model.initial_state(2), []
    edges = [0, *sorted(cuts), 9]
    for start, end in itertools.pairwise(edges):
        here = slice(start * size, end * size)
        logits, state = model.stream(
            ops.convert_to_tensor(tokens[:, here]),
            ops.convert_to_tensor(segment_ids[:, here]),
            state,
        )
        pieces.append(ops.convert_to_numpy(logits))
    expected = numpy_logits(model, tokens, segment_ids)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, atol=1e-5)


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 40])
def test_any_length_and_no_look_ahead(model, num_tokens):
    tokens = np.random.default_rng(1).integers(4, 260, (1, 64)).astype(np.int32)
    logits = numpy_logits(model, tokens[:, :num_tokens])
    assert logits.shape == (1, num_tokens, 260)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, numpy_logits(model, tokens)[:, :num_tokens], atol=1e-5)


def test_documents_of_a_row_do_not_see_one_another(model):
    rng = np.random.default_rng(2)
    first, second = rng.integers(4, 260, (2, 1, 11)).astype(np.int32)
    row = np.concatenate([first, second], axis=1)
    segment_ids = np.repeat([[1, 2]], 11, axis=1).astype(np.int32)
    together = numpy_logits(model, row, segment_ids)
    np.testing.assert_allclose(together[:, 11:], numpy_logits(model, second), atol=1e-5)


def test_window_bounds_what_is_seen():
    """A byte further back than layers * (window - 1) cannot matter; one nearer does."""
    model = EntropyModel(dim=16, num_layers=2, num_heads=2, window=5)
    tokens = np.full((1, 30), 50, np.int32)
    tokens[0, ::3] = 60
    changed = tokens.copy()
    changed[0, 10] = 70
    difference = np.abs(numpy_logits(model, tokens) - numpy_logits(model, changed)).max(axis=-1)[0]
    assert difference[:10].max() == 0.0
    assert difference[10 + 2 * 4] > 0.0
    assert difference[10 + 2 * 4 + 1 :].max() == 0.0


def test_entropy_of_known_distributions(model):
    uniform = np.zeros((1, 1, 260), np.float32)
    certain = uniform.copy()
    certain[..., 7] = 1000.0
    even = np.full((1, 1, 260), -1000.0, np.float32)
    even[..., :2] = 0.0
    got = [float(model.compute_entropy(logits)[0, 0]) for logits in (uniform, certain, even)]
    np.testing.assert_allclose(got, [np.log(260), 0.0, np.log(2)], atol=1e-5)


def test_mixed_precision_gives_float32_logits():
    model = EntropyModel(dim=16, num_layers=1, num_heads=2, window=8, dtype="mixed_bfloat16")
    logits = model(np.ones((1, 5), np.int32))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


def test_block_sizes_are_half_a_window():
    assert [choose_block_size(w) for w in (1, 20, 64, 100, 512)] == [16, 16, 32, 32, 128]


def halves_of_pairs(matrix, num_heads):
    """Reorders rows [2j, 2j + 1] of each head to [j, j + head_dim / 2]."""
    dim = matrix.shape[0]
    pairs = matrix.reshape(num_heads, dim // num_heads // 2, 2, matrix.shape[1])
    return pairs.swapaxes(1, 2).reshape(dim, matrix.shape[1])


@needs_shared
@pytest.mark.parametrize("window", [512, 16])
def test_published_model_gives_the_published_numbers(window):
    folder = SHARED / "vectors"
    config = json.loads((folder / "entropy_meta_T.json").read_text())["config"]
    vectors = np.load(folder / "entropy_meta_T.npz")
    heads = config["n_heads"]
    model = EntropyModel(
        dim=config["dim"],
        num_layers=config["n_layers"],
        num_heads=heads,
        hidden_dim=256,
        window=window,
        normalization_type="rms_norm",
    )
    weights = {name[2:]: vectors[name] for name in vectors.files if name.startswith("w/")}
    model.embedding.byte_table.assign(weights["tok_embeddings.weight"])
    model.norm.scale.assign(weights["norm.weight"])
    model.output_layer.kernel.assign(weights["output.weight"].T)
    for i, layer in enumerate(model.transformer_layers):
        w = {k.removeprefix(f"layers.{i}."): v for k, v in weights.items()}
        q, k = (halves_of_pairs(w[f"attention.{name}.weight"], heads) for name in ("wq", "wk"))
        qkv = np.concatenate([q, k, w["attention.wv.weight"]])
        layer.attention.qkv.kernel.assign(qkv.T)
        layer.attention.out.kernel.assign(w["attention.wo.weight"].T)
        gate_up = np.concatenate([w["feed_forward.w1.weight"], w["feed_forward.w3.weight"]])
        layer.feed_forward.gate_up.kernel.assign(gate_up.T)
        layer.feed_forward.down.kernel.assign(w["feed_forward.w2.weight"].T)
        layer.attention_norm.scale.assign(w["attention_norm.weight"])
        layer.feed_forward_norm.scale.assign(w["ffn_norm.weight"])
    for document in ("ascii", "multilingual", "code", "one_byte", "empty", "bytes3000"):
        logits = model(vectors[f"tokens/{document}"][None])
        entropies = ops.convert_to_numpy(model.compute_entropy(logits))[0]
        expected = vectors[f"entropy_win{window}/{document}"]
        np.testing.assert_allclose(entropies, expected, atol=1e-4)
        if f"logits_positions/{document}" not in vectors:
            expected = vectors[f"logits_win{window}/{document}"]
            np.testing.assert_allclose(ops.convert_to_numpy(logits)[0], expected, atol=2e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        np.full((1, 7), 70, "int32"),
        np.full((1, 7), 70, "float32"),
        np.zeros((1, 260), "int32"),
        np.float32(1.0),
        [[70, 71]],
    ],
    ids=["ids", "floats", "integers", "scalar", "list"],
)
def test_entropies_are_of_logits_alone(model, wrong):
    """Was: of ids, a number."""
    with pytest.raises(ValueError, match=r"logits of shape \[..., 260\] are needed"):
        model.compute_entropy(wrong)


def test_uniform_logits_have_the_most_entropy(model):
    for logits in (np.zeros((2, 3, 260), "float32"), ops.zeros((2, 3, 260), "bfloat16")):
        entropies = ops.convert_to_numpy(model.compute_entropy(logits))
        np.testing.assert_allclose(entropies, np.full((2, 3), np.log(260)), rtol=1e-2)
