"""The entropy model in Beam's RunInference, on the local runner."""

import pickle
import sys
import weakref

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing.util import assert_that

from blt.engine import get_entropy_engine
from blt.formats.byte_shard import read_byte_shard
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.tokenizer import frame_tokens, tokens_to_bytes
from pipelines.entropy_model_handler import NAMESPACE, EntropyModelHandler, EntropyResult

RULE = PatchRule(threshold_nats=3.0)


@pytest.fixture(scope="module")
def documents(small_bytes):
    paths = sorted(small_bytes.glob("*.tfrecord"))
    texts = [tokens_to_bytes(record.tokens) for path in paths for record in read_byte_shard(path)]
    return [*texts, bytes(range(256))]


@pytest.fixture(scope="module")
def expected(documents, small_entropy_model):
    engine = get_entropy_engine(small_entropy_model)
    return list(engine.run(enumerate(map(frame_tokens, documents))))


@pytest.fixture
def infer(tmp_path):
    return lambda elements, handler: run_inference(elements, handler, tmp_path / "results")


def run_inference(elements, handler, path):
    """Runs keyed elements through RunInference; returns the results by key, and the metrics."""

    def remember(pairs):  # in a worker, which has a copy of all that is here
        path.write_bytes(pickle.dumps(pairs))

    pipeline = beam.Pipeline("FnApiRunner")
    results = (
        pipeline
        | beam.Create(list(enumerate(elements)), reshuffle=False)
        | RunInference(KeyedModelHandler(handler))
    )
    assert_that(results, remember)
    result = pipeline.run()
    result.wait_until_finish()
    counters = {
        counter.key.metric.name: counter.result
        for counter in result.metrics().query()["counters"]
        if counter.key.metric.namespace == NAMESPACE
    }
    return dict(pickle.loads(path.read_bytes())), counters


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_results_are_the_engines_whatever_the_batch(
    infer, documents, expected, small_entropy_model, batch_size
):
    handler = EntropyModelHandler(small_entropy_model, rule=RULE, batch_size=batch_size)
    found, counters = infer(documents, handler)
    assert sorted(found) == list(range(len(documents)))
    for index, own in enumerate(expected):
        result = found[index]
        np.testing.assert_allclose(result.entropies, own.entropies, atol=1e-5)
        np.testing.assert_allclose(result.token_nats, own.token_nats, atol=2e-5)
        lengths = find_patch_lengths(frame_tokens(documents[index]), own.entropies, RULE)
        np.testing.assert_array_equal(result.patch_lengths, lengths)
        assert result.error is None
    assert counters["num_inferences"] == len(documents)


def test_a_rule_that_cuts_context_at_newlines_has_entropies_of_lines(small_entropy_model):
    rule = PatchRule(threshold_nats=3.0, reset_on_newline=True)
    handler = EntropyModelHandler(small_entropy_model, rule=rule)
    result, line = handler.run_inference([b"a\nsame\nsame", b"same"], handler.load_model())
    np.testing.assert_allclose(result.entropies[8:], line.entropies[1:], atol=1e-5)
    np.testing.assert_allclose(result.entropies[3:7], line.entropies[1:5], atol=1e-5)


def test_bad_elements_are_told_and_the_rest_of_their_batch_is_done(
    infer, documents, expected, small_entropy_model
):
    bad = {
        "text": "neither bytes nor an array of tokens, but str",
        (1, 2): "but tuple",
        None: "but NoneType",
    }
    arrays = [
        (np.array([1, 300, 2]), "outside 0..259"),
        (np.array([1, -1]), "outside 0..259"),
        (np.array([69, 2]), "must begin with BOS"),
        (np.array([], np.int32), "must begin with BOS"),
        (np.array([1.0, 69.0]), "not float64 of shape (2,)"),
        (np.ones((1, 3), int), "of shape (1, 3)"),
    ]
    cases = [*bad.items(), *arrays]
    elements = [documents[2], *(element for element, _ in cases), frame_tokens(documents[3])]
    found, counters = infer(elements, EntropyModelHandler(small_entropy_model))
    for index, (_, message) in enumerate(cases, start=1):
        assert message in found[index].error
        assert found[index] == EntropyResult(error=found[index].error)
    np.testing.assert_allclose(found[0].entropies, expected[2].entropies, atol=1e-5)
    np.testing.assert_allclose(found[len(cases) + 1].entropies, expected[3].entropies, atol=1e-5)
    assert found[0].patch_lengths is None
    assert counters["refused_elements"] == len(cases)
    assert "failed_batches_counter" not in counters


def test_without_keys_there_is_a_result_for_each_element(documents, small_entropy_model):
    handler = EntropyModelHandler(small_entropy_model)
    results = handler.run_inference(documents, handler.load_model())
    assert [len(result.entropies) for result in results] == [len(raw) + 2 for raw in documents]
    assert handler.run_inference([], handler.load_model()) == []


def test_it_is_what_beam_wants_of_a_handler(small_entropy_model):
    hints = {"accelerator": "type:nvidia-l4;count:1"}
    handler = EntropyModelHandler(small_entropy_model, batch_size=64, resource_hints=hints)
    engine = handler.load_model()
    assert weakref.ref(engine)() is engine is handler.load_model()
    assert handler.batch_elements_kwargs() == {"min_batch_size": 64, "max_batch_size": 64}
    assert handler.get_resource_hints() == hints
    assert not handler.share_model_across_processes()
    assert handler.get_num_bytes([b"abc", None, np.zeros(2, np.int32)]) == 11
    assert "tensorflow_hub" not in sys.modules


def test_what_it_cannot_do_is_refused(small_entropy_model):
    handler = EntropyModelHandler(small_entropy_model)
    with pytest.raises(ValueError, match="takes no inference_args, got \\['temperature'\\]"):
        handler.validate_inference_args({"temperature": 1})
    with pytest.raises(ValueError, match="cannot change to other.keras"):
        handler.update_model_path("other.keras")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        EntropyModelHandler(small_entropy_model, batch_size=0)
