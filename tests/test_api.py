"""The Python API as users write it: each block as it would stand in a notebook.

The two that make large models do it here without allocating them; `pytest -m large` does it as they
stand, in a minute and 13 GB.
"""

import keras
import numpy as np
import pytest

from blt import create_blt_from_config
from tests.shared import not_allocated


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return create_blt_from_config(
        {
            "variant": "micro",
            "vocab_size": 260,
            "max_sequence_length": 1024,
            "global_transformer_args": {
                "attention_type": "group_query",
                "normalization_type": "zero_centered_rms_norm",
                "ffn_type": "swiglu",
            },
        }
    )


def test_make_compile_and_generate(model):
    # A string means logits here: at the start, the loss is that of even guesses.
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    text = model.generate("The future of AI is", max_new_tokens=50, temperature=0.7)
    assert text.startswith("The future of AI is")
    ids = np.random.default_rng(0).integers(4, 260, (2, 32)).astype("int32")
    loss, accuracy = model.evaluate(ids[:, :-1], ids[:, 1:], verbose=0)
    assert 5.0 < loss < 7.5
    assert 0 <= accuracy < 0.2


def test_layers_and_models_by_arguments():
    from blt import ByteLatentTransformer
    from blt.layers import (
        TransformerLayer,
        create_attention_layer,
        create_ffn_from_config,
        create_normalization_layer,
    )

    model = ByteLatentTransformer(
        local_dim=512,
        global_dim=768,
        num_global_layers=12,
        global_attention_config={"type": "group_query", "num_heads": 8},
        global_norm_type="zero_centered_rms_norm",
    )
    assert model.global_transformer.transformer_layers[11].attention.num_heads == 8
    x = np.ones((1, 3, 16), "float32")
    for layer in (
        create_attention_layer("group_query", num_heads=4),
        create_ffn_from_config({"type": "swiglu", "hidden_dim": 32}),
        create_normalization_layer("adaptive_band_rms"),
        TransformerLayer({"type": "multi_head", "num_heads": 2}),
    ):
        assert layer(x).shape == (1, 3, 16)


def test_train_with_plain_arrays_and_stock_losses(tmp_path):
    from blt.optimization import learning_rate_schedule_builder, optimizer_builder

    keras.utils.set_random_seed(0)
    model = create_blt_from_config(
        {
            "variant": "tiny",
            "entropy_model": None,
            "ngram_sizes": [],
            "patch_rule": {"rule": "space"},
        }
    )
    schedule = learning_rate_schedule_builder(
        {
            "type": "cosine_decay",
            "warmup_steps": 2,  # the API's example has 1000, and 3e-4: for longer trainings
            "warmup_start_lr": 1e-7,
            "learning_rate": 1e-2,
            "decay_steps": 50000,
            "alpha": 0.1,
        }
    )
    optimizer = optimizer_builder(
        {
            "type": "adamw",
            "weight_decay": 0.01,
            "gradient_clipping_by_norm": 1.0,
            "beta_1": 0.9,
            "beta_2": 0.95,
        },
        schedule,
    )
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    data = np.tile(np.frombuffer(b"abcdefgh ijk lmnop ", np.uint8).astype("int32") + 4, (64, 3))
    x_train, y_train = data[:, :-1], data[:, 1:]
    history = model.fit(x_train, y_train, batch_size=32, epochs=10, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 1.0
    model.save(tmp_path / "trained.keras")
    again = keras.models.load_model(tmp_path / "trained.keras")
    assert again.optimizer is not None  # compiled as it was
    np.testing.assert_allclose(
        again.evaluate(x_train, y_train, verbose=0), model.evaluate(x_train, y_train, verbose=0)
    )


def test_tokenizer_entropy_model_and_patcher(model):
    ids = model.tokenizer.text_to_bytes("The quick brown fox jumps over the lazy dog.")
    tokens = keras.ops.convert_to_tensor([ids])
    logits = model.entropy_model(tokens)
    assert logits.shape == (1, len(ids), 260)
    entropy = model.entropy_model.compute_entropy(logits)
    assert entropy.shape == (1, len(ids))
    patch_lengths = keras.ops.convert_to_numpy(model.patcher(entropy))
    assert patch_lengths.sum() == len(ids)
    assert patch_lengths[0, 0] == 1


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "blt.keras")
    again = keras.models.load_model(tmp_path / "blt.keras")
    x = keras.random.randint((1, 128), 4, 260)
    assert again(x).shape == (1, 128, 260)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(again(x)), keras.ops.convert_to_numpy(model(x))
    )


MIXTURE = {
    "variant": "base",
    "global_transformer_args": {
        "moe_config": {
            "num_experts": 8,
            "expert_config": {"ffn_config": {"type": "swiglu", "output_dim": 1024}},
            "gating_config": {"gating_type": "linear", "top_k": 2},
        }
    },
}
BANDED = {
    "variant": "large",
    "global_transformer_args": {"normalization_type": "adaptive_band_rms"},
}


def test_large_models_can_be_made():
    with not_allocated():
        mixture = create_blt_from_config(MIXTURE)
        assert mixture.global_transformer.transformer_layers[0].feed_forward.num_experts == 8
        banded = create_blt_from_config(BANDED)
        norm = banded.global_transformer.transformer_layers[36].attention_norm
        assert type(norm).__name__ == "AdaptiveBandRMSNorm"


@pytest.mark.large
@pytest.mark.parametrize("config", [MIXTURE, BANDED], ids=["mixture", "banded"])
def test_large_models_run(config):
    model = create_blt_from_config(config)
    x = keras.random.randint((1, 16), 4, 260)
    assert model(x).shape == (1, 16, 260)


def test_mixed_float16_trains_without_nan():
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        keras.utils.set_random_seed(0)
        model = create_blt_from_config({"variant": "tiny"})
        model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        assert type(model.optimizer).__name__ == "LossScaleOptimizer"
        data = np.random.default_rng(0).integers(4, 8, (16, 33)).astype("int32")
        history = model.fit(data[:, :-1], data[:, 1:], batch_size=4, epochs=3, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert history["loss"][-1] < history["loss"][0]
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
    finally:
        keras.mixed_precision.set_global_policy(policy)
