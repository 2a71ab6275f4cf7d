import keras
import numpy as np
import pytest

from blt.layers import MixtureOfExperts
from tests.blt.layers.contract import to_numpy

X = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")


def make(top_k=2, **gating):
    keras.utils.set_random_seed(0)
    return MixtureOfExperts(
        4,
        expert_config={"ffn_config": {"type": "swiglu", "hidden_dim": 5}},
        gating_config={"top_k": top_k, **gating},
    )


def by_hand(layer, x, top_k):
    """A token at a time, in NumPy."""
    y = np.zeros_like(x)
    outputs = [to_numpy(expert(x)) for expert in layer.experts]
    for place in np.ndindex(x.shape[:-1]):
        logits = x[place] @ to_numpy(layer.router.kernel)
        chosen = np.argsort(-logits)[:top_k]
        weights = np.exp(logits[chosen]) / np.exp(logits[chosen]).sum()
        y[place] = sum(w * outputs[e][place] for w, e in zip(weights, chosen, strict=True))
    return y


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_each_token_goes_to_its_experts(top_k):
    layer = make(top_k)
    np.testing.assert_allclose(to_numpy(layer(X)), by_hand(layer, X, top_k), atol=1e-6)


def test_a_token_does_not_depend_on_the_others():
    layer = make()
    together = to_numpy(layer(X))
    alone = to_numpy(layer(X[1:, 3:4]))
    np.testing.assert_allclose(alone[0, 0], together[1, 3], atol=1e-6)


def test_capacity_drops_the_last_tokens_of_a_full_expert():
    layer = make(top_k=1, capacity_factor=1.0)  # 12 tokens, 4 experts: 3 each
    layer(X)
    kernel = np.zeros((8, 4), "float32")
    kernel[:, 1] = 1.0
    layer.router.kernel.assign(kernel)
    x = np.abs(X)  # all go to expert 1, which takes the first 3
    got = to_numpy(layer(x)).reshape(12, 8)
    expected = to_numpy(layer.experts[1](x)).reshape(12, 8)
    np.testing.assert_allclose(got[:3], expected[:3], atol=1e-6)
    np.testing.assert_array_equal(got[3:], 0.0)


def test_enough_capacity_is_no_capacity():
    limited, free = make(capacity_factor=4.0), make()
    free(X), limited(X)
    limited.set_weights(free.get_weights())
    np.testing.assert_allclose(to_numpy(limited(X)), to_numpy(free(X)), atol=1e-6)


def test_capacity_works_where_the_last_batch_is_smaller():
    places = keras.Input((6, 8))
    model = keras.Model(places, make(capacity_factor=0.5)(places))
    model.compile(optimizer="sgd", loss="mse")
    x = np.concatenate([X, X, X[:1]])
    history = model.fit(x, x, batch_size=2, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def balance_loss(layer, x, **kwargs):
    layer(x, training=True, **kwargs)
    (loss,) = layer.losses
    return float(to_numpy(loss))


def test_balance_loss_is_its_weight_when_even_and_more_when_not():
    layer = make(top_k=1, balance_loss_weight=0.5)
    layer.build((None, None, 4))
    layer.router.kernel.assign(np.zeros((4, 4), "float32"))
    x = np.eye(4, dtype="float32")[None]
    layer.router.kernel.assign(1e-3 * np.eye(4, dtype="float32"))  # one token to each expert
    np.testing.assert_allclose(balance_loss(layer, x), 0.5, rtol=1e-3)
    lopsided = make(top_k=1, balance_loss_weight=0.5)
    lopsided.build((None, None, 4))
    lopsided.router.kernel.assign(np.outer(np.ones(4), [50, 0, 0, 0]).astype("float32"))
    np.testing.assert_allclose(balance_loss(lopsided, x), 0.5 * 4, rtol=1e-3)


def test_padding_does_not_count_in_the_balance_loss():
    is_token = np.array([[True] * 4 + [False] * 2, [False] * 6])
    masked = balance_loss(make(), X, is_token=is_token)
    np.testing.assert_allclose(masked, balance_loss(make(), X[:1, :4]), rtol=1e-5)
    assert not make().losses  # none outside training
