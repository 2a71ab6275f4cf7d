"""What a Keras user calls first works on every model."""

import copy
import pickle

import keras
import numpy as np
import pytest

import blt
from blt.errors import UserError
from blt.model.serialization import save_model
from tests.blt.model.test_blt import SMALL

TOKENS = np.arange(70, 102, dtype="int32")[None]


def entropy_model(**changes):
    return blt.EntropyModel(dim=32, num_layers=1, num_heads=2, window=16, **changes)


def blt_model(**changes):
    # By a threshold that cuts the text into several patches.
    patches = {"entropy_model": entropy_model(), "patch_rule": {"threshold_nats": 5.5}}
    return blt.ByteLatentTransformer(**{**SMALL, **patches, **changes})


MAKERS = {
    "entropy": entropy_model,
    "blt": blt_model,
    "tied entropy": lambda: entropy_model(tied_embeddings="both"),
    "tied blt": lambda: blt_model(tied_embeddings="embedding"),
}


@pytest.fixture(params=MAKERS)
def model(request):
    keras.utils.set_random_seed(0)
    return MAKERS[request.param]()


def run(model):
    return keras.ops.convert_to_numpy(model(TOKENS))


@pytest.mark.parametrize("nested", [False, True])
def test_summary_names_the_parts(model, nested):
    lines = []
    model.summary(expand_nested=nested, print_fn=lines.append)
    text = "\n".join(lines)
    assert all(layer.name[:12] in text for layer in model.layers)


@pytest.mark.parametrize(
    "again",
    [
        keras.models.clone_model,
        lambda model: type(model).from_config(model.get_config()),
    ],
    ids=["clone_model", "from_config"],
)
def test_a_clone_is_the_same_model_with_weights_of_its_own(model, again):
    other = again(model)
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(run(other), run(model))


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["copy", "pickle"],
)
def test_a_copy_computes_the_same(model, again):
    np.testing.assert_array_equal(run(again(model)), run(model))


def test_weights_are_saved_and_loaded(model, tmp_path):
    before = run(model)
    model.save_weights(tmp_path / "x.weights.h5")
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    model.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(run(model), before)


def test_shapes_are_told_without_running(model):
    shape = (1, TOKENS.shape[1], model.vocab_size)
    assert model.compute_output_shape(TOKENS.shape) == shape
    assert model.predict_on_batch(TOKENS).shape == shape


def test_quantized_weights_keep_what_it_says(model):
    # Given patches: an entropy model that is quantized, too, cuts others.
    is_blt = isinstance(model, blt.ByteLatentTransformer)
    given = {"patch_lengths": np.full((1, 8), 4, "int32")} if is_blt else {}
    before = keras.ops.convert_to_numpy(model(TOKENS, **given))
    model.quantize("int8")
    after = keras.ops.convert_to_numpy(model(TOKENS, **given))
    assert 0 < np.sqrt(np.mean((after - before) ** 2)) < 0.05 * np.std(before)


def test_any_model_is_loaded_by_its_file(model, tmp_path):
    save_model(model, tmp_path / "model.keras")
    loaded = blt.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(run(loaded), run(model))
    with pytest.raises(UserError, match="no such file"):
        blt.load_model(tmp_path / "other.keras")


def test_entropies_are_of_logits_alone():
    model = entropy_model()
    assert model.compute_entropy(model(TOKENS)).shape == TOKENS.shape
    for wrong in (TOKENS, TOKENS.astype("float32"), np.zeros((1, 260), "int32")):
        with pytest.raises(ValueError, match="logits of shape"):
            model.compute_entropy(wrong)
