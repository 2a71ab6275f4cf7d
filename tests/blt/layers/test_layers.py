import keras
import numpy as np
import pytest
from keras import ops

from blt.errors import UserError
from blt.layers import (
    ByteEmbedding,
    CausalAttention,
    SwiGLU,
    TransformerLayer,
    create_normalization_layer,
)


@pytest.mark.parametrize(
    "layer",
    [
        CausalAttention(4, num_kv_heads=2, rope_theta=500.0),
        SwiGLU(12),
        TransformerLayer(2, 12, num_kv_heads=1, rope_theta=5.0, normalization_type="rms_norm"),
        ByteEmbedding(260, 4, ngram_sizes=[3], ngram_table_size=7, initializer_stddev=0.1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_round_trip(layer):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == config


def test_swiglu_equals_its_formula():
    layer = SwiGLU(5)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    got = ops.convert_to_numpy(layer(x))
    gate, up = np.split(x @ layer.gate_up.kernel.numpy(), 2, axis=-1)
    expected = (gate / (1 + np.exp(-gate)) * up) @ layer.down.kernel.numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # x = [1, 2, 6]: mean 3, centred [-2, -1, 3] with mean square 14/3; mean square 41/3.
        ("zero_centered_rms_norm", np.array([-2, -1, 3]) / np.sqrt(14 / 3 + 1e-5)),
        ("layer_norm", np.array([-2, -1, 3]) / np.sqrt(14 / 3 + 1e-5)),
        ("rms_norm", np.array([1, 2, 6]) / np.sqrt(41 / 3 + 1e-5)),
    ],
)
def test_normalisations_equal_their_formulas(name, expected):
    got = create_normalization_layer(name)(np.float32([[1, 2, 6]]))
    np.testing.assert_allclose(ops.convert_to_numpy(got)[0], expected, rtol=1e-5)


def test_unknown_normalisation_is_refused_with_a_hint():
    with pytest.raises(UserError, match="Did you mean 'rms_norm'"):
        create_normalization_layer("rmsnorm")
