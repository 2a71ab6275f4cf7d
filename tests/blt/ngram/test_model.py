import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from blt.engine import get_entropy_engine
from blt.errors import ConfigError, UserError
from blt.ngram.config import NgramConfig
from blt.ngram.counting import NO_COUNTS, count_documents
from blt.ngram.engine import NgramEngine
from blt.ngram.model import build_model, fingerprint, load_ngram, save_ngram
from blt.ngram.smoothing import count_lengths, smooth
from blt.tokenizer import EOS_ID, frame_tokens

CONTEXTS = [b"", b"T", b"The ", b"the stat", b"\xff\x00", b"qzqzqzqz", "über".encode(), b"e\n\n"]


def entropy_after(model, context):
    """The tabled entropy of what follows `context`."""
    tokens = np.append(context, EOS_ID)
    (result,) = NgramEngine(model).run([("", tokens)])
    return result.entropies[-1]


@pytest.mark.parametrize("order", [1, 2, 4, 6])
@pytest.mark.parametrize("min_count", [1, 3])
def test_distributions_sum_to_1_and_have_the_tabled_entropy(make_model, order, min_count):
    model = make_model(order=order, min_count=min_count)
    for text in CONTEXTS:
        context = frame_tokens(text, add_eos=False)
        p = model.distribution(context)
        assert p.min() > 0
        assert p.sum() == pytest.approx(1, abs=5e-6)
        assert entropy_after(model, context) == pytest.approx(-(p * np.log(p)).sum(), abs=2e-5)


def test_contexts_of_the_text_too(model, documents):
    rng = np.random.default_rng(0)
    for tokens in documents[50:70]:  # some were counted
        context = tokens[: rng.integers(1, len(tokens))]
        p = model.distribution(context)
        assert p.sum() == pytest.approx(1, abs=5e-6)
        assert entropy_after(model, context) == pytest.approx(-(p * np.log(p)).sum(), abs=2e-5)


def kneser_ney_plainly(counted, context, order):
    """[260] p, by the formula of docs/ngram.md, from dictionaries and with no table."""
    p = np.full(260, 1 / 260)
    for size in range(order + 1):
        if size > len(context):
            break
        tail = tuple(int(token) for token in context[len(context) - size :])
        weights = counted[size + 1]
        n = {i: sum(w == i for w in weights.values()) for i in (1, 2, 3, 4)}
        y = n[1] / (n[1] + 2 * n[2])
        discount = {i: np.clip(i - (i + 1) * y * n[i + 1] / n[i], 0.05, i) for i in (1, 2, 3)}
        seen = {gram[-1]: w for gram, w in weights.items() if gram[:-1] == tail}
        total = sum(seen.values())
        if not total:
            continue
        taken = sum(discount[min(w, 3)] for w in seen.values()) / total
        p = taken * p
        for v, w in seen.items():
            p[v] += (w - discount[min(w, 3)]) / total
    return p


def test_it_is_kneser_ney(documents):
    order, texts = 2, documents[:8]
    model = build_model(count_documents(texts, order + 1), NgramConfig(order=order, min_count=1))
    seen = {length: {} for length in (1, 2, 3)}
    for tokens in texts:
        for length, grams in seen.items():
            for end in range(max(2, length), len(tokens) + 1):
                gram = tuple(tokens[end - length : end].tolist())
                grams[gram] = grams.get(gram, 0) + 1
    counted = {3: seen[3]}
    for length in (1, 2):  # shorter ones count by what was before them
        counted[length] = {
            gram: (count if gram[0] == 1 else 0)
            + sum(longer[1:] == gram for longer in seen[length + 1])
            for gram, count in seen[length].items()
        }
    for text in (b"", b"T", b"The", b" \xff", b"\xff", b"zq", b".\n"):
        context = frame_tokens(text, add_eos=False)
        expected = kneser_ney_plainly(counted, context, order)
        np.testing.assert_allclose(model.distribution(context), expected, rtol=3e-6)


def test_longer_contexts_predict_better(make_model, documents):
    figures = []
    for order in (1, 3, 5):
        engine = NgramEngine(make_model(order=order, min_count=1))
        results = list(engine.run(enumerate(documents[60:])))
        nats = sum(result.token_nats.sum(dtype=np.float64) for result in results)
        figures.append(nats / sum(len(r.token_nats) - 1 for r in results))
    assert figures[0] > figures[1] + 0.3 > figures[2] + 0.3
    assert figures[2] < 2.0  # nats; the order-1 model needs some 2.5


def test_the_file_gives_the_model_back_and_equal_models_give_equal_files(model, tmp_path):
    save_ngram(model, tmp_path / "a.ngram")
    loaded = load_ngram(tmp_path / "a.ngram")
    assert fingerprint(loaded) == fingerprint(model)
    assert loaded.config == model.config
    assert loaded.config["min_count"] == 2
    save_ngram(loaded, tmp_path / "b.ngram")
    assert (tmp_path / "a.ngram").read_bytes() == (tmp_path / "b.ngram").read_bytes()
    assert get_entropy_engine(tmp_path / "a.ngram").fingerprint == fingerprint(model)


def test_the_fingerprint_tells_models_apart_not_how_they_were_made(model, make_model):
    assert fingerprint(make_model(order=4, min_count=3)) != fingerprint(model)
    renamed = dataclasses.replace(model, config={})
    assert fingerprint(renamed) == fingerprint(model)
    changed = dataclasses.replace(model, dense=model.dense.copy())
    changed.dense[5, 6, 0] += 1e-4
    assert fingerprint(changed) != fingerprint(model)


def test_it_is_made_small_enough(documents, tmp_path):
    counts = count_documents(documents, 7)
    for megabytes in (2, 3):
        model = build_model(counts, NgramConfig(order=6, max_megabytes=megabytes, min_count=1))
        save_ngram(model, tmp_path / "m.ngram")
        size = (tmp_path / "m.ngram").stat().st_size
        assert 0.5 * megabytes * 1e6 < size <= megabytes * 1e6
        assert model.config["min_count"] > 1
        p = model.distribution(frame_tokens(b"the state", add_eos=False))
        assert p.sum() == pytest.approx(1, abs=5e-6)


def test_nothing_counted_is_the_uniform_distribution():
    model = build_model(NO_COUNTS, NgramConfig(order=3))
    np.testing.assert_allclose(model.distribution(np.array([1, 70])), 1 / 260, rtol=1e-6)


@pytest.mark.parametrize("order", [2, 3, 6])
def test_text_in_which_nothing_comes_twice_gives_a_model(order):
    # Of all grams but the shortest none is kept, so that longer ones have no contexts.
    counts = count_documents([frame_tokens(bytes(range(97, 110)))], order + 1)
    model = build_model(counts, NgramConfig(order=order, min_count=2))
    for context in (b"", b"abc", b"zz"):
        p = model.distribution(frame_tokens(context, add_eos=False))
        assert p.sum() == pytest.approx(1, abs=5e-6)
        assert p.min() > 0


def test_kept_grams_have_kept_contexts_and_suffixes(documents):
    levels = smooth(count_lengths(count_documents(documents[:60], 5), 4), 3)
    for length in range(2, 6):
        shorter, longer = levels[length - 1].grams, levels[length].grams
        assert np.isin(longer >> np.uint64(9), shorter).all()
        assert np.isin(longer & np.uint64(512 ** (length - 1) - 1), shorter).all()


def write_with(path, model, arrays=None, **changes):
    described = {"kind": "blt n-gram entropy model", "format_version": 1, "order": model.order}
    described |= {"salts": [table.salt for table in model.tables], "config": {}, **changes}
    metadata = {"blt": json.dumps(described)}
    safetensors.numpy.save_file({**model.arrays(), **(arrays or {})}, path, metadata=metadata)


WRONG = {
    "kind": ({"kind": "other"}, None, "its kind is 'other'"),
    "version": ({"format_version": 9}, None, "format version 9, but this program reads version 1"),
    "order": ({"order": 1000}, None, "its order is out of range"),
    "salts": ({"salts": []}, None, "does not fit its order"),
    "salt": ({"salts": [0, -1, 0]}, None, "a salt is out of range"),
    "dense": ({}, {"dense": np.zeros((2, 2, 3), np.float32)}, r"dense is float32 \[2, 2, 3\]"),
    "dtype": ({}, {"seeds.3": np.zeros(4, np.uint32)}, "seeds.3 is uint32"),
    "sizes": ({}, {"seeds.3": np.zeros(3, np.uint16)}, "sizes of table 3"),
    "no slots": ({}, {"records.4": np.zeros((0, 4), np.uint32)}, "sizes of table 4"),
    "nan": ({}, {"records.5": np.full((9, 4), 2**32 - 1, np.uint32)}, "not finite"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_with_wrong_fields_is_refused(wrong, model, tmp_path):
    changes, arrays, message = WRONG[wrong]
    path = tmp_path / "m.ngram"
    write_with(path, model)
    load_ngram(path)
    write_with(path, model, arrays, **changes)
    with pytest.raises(UserError, match=message):
        load_ngram(path)


def test_files_that_are_no_models_are_refused(model, tmp_path):
    path = tmp_path / "m.ngram"
    with pytest.raises(UserError, match="no such file; an n-gram model is needed"):
        load_ngram(path)
    for content in (b"", b"PK\x03\x04 a zip", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not an n-gram model, or damaged"):
            load_ngram(path)
    save_ngram(model, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not an n-gram model, or damaged"):
        load_ngram(path)
    safetensors.numpy.save_file({"a": np.zeros(3)}, path)
    with pytest.raises(UserError, match="no 'blt' in it"):
        load_ngram(path)
    with pytest.raises(UserError, match="name ends with .ngram"):
        save_ngram(model, tmp_path / "m.keras")


@pytest.mark.parametrize(
    "options", [{"order": 0}, {"order": 7}, {"min_count": 0}, {"max_megabytes": 1}]
)
def test_configs_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="--" + next(iter(options)).replace("_", "-")):
        NgramConfig(**options)
