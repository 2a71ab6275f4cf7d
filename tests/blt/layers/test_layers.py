import keras
import numpy as np
import pytest
from keras import ops

from blt.errors import ConfigError
from blt.layers import (
    GEGLU,
    MLP,
    AdaptiveBandRMSNorm,
    ByteEmbedding,
    CausalAttention,
    MixtureOfExperts,
    SwiGLU,
    TransformerLayer,
    UnitOffsetRMSNorm,
    create_attention_layer,
    create_ffn_from_config,
    create_normalization_layer,
    register_attention_layer,
    register_ffn,
    register_normalization_layer,
)
from blt.layers.feed_forward import ffn_hidden_dim
from tests.blt.layers.contract import check_layer_contract, to_numpy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5, 8)).astype("float32")
IDS = RNG.integers(4, 260, (3, 5)).astype("int32")
ONES = np.ones((3, 5), "int32")
ATTENTION = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 6, "window": 3, "rope_theta": 500.0}


@pytest.mark.parametrize(
    ("make", "arguments", "inputs"),
    [
        (CausalAttention, ATTENTION, (X,)),
        (SwiGLU, {"hidden_dim": 12, "expansion": 2.0, "output_dim": 7}, (X,)),
        (GEGLU, {"hidden_dim": 12, "expansion": 2.0, "output_dim": 7}, (X,)),
        (MLP, {"hidden_dim": 12, "expansion": 2.0, "output_dim": 7}, (X,)),
        (UnitOffsetRMSNorm, {"epsilon": 1e-3}, (X,)),
        (AdaptiveBandRMSNorm, {"epsilon": 1e-3, "max_band_width": 0.4}, (X,)),
        (
            MixtureOfExperts,
            {
                "num_experts": 3,
                "expert_config": {"ffn_config": {"type": "geglu", "hidden_dim": 9}},
                "gating_config": {
                    "gating_type": "linear",
                    "top_k": 3,
                    "capacity_factor": None,
                    "balance_loss_weight": 0.5,
                },
            },
            (X,),
        ),
        (
            TransformerLayer,
            {
                "attention_config": {"type": "sliding_window", **ATTENTION},
                "ffn_config": {"type": "mlp", "hidden_dim": 12},
                "normalization_type": {"type": "rms_norm", "epsilon": 1e-3, "unit_offset": True},
                "moe_config": {"num_experts": 2, "gating_config": {"top_k": 2}},
            },
            (X,),
        ),
        (
            ByteEmbedding,
            {
                "vocab_size": 260,
                "dim": 4,
                "ngram_sizes": [3],
                "ngram_table_size": 7,
                "num_hash_functions": 2,
                "initializer_stddev": 0.1,
            },
            (IDS, ONES),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_layer_contract(make, arguments, inputs, tmp_path):
    check_layer_contract(make, arguments, inputs, tmp_path=tmp_path)


def softplus_free_gelu(x):
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


@pytest.mark.parametrize(
    ("name", "activation"),
    [("swiglu", lambda x: x / (1 + np.exp(-x))), ("geglu", softplus_free_gelu)],
)
def test_gated_networks_equal_their_formulas(name, activation):
    layer = create_ffn_from_config({"type": name, "hidden_dim": 5})
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    got = to_numpy(layer(x))
    gate, up = np.split(x @ to_numpy(layer.gate_up.kernel), 2, axis=-1)
    expected = (activation(gate) * up) @ to_numpy(layer.down.kernel)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_mlp_equals_its_formula():
    layer = create_ffn_from_config("mlp")
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    got = to_numpy(layer(x))
    assert layer.up.kernel.shape == (3, 64)  # 4 times 3, rounded up to 64
    expected = softplus_free_gelu(x @ to_numpy(layer.up.kernel)) @ to_numpy(layer.down.kernel)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_hidden_width_is_rounded_up_to_64():
    assert [ffn_hidden_dim(64, 3.5), ffn_hidden_dim(384, 8 / 3), ffn_hidden_dim(65, 1)] == [
        256,
        1024,
        128,
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # x = [1, 2, 6]: mean 3, centred [-2, -1, 3] with mean square 14/3; mean square 41/3.
        ("zero_centered_rms_norm", np.array([-2, -1, 3]) / np.sqrt(14 / 3 + 1e-5)),
        ("layer_norm", np.array([-2, -1, 3]) / np.sqrt(14 / 3 + 1e-5)),
        ("rms_norm", np.array([1, 2, 6]) / np.sqrt(41 / 3 + 1e-5)),
        ({"type": "rms_norm", "unit_offset": True}, np.array([1, 2, 6]) / np.sqrt(41 / 3 + 1e-5)),
        ({"type": "rms_norm", "epsilon": 3.0}, np.array([1, 2, 6]) / np.sqrt(50 / 3)),
        # The band [0.6, 1] at its middle.
        (
            {"type": "adaptive_band_rms", "max_band_width": 0.4},
            0.8 * np.array([1, 2, 6]) / np.sqrt(41 / 3 + 1e-5),
        ),
    ],
)
def test_normalisations_equal_their_formulas(name, expected):
    got = create_normalization_layer(name)(np.float32([[1, 2, 6]]))
    np.testing.assert_allclose(to_numpy(got)[0], expected, rtol=1e-5)


def test_adaptive_band_keeps_lengths_in_the_band_and_follows_the_magnitude():
    layer = create_normalization_layer("adaptive_band_rms", max_band_width=0.5)
    x = RNG.normal(size=(7, 16)).astype("float32") * np.logspace(-3, 3, 7)[:, None]
    layer.build(x.shape)
    layer.band_scale.assign([2.0])
    layer.band_bias.assign([0.5])
    x = x.astype("float32")
    rms = np.sqrt((x.astype("float64") ** 2).mean(-1) + 1e-5)
    lengths = np.sqrt((to_numpy(layer(x)).astype("float64") ** 2).mean(-1))
    expected = 0.5 + 0.5 / (1 + np.exp(-(2 * np.log(rms) + 0.5)))
    # Where x is small, epsilon shortens it, as in every norm.
    np.testing.assert_allclose(lengths[2:], expected[2:], rtol=1e-3)
    assert (lengths[2:] > 0.5).all() and (lengths < 1.0).all()
    assert (np.diff(lengths) > 0).all()


@pytest.mark.parametrize(
    "name", ["rms_norm", "zero_centered_rms_norm", "adaptive_band_rms", "layer_norm"]
)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_normalisations_compute_in_float32(name, policy):
    # The square of 400 is no float16, and 256 + 1 no bfloat16.
    x = np.full((1, 64), 400.0, "float32")
    x[0, ::2] = 398.0
    exact = to_numpy(create_normalization_layer(name)(x))
    got = to_numpy(ops.cast(create_normalization_layer(name, dtype=policy)(x), "float32"))
    np.testing.assert_allclose(got, exact, rtol=1e-2)


def test_heads_share_keys_by_type():
    assert create_attention_layer("multi_head", num_heads=8).num_kv_heads == 8
    assert create_attention_layer("group_query", num_heads=8).num_kv_heads == 2
    assert create_attention_layer("group_query", num_heads=6).num_kv_heads == 2
    assert create_attention_layer({"type": "group_query", "num_heads": 7}).num_kv_heads == 7
    assert create_attention_layer("group_query", num_heads=8, num_kv_heads=4).num_kv_heads == 4
    assert create_attention_layer("sliding_window", num_heads=8).window == 512


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: create_normalization_layer("rmsnorm"), "Did you mean 'rms_norm'"),
        (
            lambda: create_normalization_layer("rms_norm", eps=1),
            "'eps' is not a key of it.*epsilon",
        ),
        (lambda: create_attention_layer("group_querry", num_heads=2), "Did you mean 'group_query'"),
        (
            lambda: create_attention_layer("multi_head", num_kv_heads=2),
            "'num_kv_heads' is not a key",
        ),
        (lambda: create_ffn_from_config({"type": "swigllu"}), "Did you mean 'swiglu'"),
        (lambda: create_ffn_from_config({"hiden_dim": 3}), "Did you mean 'hidden_dim'"),
        (lambda: SwiGLU(0), "hidden_dim must be at least 1, got 0"),
        (lambda: AdaptiveBandRMSNorm(max_band_width=1.5), r"must be in \[0, 1\), got 1.5"),
        (lambda: CausalAttention(2, head_dim=3), "head_dim must be even, got 3"),
        (lambda: CausalAttention(2, window=0), "window must be at least 1, got 0"),
        (lambda: MixtureOfExperts(0), "num_experts must be at least 1"),
        (lambda: MixtureOfExperts(2, gating_config={"top_k": 3}), r"top_k must be in \[1, num_exp"),
        (lambda: MixtureOfExperts(2, gating_config={"topk": 1}), "Did you mean 'top_k'"),
        (lambda: MixtureOfExperts(2, gating_config={"gating_type": "x"}), "'linear' is the only"),
        (lambda: MixtureOfExperts(2, gating_config={"capacity_factor": 0}), "must be above 0"),
        (lambda: MixtureOfExperts(2, expert_config={"ffn_conf": 1}), "Did you mean 'ffn_config'"),
        (
            lambda: TransformerLayer({"num_heads": 2}, moe_config={"experts": 2}),
            "'experts' is not a key",
        ),
    ],
)
def test_wrong_configs_are_refused_with_a_hint(make, match):
    with pytest.raises(ConfigError, match=match) as caught:
        make()
    assert isinstance(caught.value, ValueError)


def test_users_add_layers_of_their_own():
    register_normalization_layer("test_none", lambda epsilon, **kw: keras.layers.Identity(**kw))
    register_ffn("test_none", lambda factor=1.0, **kw: keras.layers.Rescaling(factor, **kw))

    @register_attention_layer("test_self")
    def _self_alone(num_heads, **kwargs):
        return CausalAttention(num_heads, window=1, **kwargs)

    layer = TransformerLayer(
        {"type": "test_self", "num_heads": 2},
        ffn_config={"type": "test_none", "factor": 3.0},
        normalization_type="test_none",
    )
    x = RNG.normal(size=(1, 4, 8)).astype("float32")
    got = to_numpy(layer(x))
    np.testing.assert_allclose(got, 4.0 * (x + to_numpy(layer.attention(x))), rtol=1e-5)
    with pytest.raises(ConfigError, match="'test_none' is registered already"):
        register_ffn("test_none", SwiGLU)
