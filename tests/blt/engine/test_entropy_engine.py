import collections
import threading

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from blt.engine import EntropyEngine, get_entropy_engine, stream
from blt.errors import UserError
from blt.model import EntropyModel
from blt.model.serialization import save_model
from blt.tokenizer import frame_tokens

WINDOW = 20
WINDOWS = [1, 15, 16, 33]
# lanes, row_length, group_tokens, num_threads
SHAPES = [(1, 16, 0, 1), (3, 32, 0, 1), (4, 64, 0, 1), (1, 32, 100, 3), (2, 48, 1, 2)]


def make_model(window):
    keras.utils.set_random_seed(0)
    model = EntropyModel(
        dim=16, num_layers=2, num_heads=2, window=window, ngram_sizes=(2, 4), ngram_table_size=50
    )
    # Weights that make entropies differ from byte to byte, as a trained model's do.
    model.embedding.byte_table.assign(model.embedding.byte_table.numpy() * 50)
    model.output_layer.kernel.assign(model.output_layer.kernel.numpy() * 3)
    return model


def make_engine(model, shape):
    lanes, row_length, group_tokens, num_threads = shape
    return EntropyEngine(
        model,
        lanes=lanes,
        row_length=row_length,
        group_tokens=group_tokens,
        num_threads=num_threads,
    )


@pytest.fixture(scope="module")
def model():
    return make_model(WINDOW)


@pytest.fixture(scope="module")
def engines(model):
    return [make_engine(model, shape) for shape in SHAPES]


@pytest.fixture(scope="module", params=WINDOWS)
def engine_of_window(request):
    """(window, model, engine): a shape for each window."""
    number = WINDOWS.index(request.param)
    model = make_model(request.param)
    return request.param, model, make_engine(model, SHAPES[-1 - number])


def make_document(num_bytes, seed=0):
    rng = np.random.default_rng([num_bytes, seed])
    return frame_tokens(rng.integers(97, 123, num_bytes, np.uint8).tobytes())


def reference(model, tokens, window):
    """Entropies and nats about each token: one pass, the document alone, a dense mask."""
    num_tokens = len(tokens)
    # What comes after a token does not show: few lengths, so that few programs are compiled.
    places = 1 << (num_tokens - 1).bit_length()
    padded = np.pad(tokens.astype(np.int32), (0, places - num_tokens))[None]
    distance = np.arange(places)[:, None] - np.arange(places)[None, :]
    mask = ((distance >= 0) & (distance < window))[None, None]  # [batch, block, query, key]
    x = model.embedding(padded, np.ones_like(padded))
    for layer in model.transformer_layers:
        x = layer(x, ops.convert_to_tensor(mask))
    logits = model.output_layer(model.norm(x))
    log_probabilities = ops.convert_to_numpy(ops.log_softmax(logits))[0, :num_tokens]
    log_probabilities = log_probabilities.astype(np.float64)
    entropies = -(np.exp(log_probabilities) * log_probabilities).sum(-1)
    nats = -log_probabilities[np.arange(num_tokens - 1), tokens[1:]]
    return np.concatenate([[0], entropies[:-1]]), np.concatenate([[0], nats])


def assert_equals_reference(model, tokens, entropies, token_nats, window=WINDOW):
    expected_entropies, expected_nats = reference(model, tokens, window)
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


def test_windows_of_any_size(engine_of_window):
    window, model, engine = engine_of_window
    row = engine.row_length
    lengths = [0, 1, 2, window - 1, window, window + 1, row - 2, row - 1, row, 20 * row, 0, 3]
    documents = [make_document(n) for n in lengths]
    for tokens, result in zip(documents, engine.run(enumerate(documents)), strict=True):
        assert_equals_reference(model, tokens, result.entropies, result.token_nats, window)


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
    monkeypatch.setattr(stream, "MAX_TOKENS_IN_FLIGHT", 500)
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


def test_results_do_not_depend_on_the_number_of_threads(model):
    documents = [(key, make_document(37 * key % 400, seed=key)) for key in range(40)]
    runs = []
    for num_threads in (1, 2, 5):
        engine = EntropyEngine(
            model, lanes=1, row_length=32, group_tokens=300, num_threads=num_threads
        )
        counters = collections.Counter()
        runs.append((list(engine.run(documents, counters)), counters))
    (expected, counted), *others = runs
    for results, counters in others:
        assert [result.key for result in results] == list(range(40))
        for got, wanted in zip(results, expected, strict=True):
            np.testing.assert_array_equal(got.entropies, wanted.entropies)
            np.testing.assert_array_equal(got.token_nats, wanted.token_nats)
        assert {n: counters[n] for n in ("tokens", "padding")} == {
            n: counted[n] for n in ("tokens", "padding")
        }


def test_groups_hold_whole_documents_and_little_padding(model):
    lengths = np.random.default_rng(0).integers(0, 60, 1000)
    documents = [make_document(n, seed=key) for key, n in enumerate(lengths)]
    engine = EntropyEngine(model, lanes=1, row_length=32, group_tokens=512, num_threads=2)
    counters = collections.Counter()
    assert len(list(engine.run(enumerate(documents), counters))) == len(documents)
    assert counters["tokens"] == sum(map(len, documents))
    # Ended anywhere, groups would leave half a row in 17, 3 %.
    assert counters["padding"] <= 0.015 * (counters["tokens"] + counters["padding"])
    assert counters["device_microseconds"] > 0


def test_a_document_that_cannot_be_held_is_streamed(model, engines, monkeypatch):
    monkeypatch.setattr(stream, "MAX_TOKENS_IN_FLIGHT", 256)
    texts = {0: make_document(100), 1: make_document(5000), 2: make_document(40, seed=1)}
    read = []

    def parts():
        for key, tokens in texts.items():
            for start in range(0, len(tokens), 64):
                read.append(key)
                yield (key, start), tokens[start : start + 64], start > 0

    results = []
    ahead = 0
    for result in engines[3].run(parts()):
        results.append(result)
        ahead = max(ahead, len(read) - len(results))
    assert ahead <= 12  # parts of 64 tokens; the long document alone has 79
    for key, tokens in texts.items():
        own = [result for result in results if result.key[0] == key]
        entropies = np.concatenate([result.entropies for result in own])
        token_nats = np.concatenate([result.token_nats for result in own])
        assert_equals_reference(model, tokens, entropies, token_nats)


def test_threads_that_lag_are_waited_for(model, monkeypatch):
    engine = EntropyEngine(model, lanes=1, row_length=32, group_tokens=32, num_threads=2)
    program, go_on = engine._program, threading.Event()

    def wait(*arguments):
        go_on.wait(60)
        return program(*arguments)

    monkeypatch.setattr(engine, "_program", wait)
    read = []

    def documents():
        for key in range(100):
            read.append(key)
            yield key, make_document(30, seed=key)

    results = []
    thread = threading.Thread(target=lambda: results.extend(engine.run(documents())))
    thread.start()
    thread.join(0.5)
    read_before = len(read)
    go_on.set()
    thread.join()
    assert 1 < read_before <= 2 * 2 + 2
    assert [result.key for result in results] == list(range(100))


def test_a_caller_that_has_enough_may_leave(engines):
    documents = ((key, make_document(50, seed=key)) for key in range(1000))
    first = next(iter(engines[3].run(documents)))
    assert first.key == 0
    assert next(documents)[0] < 500


def test_an_error_in_a_thread_reaches_the_caller(model, monkeypatch):
    engine = EntropyEngine(model, lanes=1, row_length=32, group_tokens=100, num_threads=2)

    def fail(*_):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine, "_program", fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        list(engine.run([(key, make_document(60, seed=key)) for key in range(9)]))


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
