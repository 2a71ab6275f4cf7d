"""The contract that every layer and model keeps."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

RNG = np.random.default_rng(0)


def to_numpy(x: Any) -> np.ndarray:
    return ops.convert_to_numpy(x)


def check_layer_contract(
    make: Any,
    arguments: Mapping[str, Any],
    inputs: tuple,
    *,
    tmp_path: Any,
    at_default: tuple[str, ...] = (),
) -> None:
    """Checks a layer that takes arrays alone and returns one.

    Args:
      make: the class.
      arguments: of its constructor, none of them at its default, but for those `at_default`.
      inputs: arrays; the first has the batch in its first axis.
      tmp_path: a folder.
    """
    keras.utils.set_random_seed(0)
    layer = make(**arguments)
    expected = to_numpy(layer(*inputs))

    # The config: complete, plain JSON, and none of it at its default.
    config = layer.get_config()
    for name, value in arguments.items():
        assert json.loads(json.dumps(config[name])) == json.loads(json.dumps(value)), name
    missing = set(_own_arguments(make)) - set(arguments) - set(at_default)
    assert not missing, f"arguments left at their default: {missing}"
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == config

    # Symbolic and eager shapes.
    symbolic = [keras.KerasTensor((None, *x.shape[1:]), dtype=x.dtype.name) for x in inputs]
    spec = again.compute_output_shape(*(x.shape for x in symbolic[:1]))
    assert tuple(spec)[1:] == expected.shape[1:]
    assert tuple(layer(*symbolic).shape)[1:] == expected.shape[1:]

    # A file.
    places = [keras.Input(x.shape[1:], dtype=x.dtype.name) for x in inputs]
    wrapped = keras.Model(places, layer(*places))
    wrapped.save(tmp_path / "layer.keras")
    loaded = keras.models.load_model(tmp_path / "layer.keras")
    np.testing.assert_array_equal(to_numpy(loaded(list(inputs))), expected)

    # Mixed precision: the result has the compute type, is finite, and near.
    for policy in ("mixed_bfloat16", "mixed_float16"):
        half = make(**arguments, dtype=policy)
        half(*inputs)
        half.set_weights(layer.get_weights())
        y = half(*inputs)
        assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
        y = to_numpy(ops.cast(y, "float32"))
        assert np.isfinite(y).all()
        np.testing.assert_allclose(y, expected, atol=0.15 * np.abs(expected).max())

    # A training step changes every weight.
    before = [to_numpy(weight) for weight in layer.trainable_weights]
    wrapped.compile(optimizer="adam", loss="mse")
    target = RNG.normal(size=expected.shape).astype("float32")
    wrapped.fit(list(inputs), target, verbose=0)
    for weight, old in zip(layer.trainable_weights, before, strict=True):
        assert not np.array_equal(to_numpy(weight), old), weight.path


def _own_arguments(make: Any) -> list[str]:
    parameters = inspect.signature(make.__init__).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind != p.VAR_KEYWORD]
