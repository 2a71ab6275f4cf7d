import threading

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from blt.engine import EntropyEngine, entropy_engine, get_entropy_engine
from blt.errors import UserError
from blt.model import EntropyModel
from blt.model.serialization import save_model
from blt.tokenizer import frame_tokens

WINDOW = 20
SHAPES = [(1, 16), (3, 32), (4, 64)]  # lanes, row_length


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = EntropyModel(
        dim=16, num_layers=2, num_heads=2, window=WINDOW, ngram_sizes=(2, 4), ngram_table_size=50
    )
    # Weights that make entropies differ from byte to byte, as a trained model's do.
    model.embedding.byte_table.assign(model.embedding.byte_table.numpy() * 50)
    model.output_layer.kernel.assign(model.output_layer.kernel.numpy() * 3)
    return model


@pytest.fixture(scope="module")
def engines(model):
    return [EntropyEngine(model, lanes=lanes, row_length=row) for lanes, row in SHAPES]


def make_document(num_bytes, seed=0):
    rng = np.random.default_rng([num_bytes, seed])
    return frame_tokens(rng.integers(97, 123, num_bytes, np.uint8).tobytes())


def reference(model, tokens):
    """Entropies and nats about each token, from one full pass over the document alone."""
    logits = model(tokens[None].astype(np.int32))
    entropies = ops.convert_to_numpy(model.compute_entropy(logits))[0]
    log_probabilities = ops.convert_to_numpy(ops.log_softmax(logits))[0]
    nats = -log_probabilities[np.arange(len(tokens) - 1), tokens[1:]]
    return np.concatenate([[0], entropies[:-1]]), np.concatenate([[0], nats])


def assert_equals_reference(model, tokens, entropies, token_nats):
    expected_entropies, expected_nats = reference(model, tokens)
    np.testing.assert_allclose(entropies, expected_entropies, atol=1e-5)
    np.testing.assert_allclose(token_nats, expected_nats, atol=2e-5)


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_lengths_at_every_seam(model, engines, shape):
    row = SHAPES[shape][1]
    lengths = [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, row - 2, row - 1, row, 20 * row, 0, 3]
    documents = [make_document(n) for n in lengths]
    results = list(engines[shape].run(enumerate(documents)))
    assert [result.key for result in results] == list(range(len(lengths)))
    for tokens, result in zip(documents, results, strict=True):
        assert result.entropies.dtype == result.token_nats.dtype == np.float32
        assert_equals_reference(model, tokens, result.entropies, result.token_nats)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 150), max_size=12),
    order=st.randoms(use_true_random=False),
    shape=st.sampled_from(range(len(SHAPES))),
)
def test_neighbours_order_and_shape_do_not_show(model, engines, lengths, order, shape):
    documents = [(key, make_document(n, seed=key)) for key, n in enumerate(lengths)]
    order.shuffle(documents)
    results = list(engines[shape].run(documents))
    assert [result.key for result in results] == [key for key, _ in documents]
    for (_, tokens), result in zip(documents, results, strict=True):
        assert_equals_reference(model, tokens, result.entropies, result.token_nats)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), shape=st.sampled_from(range(len(SHAPES))))
def test_parts_of_a_document_are_one_document(model, engines, data, shape):
    documents = [make_document(data.draw(st.integers(0, 300)), seed=i) for i in range(4)]
    parts = []
    for number, tokens in enumerate(documents):
        cuts = data.draw(st.lists(st.integers(1, len(tokens)), max_size=4))
        edges = [0, *sorted(cuts), len(tokens)]
        for index in range(len(edges) - 1):
            parts.append(((number, index), tokens[edges[index] : edges[index + 1]], index > 0))
    results = list(engines[shape].run(parts))
    assert [result.key for result in results] == [part[0] for part in parts]
    for number, tokens in enumerate(documents):
        mine = [result for result in results if result.key[0] == number]
        entropies = np.concatenate([result.entropies for result in mine])
        token_nats = np.concatenate([result.token_nats for result in mine])
        assert_equals_reference(model, tokens, entropies, token_nats)


def test_reading_ahead_is_bounded(engines, monkeypatch):
    monkeypatch.setattr(entropy_engine, "MAX_TOKENS_IN_FLIGHT", 500)
    read = handed_back = 0
    most = 0

    def documents():
        nonlocal read
        for key in range(300):
            tokens = make_document(1000 if key % 50 == 0 else 20)
            read += len(tokens)
            yield key, tokens

    for result in engines[1].run(documents()):
        most = max(most, read - handed_back)
        handed_back += len(result.entropies)
    assert handed_back == read
    assert most <= 500 + 2 * 1002  # one document may pass the bound, and one is looked ahead at


def test_threads_share_an_engine(model, engines):
    documents = [(key, make_document(80, seed=key)) for key in range(10)]
    expected = [result.entropies for result in engines[2].run(documents)]
    results = {}

    def work(name):
        results[name] = [result.entropies for result in engines[2].run(documents)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(3):
        for got, wanted in zip(results[name], expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_nothing_in_nothing_out(engines):
    assert list(engines[0].run([])) == []
    (result,) = engines[0].run([("empty", np.empty(0, np.uint16))])
    assert result.entropies.shape == (0,)


def test_rows_must_be_whole_blocks(model):
    with pytest.raises(ValueError, match="multiple of the model's block size"):
        EntropyEngine(model, row_length=24)


def test_a_process_loads_a_file_once(model, tmp_path):
    path = tmp_path / "entropy.keras"
    save_model(model, path)
    assert get_entropy_engine(path) is get_entropy_engine(str(path))
    with pytest.raises(UserError, match="no such file"):
        get_entropy_engine(tmp_path / "none.keras")
