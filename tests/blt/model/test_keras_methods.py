"""What a user of Keras calls first works on every model of ours, or is refused by name.

"Was" says what a case gave before it was mended; the cases without one held.
"""

import copy
import gc
import pickle

import keras
import numpy as np
import pytest
from keras import ops

from blt.conversion.export import write_hugging_face
from blt.errors import ConfigError, UserError
from blt.model import ByteLatentTransformer, EntropyModel
from blt.model.serialization import fingerprint, load_model_file, save_model

TOKENS = np.random.default_rng(0).integers(4, 260, (2, 20)).astype("int32")
TARGETS = np.roll(TOKENS, -1, axis=1)
PATCH_LENGTHS = np.array([[4, 9, 7, 0], [6, 1, 8, 5]], "int32")


def make_entropy_model(**changes):
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "window": 8}
    return EntropyModel(**{**sizes, "ngram_sizes": [2], "ngram_table_size": 50, **changes})


def make_blt(**changes):
    options = {
        "local_dim": 16,
        "global_dim": 32,
        "num_global_layers": 1,
        "num_decoder_layers": 1,
        "local_attention_config": {"type": "sliding_window", "num_heads": 2, "window": 8},
        "global_attention_config": {"type": "multi_head", "num_heads": 2},
        "entropy_model": make_entropy_model(),
        # By a threshold that cuts these tokens into several patches.
        "patch_rule": {"threshold_nats": 5.5},
    }
    return ByteLatentTransformer(**{**options, **changes})


MAKERS = {
    "entropy": make_entropy_model,
    "blt": make_blt,
    "experts": lambda: make_blt(
        global_moe_config={"num_experts": 2, "gating_config": {"top_k": 1}}
    ),
    "given_patches": lambda: make_blt(entropy_model=None, patch_rule=None),
    "tied_entropy": lambda: make_entropy_model(tied_embeddings="both"),
    "tied_blt": lambda: make_blt(tied_embeddings="embedding"),
}


@pytest.fixture(params=MAKERS)
def model(request):
    keras.utils.set_random_seed(0)
    return MAKERS[request.param]()


def inputs_of(model):
    """As `fit` and `predict` take them."""
    if isinstance(model, EntropyModel) or model.patch_rule is not None:
        return TOKENS
    return {"tokens": TOKENS, "patch_lengths": PATCH_LENGTHS}


def logits_of(model):
    return ops.convert_to_numpy(model(inputs_of(model)))


def compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("expand_nested", [False, True])
def test_summary(model, expand_nested):
    """Was: TypeError, compute_output_shape() got an unexpected keyword argument."""
    lines = []
    model.summary(
        expand_nested=expand_nested,
        show_trainable=True,
        line_length=120,
        print_fn=lambda line, line_break=False: lines.append(line),
    )
    text = "\n".join(lines)
    assert all(layer.name in text for layer in model.layers)
    assert "?" not in text  # every layer has a shape
    assert "unbuilt" not in text
    total = sum(int(np.prod(weight.shape)) for weight in model.weights)
    assert f"Total params: {total:,}" in text
    assert f"Trainable params: {model.count_params():,}" in text


def test_every_layer_knows_its_output_shape_by_the_names_it_was_built_with(model):
    """Was: the same TypeError, on layers inside layers, which `summary` does not reach."""
    for layer in model._flatten_layers():
        assert layer.built, layer.path
        layer.compute_output_shape(**layer._build_shapes_dict)


def test_shapes_without_numbers(model):
    logits = logits_of(model)
    assert model.compute_output_shape(TOKENS.shape) == logits.shape
    assert model.compute_output_shape((None, None)) == (None, None, 260)
    assert model.compute_output_shape({"tokens": (2, 20), "patch_lengths": (2, 4)}) == logits.shape
    spec = model.compute_output_spec(keras.KerasTensor((2, 20), dtype="int32"))
    assert (spec.shape, spec.dtype) == (logits.shape, "float32")


def test_inside_a_functional_model(model, tmp_path):
    arrays = inputs_of(model)
    arrays = list(arrays.values()) if isinstance(arrays, dict) else [arrays]
    places = [keras.Input(array.shape[1:], dtype="int32") for array in arrays]
    whole = keras.Model(places, model(*places))
    expected = logits_of(model)
    np.testing.assert_allclose(whole.predict(arrays, verbose=0), expected, atol=1e-5)
    whole.save(tmp_path / "whole.keras")
    again = keras.models.load_model(tmp_path / "whole.keras")
    np.testing.assert_allclose(again.predict(arrays, verbose=0), expected, atol=1e-5)


def test_symbolic_logits_are_float32_as_real_ones_are():
    """Was: bfloat16."""
    model = make_entropy_model(dtype="mixed_bfloat16")
    assert model(keras.Input((20,), dtype="int32")).dtype == "float32"
    assert keras.backend.standardize_dtype(model(TOKENS).dtype) == "float32"


def test_copies_compute_the_same(model):
    expected = logits_of(model)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(logits_of(again), expected)
        assert fingerprint(again) == fingerprint(model)
    clone = keras.models.clone_model(model)
    assert clone.get_config() == model.get_config()
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(logits_of(clone), expected)


def test_configs(model):
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert keras.models.model_from_json(model.to_json()).count_params() == model.count_params()


def test_weights_go_through_a_file(model, tmp_path):
    expected = logits_of(model)
    model.save_weights(tmp_path / "model.weights.h5")
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(logits_of(model), expected)


def test_layers_by_name(model):
    for layer in model.layers:
        assert model.get_layer(layer.name) is layer


def test_building_again_changes_nothing(model):
    """Was: ValueError, You cannot add new elements of state."""
    weights = [weight.path for weight in model.weights]
    model.build((2, 20))
    assert [weight.path for weight in model.weights] == weights


def test_freezing_and_thawing_leaves_the_entropy_model_frozen(model):
    """Was: the entropy model became trainable, and weight decay would have moved its weights."""
    trainable = [weight.path for weight in model.trainable_weights]
    model.trainable = False
    assert model.trainable_weights == []
    assert model.trainable is False
    model.trainable = True
    assert [weight.path for weight in model.trainable_weights] == trainable


def test_fit_with_callbacks(model, tmp_path):
    """Was, with given patches: AttributeError, 'dict' object has no attribute 'shape'."""
    seen = []
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss"),
        keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True),
        keras.callbacks.EarlyStopping(monitor="val_loss", restore_best_weights=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss"),
        keras.callbacks.CSVLogger(tmp_path / "history.csv"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["loss"])),
    ]
    x = inputs_of(model)
    history = compiled(model).fit(
        x, TARGETS, epochs=2, validation_data=(x, TARGETS), callbacks=callbacks, verbose=0
    )
    assert seen == history.history["loss"]
    assert seen[1] < seen[0]
    again = keras.models.load_model(tmp_path / "best.keras")
    found = again.evaluate(x, TARGETS, verbose=0)
    np.testing.assert_allclose(found, history.history["val_loss"][-1], rtol=1e-5)


def test_batches(model):
    x = inputs_of(model)
    before = compiled(model).test_on_batch(x, TARGETS)
    expected = logits_of(model)
    np.testing.assert_allclose(model.predict_on_batch(x), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(x, batch_size=1, verbose=0), expected, atol=1e-5)
    model.train_on_batch(x, TARGETS)
    assert model.test_on_batch(x, TARGETS) < before


def test_a_named_loss_is_of_logits(model):
    """Was, of the entropy model: the loss of logits that are taken for probabilities."""
    x = inputs_of(model)
    named = compiled(model).evaluate(x, TARGETS, verbose=0)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert named == pytest.approx(model.evaluate(x, TARGETS, verbose=0))


def test_inputs_as_one():
    """Was: AttributeError, 'dict' object has no attribute 'shape'."""
    model = make_blt()
    segment_ids = np.ones_like(TOKENS)
    expected = ops.convert_to_numpy(model(TOKENS, PATCH_LENGTHS, segment_ids))
    by_name = {"segment_ids": segment_ids, "tokens": TOKENS, "patch_lengths": PATCH_LENGTHS}
    for together in (by_name, [TOKENS, PATCH_LENGTHS, segment_ids], (TOKENS, PATCH_LENGTHS)):
        np.testing.assert_array_equal(ops.convert_to_numpy(model(together)), expected)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (({"tokens": TOKENS, "patches": PATCH_LENGTHS},), "'patches' is not one of tokens, patch_"),
        (({"patch_lengths": PATCH_LENGTHS},), "'tokens' is missing"),
        (({"tokens": TOKENS, "patch_lengths": PATCH_LENGTHS}, PATCH_LENGTHS), "is given twice"),
        (([TOKENS] * 4,), "4 inputs: at most 3"),
        ((TOKENS[0],), r"tokens: of shape \(20,\), but rows are needed.*tokens\[None\]"),
        ((TOKENS, PATCH_LENGTHS, PATCH_LENGTHS), "segment_ids: of shape .* every token has one"),
    ],
    ids=["unknown", "missing", "twice", "many", "row", "segments"],
)
def test_wrong_inputs_are_refused_by_name(inputs, words):
    with pytest.raises(ConfigError, match=words):
        make_blt()(*inputs)


@pytest.fixture
def no_collections(monkeypatch):
    """Keras collects garbage after each layer that it quantizes, 0.2 s once tests ran before."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_models_come_near_and_come_back(model, mode, tmp_path):
    """Was: Layer 'patcher' is not built; and what was quantized could be saved, but not read."""
    expected, known = logits_of(model), fingerprint(model)
    model.quantize(mode)
    found = logits_of(model)
    error = np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected)
    # Of experts, the router may give a token to another one.
    has_experts = getattr(model, "_options", {}).get("global_moe_config") is not None
    assert 0 < error < (0.5 if has_experts else {"int8": 0.05, "int4": 0.5}[mode])
    assert model.quantized_mode == mode
    assert fingerprint(model) != known
    save_model(model, tmp_path / "small.keras")
    for again in (
        keras.models.load_model(tmp_path / "small.keras"),
        load_model_file(tmp_path / "small.keras", type(model)),
        copy.deepcopy(model),
    ):
        np.testing.assert_array_equal(logits_of(again), found)
        assert fingerprint(again) == fingerprint(model)


@pytest.mark.usefixtures("no_collections")
def test_quantizing_leaves_what_cuts_patches_as_it_is():
    model = make_blt()
    known = fingerprint(model.entropy_model)
    model.quantize("int8")
    assert fingerprint(model.entropy_model) == known


@pytest.mark.usefixtures("no_collections")
def test_quantizing_some_layers(tmp_path):
    model = make_entropy_model()
    model.quantize(config=keras.quantizers.Int8QuantizationConfig(), filters="gate_up|down")
    assert model.transformer_layers[0].feed_forward.down.quantization_mode == "int8"
    assert model.output_layer.quantization_mode is None
    save_model(model, tmp_path / "some.keras")
    again = keras.models.load_model(tmp_path / "some.keras")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))


@pytest.mark.usefixtures("no_collections")
def test_what_quantizing_cannot_do_is_refused(tmp_path):
    model = make_entropy_model()
    with pytest.raises(ConfigError, match="mode 'float8' is not one of int8, int4"):
        model.quantize("float8")
    with pytest.raises(ConfigError, match="could not keep a function"):
        model.quantize("int8", filters=lambda layer: True)
    model.quantize("int8")
    with pytest.raises(ConfigError, match="quantized already"):
        model.quantize("int8")
    for quantized in (model, make_blt(entropy_model=model)):
        with pytest.raises(UserError, match=r"m.keras: is quantized \(int8\)"):
            write_hugging_face(quantized, tmp_path / "hf", source=tmp_path / "m.keras")


def test_export_wants_rows_of_one_length(model, tmp_path):
    """Was: "has never called"; or, after a call, a program for rows of 16 floats."""
    model(inputs_of(model))
    for signature, words in (
        (None, "how many tokens a row has"),
        ([keras.InputSpec(shape=(None, None), dtype="int32")], "leaves a length open"),
    ):
        with pytest.raises(ConfigError, match=words):
            model.export(tmp_path / "exported", input_signature=signature)
    assert not (tmp_path / "exported").exists()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="a SavedModel is TensorFlow's")
def test_an_exported_model_computes_the_same(model, tmp_path):
    import tensorflow as tf

    has_experts = model.get_config().get("global_moe_config") is not None
    if keras.backend.backend() == "jax" and has_experts:
        pytest.skip("TensorFlow 2.21 does not read the top_k of JAX 0.10")
    arrays = inputs_of(model)
    arrays = list(arrays.values()) if isinstance(arrays, dict) else [arrays]
    signature = [keras.InputSpec(shape=(None, x.shape[1]), dtype="int32") for x in arrays]
    model.export(tmp_path / "exported", verbose=False, input_signature=signature)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    found = np.asarray(loaded.serve(*arrays))
    np.testing.assert_allclose(found, logits_of(model), atol=1e-5)


def test_hdf5_files_are_refused(model, tmp_path):
    """Was: a file that `keras.models.load_model` did not read."""
    with pytest.raises(ConfigError, match=r"m.h5: .* Save it as .*m.keras; `save_weights`"):
        model.save(tmp_path / "m.h5")
    assert list(tmp_path.iterdir()) == []


def test_floatx_of_the_user_changes_no_integer(model):
    """Was: no kernel of `range` for int16, under `floatx: float16` in `keras.json`."""
    inputs = inputs_of(model)
    expected = ops.convert_to_numpy(model(inputs))
    keras.config.set_floatx("float16")
    try:
        np.testing.assert_array_equal(ops.convert_to_numpy(model(inputs)), expected)
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.train_on_batch(inputs, TARGETS)
    finally:
        keras.config.set_floatx("float32")
