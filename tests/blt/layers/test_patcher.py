import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.engine import EntropyEngine, LineEngine
from blt.errors import ConfigError
from blt.layers.patcher import Patcher, cut_context
from blt.model import EntropyModel
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.tokenizer import frame_tokens

RULES = [
    {"rule": "entropy", "threshold_nats": 1.5},
    {"rule": "monotonic", "threshold_nats": 0.3},
    {"rule": "combined", "threshold_nats": 1.0, "threshold_add_nats": 0.1},
    {"rule": "static", "patch_size": 3},
    {"rule": "space"},
    {"rule": "byte"},
]


def trimmed(lengths):
    return [row[row > 0].tolist() for row in keras.ops.convert_to_numpy(lengths)]


def test_the_entropy_of_an_entry_is_about_the_token_after_it():
    patcher = Patcher(PatchRule(threshold_nats=1.5))
    #            about token  1    2    3    4    5    the next
    entropies = np.float32([[0.1, 0.1, 2.0, 0.1, 3.0, 9.0]])
    assert trimmed(patcher(entropies)) == [[1, 2, 2, 1]]
    assert trimmed(patcher(entropies, include_next=True)) == [[1, 2, 2, 1, 1]]
    entropies[0, -1] = 0.0
    assert trimmed(patcher(entropies, include_next=True)) == [[1, 2, 2, 2]]


def test_packed_documents_are_cut_as_if_alone_and_padding_is_not_cut():
    patcher = Patcher(PatchRule(rule="static", patch_size=2))
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 0]], "int32")
    entropies = np.zeros((1, 8), "float32")
    assert trimmed(patcher(entropies, segment_ids=segments)) == [[1, 2, 1, 1, 2]]
    longer = patcher(entropies, segment_ids=segments, include_next=True)
    assert trimmed(longer) == [[1, 2, 1, 1, 2, 1]]
    nothing = patcher(entropies, segment_ids=0 * segments, include_next=True)
    assert trimmed(nothing) == [[]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rule=st.sampled_from(RULES),
    most=st.sampled_from([None, 1, 2, 3]),
    compat=st.sampled_from([None, "meta"]),
)
def test_it_cuts_as_the_pipelines_do(seed, rule, most, compat):
    rule = PatchRule(**rule, max_patch_length=most, compat=compat)
    rng = np.random.default_rng(seed)
    documents = [
        np.array([1, *rng.choice([36, 50, 70, 71, 200, 259], rng.integers(0, 9)), 2])
        for _ in range(rng.integers(1, 4))
    ]
    # about[i] is about token i of its document
    about = [rng.uniform(0, 3, len(document)).astype("float32") for document in documents]
    expected = [
        length
        for document, entropies in zip(documents, about, strict=True)
        for length in find_patch_lengths(document, entropies, rule)
    ]
    tokens = np.concatenate(documents)
    segments = np.repeat(np.arange(1, len(documents) + 1), [len(d) for d in documents])
    entropies = np.append(np.concatenate(about)[1:], rng.uniform(0, 3))
    padded = [np.pad(x, (0, 32 - len(x)))[None] for x in (entropies, tokens, segments)]
    got = Patcher(rule)(
        padded[0].astype("float32"), padded[1].astype("int32"), padded[2].astype("int32")
    )
    assert got.shape == (1, 32)
    assert trimmed(got) == [expected]


def test_context_is_cut_at_newlines_as_the_line_engine_cuts_it():
    keras.utils.set_random_seed(0)
    model = EntropyModel(
        dim=16, num_layers=2, num_heads=2, window=8, ngram_sizes=(3,), ngram_table_size=50
    )
    rule = PatchRule(threshold_nats=1.0, reset_on_newline=True)
    documents = [frame_tokens(text) for text in (b"ab\ncd\n\nefgh\n", b"\n", b"no newline")]
    row = np.concatenate([*documents, [0] * 5]).astype("int32")
    segments = np.repeat([1, 2, 3, 0], [*map(len, documents), 5]).astype("int32")
    read, read_segments = cut_context(row[None], segments[None], rule)
    assert np.asarray(read_segments)[0, -5:].tolist() == [0] * 5
    entropies = keras.ops.convert_to_numpy(
        model.compute_entropy(model(read, segment_ids=read_segments))
    )
    expected = LineEngine(EntropyEngine(model)).run(enumerate(documents))
    start = 0
    for tokens, result in zip(documents, expected, strict=True):
        found = entropies[0, start : start + len(tokens) - 1]  # about the tokens after
        np.testing.assert_allclose(found, result.entropies[1:], atol=1e-5)
        start += len(tokens)
    plain = PatchRule(threshold_nats=1.0)
    assert cut_context(row, segments, plain) == (row, segments)


def test_config_round_trip_and_symbolic_shape():
    patcher = Patcher({"rule": "space", "max_patch_length": 7})
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(patcher))
    assert again.rule == patcher.rule == PatchRule(rule="space", max_patch_length=7)
    symbolic = Patcher(PatchRule(rule="byte"))(keras.KerasTensor((None, 9)), include_next=True)
    assert symbolic.shape == (None, 10)
    with pytest.raises(ConfigError, match="rule 'space' needs the tokens"):
        patcher(np.zeros((1, 4), "float32"))
