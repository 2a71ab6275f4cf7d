import collections
import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.ngram.engine import NgramEngine
from blt.tokenizer import frame_tokens

TEXTS = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"The statement ", b"import this\n" * 9])),
    max_size=8,
)


def reference(model, tokens):
    """Entropies and nats about each token, from full distributions of the document alone."""
    entropies, nats = [0.0], [0.0]
    for i in range(1, len(tokens)):
        p = model.distribution(tokens[:i])
        entropies.append(-(p * np.log(p)).sum())
        nats.append(-np.log(p[tokens[i]]))
    return np.array(entropies), np.array(nats)


def test_it_equals_the_full_distributions(model, documents):
    texts = [frame_tokens(b""), frame_tokens(b"\xff\xfeThe"), documents[3][:300]]
    for tokens, result in zip(texts, NgramEngine(model).run(enumerate(texts)), strict=True):
        entropies, nats = reference(model, tokens)
        np.testing.assert_allclose(result.entropies, entropies, atol=2e-5)
        np.testing.assert_allclose(result.token_nats, nats, atol=2e-5)
        assert result.entropies.dtype == result.token_nats.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, chunk=st.integers(1, 90), cut=st.integers(1, 50))
def test_neighbours_chunks_and_parts_do_not_show(model, texts, chunk, cut):
    documents = [frame_tokens(text) for text in texts]
    alone = [next(NgramEngine(model).run([(0, tokens)])) for tokens in documents]
    engine = NgramEngine(model, chunk_tokens=chunk)
    together = list(engine.run(enumerate(documents)))
    assert [result.key for result in together] == list(range(len(texts)))
    parts = [
        (number, tokens[i : i + cut], i > 0)
        for number, tokens in enumerate(documents)
        for i in range(0, len(tokens), cut)
    ]
    by_part = list(engine.run(parts))
    for number, expected in enumerate(alone):
        mine = [result for result in by_part if result.key == number]
        for name in ("entropies", "token_nats"):
            wanted = getattr(expected, name)
            np.testing.assert_array_equal(getattr(together[number], name), wanted)
            joined = np.concatenate([getattr(result, name) for result in mine])
            np.testing.assert_array_equal(joined, wanted)


def test_nothing_in_nothing_out(model):
    assert list(NgramEngine(model).run([])) == []
    (result,) = NgramEngine(model).run([("empty", np.empty(0, np.uint16))])
    assert result.entropies.shape == (0,)


def test_reading_ahead_is_bounded(model):
    read = handed_back = most = 0

    def parts():
        nonlocal read
        for key in range(500):
            tokens = frame_tokens(b"some bytes" * 3)
            read += len(tokens)
            yield key, tokens

    for result in NgramEngine(model, chunk_tokens=400).run(parts()):
        most = max(most, read - handed_back)
        handed_back += len(result.entropies)
    assert handed_back == read
    assert most <= 400 + 32


def test_counters_count(model):
    counters = collections.Counter(tokens=5)
    documents = [frame_tokens(b"abc"), frame_tokens(b"")]
    assert len(list(NgramEngine(model).run(enumerate(documents), counters))) == 2
    assert counters["tokens"] == 5 + 7
    assert counters["padding"] == 2 * model.max_length


def test_neither_keras_nor_beam_is_imported():
    code = "import sys, blt.engine, blt.ngram.engine, blt.ngram.training, blt.patching.shard\n"
    code += "print([m for m in ('keras', 'tensorflow', 'apache_beam') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
