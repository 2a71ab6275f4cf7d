"""Lines as documents of their own: against the plain way, with and without the memo."""

import collections
import pydoc_data.topics
import threading

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.engine import EntropyEngine, LineEngine, line_engine
from blt.model import EntropyModel
from blt.ngram.config import NgramConfig
from blt.ngram.counting import count_documents
from blt.ngram.engine import NgramEngine
from blt.ngram.model import build_model
from blt.tokenizer import BOS_ID, NEWLINE_ID, frame_tokens

TOPICS = [text.encode() for _, text in sorted(pydoc_data.topics.topics.items())]
LINES = st.sampled_from([b"", b"a", b"\r", b"import this", b"\xff\x00", b"x" * 50])
TEXTS = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.builds(b"\n".join, st.lists(LINES, max_size=12)),
        st.sampled_from([b"\n", b"\n" * 9, b"a\r\na\r\n", b"none", b"twice\ntwice", b"tail\n"]),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def ngram():
    documents = [frame_tokens(text) for text in TOPICS[:20]]
    config = NgramConfig(order=3, min_count=2)
    return NgramEngine(build_model(count_documents(documents, config.order + 1), config))


@pytest.fixture(scope="module")
def neural():
    keras.utils.set_random_seed(0)
    model = EntropyModel(
        dim=16, num_layers=2, num_heads=2, window=16, ngram_sizes=(2, 4), ngram_table_size=50
    )
    # Weights that make entropies differ from byte to byte, as a trained model's do.
    model.embedding.byte_table.assign(model.embedding.byte_table.numpy() * 50)
    model.output_layer.kernel.assign(model.output_layer.kernel.numpy() * 3)
    return EntropyEngine(model, lanes=3, row_length=32)


def reference(engine, tokens):
    """What the engine says when each line is put to it as a document of its own."""
    cuts = np.flatnonzero(tokens == NEWLINE_ID) + 1
    lines = np.split(tokens, cuts)
    entropies, token_nats = [], []
    for number, line in enumerate(lines):
        own = line if number == 0 else np.concatenate([[BOS_ID], line])
        result = next(engine.run([(0, own)]))
        entropies.append(result.entropies[number > 0 :])
        token_nats.append(result.token_nats[number > 0 :])
    return np.concatenate(entropies), np.concatenate(token_nats)


def cut(documents, cuts):
    """Cuts each document at these places, as far as it has them: (number, tokens, continues)."""
    parts = []
    for number, tokens in enumerate(documents):
        edges = [0, *sorted(1 + place % len(tokens) for place in cuts), len(tokens)]
        for index in range(len(edges) - 1):
            parts.append((number, tokens[edges[index] : edges[index + 1]], index > 0))
    return parts


def joined(results, number):
    mine = [result for result in results if result.key == number]
    return (
        np.concatenate([result.entropies for result in mine]),
        np.concatenate([result.token_nats for result in mine]),
    )


@settings(max_examples=80, deadline=None)
@given(
    texts=TEXTS,
    cuts=st.lists(st.integers(0, 200), max_size=3),
    memo_bytes=st.sampled_from([0, 500, 2000, 1 << 20]),
    in_flight=st.sampled_from([1, 20, 1 << 20]),
    eos=st.booleans(),
)
def test_each_line_is_as_if_it_were_alone(ngram, texts, cuts, memo_bytes, in_flight, eos):
    documents = [frame_tokens(text, add_eos=eos) for text in texts]
    parts = cut(documents, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_engine, "MAX_TOKENS_IN_FLIGHT", in_flight)
        patch.setattr(line_engine, "MAX_MEMO_TOKENS", 40)
        patch.setattr(line_engine, "_LINES_AT_A_TIME", 3)
        results = list(LineEngine(ngram, memo_bytes=memo_bytes).run(parts))
    assert [result.key for result in results] == [part[0] for part in parts]
    for number, tokens in enumerate(documents):
        for got, wanted in zip(joined(results, number), reference(ngram, tokens), strict=True):
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, wanted)


@settings(max_examples=15, deadline=None)
@given(texts=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=2), memo=st.booleans())
def test_a_neural_model_too(neural, texts, cuts, memo):
    documents = [frame_tokens(text) for text in texts]
    engine = LineEngine(neural, memo_bytes=1 << 20 if memo else 0)
    results = list(engine.run(cut(documents, cuts)))
    for number, tokens in enumerate(documents):
        wanted = reference(neural, tokens)
        for got, expected in zip(joined(results, number), wanted, strict=True):
            np.testing.assert_allclose(got, expected, atol=2e-5)


def test_what_begins_without_bos_keeps_its_beginning(ngram):
    """A piece of a document, as a sample takes it: its first token is given, as ever."""
    tokens = frame_tokens(b"def f():\n    pass\nx", add_bos=False, add_eos=False)
    (result,) = LineEngine(ngram).run([(0, tokens)])
    entropies, token_nats = reference(ngram, tokens)
    np.testing.assert_array_equal(result.entropies, entropies)
    np.testing.assert_array_equal(result.token_nats, token_nats)
    assert result.entropies[0] == 0


def test_every_line_begins_as_a_document_does(ngram):
    tokens = frame_tokens(b"ab\ncd\n\n")
    (result,) = LineEngine(ngram).run([(0, tokens)])
    (plain,) = ngram.run([(0, tokens)])
    first_bytes = result.entropies[[1, 4, 7, 8]]  # of three lines, and EOS
    assert first_bytes.tolist() == [plain.entropies[1]] * 4
    assert result.entropies[:4].tolist() == plain.entropies[:4].tolist()  # the newline too
    assert (result.entropies[4:] != plain.entropies[4:]).any()
    (eos,) = ngram.run([(0, frame_tokens(b""))])
    assert result.token_nats[-1] == eos.token_nats[-1]


def test_a_line_that_comes_again_is_looked_at_once(ngram):
    documents = [frame_tokens(text) for text in (b"a\nb\na\n", b"a\nb", b"b\nb", b"c" * 2000)]
    counters = collections.Counter(memo_hits=1)
    list(LineEngine(ngram).run(enumerate(documents), counters))
    # a b a EOS | a "b EOS" | b "b EOS" | the last is too long to be looked up
    assert counters["memo_lines"] == 4 + 2 + 2
    assert counters["memo_hits"] == 1 + 4
    sent = [b"BaN", b"BbN", b"BE", b"BbE", b"B" + b"c" * 2000 + b"E"]
    assert counters["tokens"] == sum(map(len, sent))
    without = collections.Counter()
    list(LineEngine(ngram, memo_bytes=0).run(enumerate(documents), without))
    assert without["memo_hits"] == 0
    num_tokens = sum(map(len, documents))
    assert without["tokens"] == num_tokens + 3 + 1 + 1  # a BOS for each line but the first ones


def test_the_memo_keeps_to_its_bound_and_forgets_the_oldest(monkeypatch):
    made = []

    class Watched(line_engine._Memo):
        def find(self, keys):
            made.append(self)
            found = super().find(keys)
            assert self.num_bytes <= 10_000
            assert self.num_bytes == sum(map(line_engine._size, self._lines))
            return found

    monkeypatch.setattr(line_engine, "_Memo", Watched)
    monkeypatch.setattr(line_engine, "_LINES_AT_A_TIME", 1)
    lines = [b"%d\n" % number for number in range(100)]
    text = b"".join(b"kept\n" + line for line in lines) + b"".join(lines[:50])
    counters = collections.Counter()
    list(LineEngine(_Nothing(), memo_bytes=10_000).run([(0, frame_tokens(text))], counters))
    assert counters["memo_lines"] == 251  # EOS is the last
    assert counters["memo_hits"] == 99  # "kept" is never the oldest; the first numbers are gone
    assert len(made[-1]._lines) > 15


def test_the_size_of_an_entry_is_not_less_than_it_takes():
    import sys
    import tracemalloc

    tokens = [np.full(40, 100 + i % 100, np.uint16) for i in range(100)]
    keys = [b"%d" % i + array.tobytes() for i, array in enumerate(tokens * 50)]
    own = sum(map(sys.getsizeof, keys))
    tracemalloc.start()
    memo = line_engine._Memo(1 << 30)
    lines, _ = memo.find(keys)
    for line in lines:
        line.take(line_engine.DocumentEntropies(0, *np.ones((2, 41), np.float32)))
    del lines, line
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.6 * memo.num_bytes < taken + own <= memo.num_bytes


class _Nothing:
    """An engine that says 0 about all, and holds back the last `lag` results."""

    def __init__(self, lag=0):
        self.lag = lag
        self.fingerprint, self.precision = "none", "float32"
        self.context = {"context": "none"}

    def run(self, parts, counters=None):
        waiting = collections.deque()
        for key, tokens, *_ in parts:
            waiting.append(key)
            zeros = np.zeros(len(tokens), np.float32)
            waiting[-1] = line_engine.DocumentEntropies(key, zeros, zeros)
            if len(waiting) > self.lag:
                yield waiting.popleft()
        yield from waiting


@pytest.mark.parametrize("text", [b"the same\n" * 30, b"the same\n" * 30 + b"and an open end"])
@pytest.mark.parametrize("kind", ["documents", "parts"])
def test_reading_ahead_is_bounded_however_often_lines_come_again(monkeypatch, text, kind):
    monkeypatch.setattr(line_engine, "MAX_TOKENS_IN_FLIGHT", 1000)
    read = handed_back = most = 0

    def parts():
        nonlocal read
        for number in range(200):
            is_continuation = kind == "parts" and number > 0
            tokens = frame_tokens(text, add_bos=not is_continuation, add_eos=False)
            read += len(tokens)
            yield number, tokens, is_continuation

    # The engine waits for 10 lines more; with the same ones again and again they never come.
    for number, result in enumerate(LineEngine(_Nothing(lag=10)).run(parts())):
        assert result.key == number
        most = max(most, read - handed_back)
        handed_back += len(result.entropies)
    assert handed_back == read
    assert most <= 1000 + 2 * (len(text) + 1)


def test_nothing_in_nothing_out(ngram):
    assert list(LineEngine(ngram).run([])) == []
    results = list(LineEngine(ngram).run([(0, frame_tokens(b"a")), (1, np.empty(0, np.uint16))]))
    assert [len(result.entropies) for result in results] == [3, 0]


def test_threads_share_an_engine(neural):
    engine = LineEngine(neural)
    documents = [(key, frame_tokens(text[:300])) for key, text in enumerate(TOPICS[:6])]
    expected = [result.entropies for result in engine.run(documents)]
    results = {}

    def work(name):
        results[name] = [result.entropies for result in engine.run(documents)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(2):
        for got, wanted in zip(results[name], expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_it_says_where_its_context_ends(ngram):
    engine = LineEngine(ngram)
    assert engine.fingerprint == ngram.fingerprint
    assert engine.precision == ngram.precision
    assert engine.context["context"].endswith("; from BOS anew after every newline")
    assert engine.context["order"] == ngram.context["order"]
