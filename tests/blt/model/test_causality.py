"""A prediction never depends on what comes after, nor on what shares its row or batch.

For every way in which models patch and are built, with patches that the model cuts for itself.
"""

import keras
import numpy as np
import pytest

from blt.model import ByteLatentTransformer, EntropyModel
from blt.model.compiled import compile_function
from blt.patching.rules import PatchRule

RNG = np.random.default_rng(1)
# Two documents and padding; one document as long as the row.
FIRST = [1, *RNG.integers(4, 260, 11), 2]
SECOND = [1, *RNG.integers(97 + 4, 122 + 4, 6), 36, 80, 81, 2]
LONG = [1, *RNG.choice([36, 70, 71, 72, 200], 25)]
TOKENS = np.array([[*FIRST, *SECOND, 0, 0], LONG], "int32")
SEGMENTS = np.array([[1] * 13 + [2] * 11 + [0] * 2, [1] * 26], "int32")
NUM_TOKENS = 26

RULES = {
    "entropy": {"rule": "entropy", "threshold_nats": 4.4},
    "monotonic": {"rule": "monotonic", "threshold_nats": 0.1},
    "combined": {"rule": "combined", "threshold_nats": 4.0, "threshold_add_nats": -0.2},
    "static": {"rule": "static", "patch_size": 3},
    "space": {"rule": "space"},
    "byte": {"rule": "byte"},
    "short patches": {"rule": "entropy", "threshold_nats": 4.6, "max_patch_length": 2},
}
MIXTURE = {"global_moe_config": {"num_experts": 3, "gating_config": {"top_k": 2}}}
VARIANTS = {
    "all layers": {
        "num_encoder_layers": 2,
        "cross_attention_config": {"encoder_layers": "all", "decoder_layers": "first"},
    },
    "windows of patches": {"cross_attention_config": {"encoder_window": 2, "decoder_window": 3}},
    "no cross-attention": {
        "cross_attention_config": {"encoder_layers": "none", "decoder_layers": "none"},
        "pooling": "avg",
    },
    "grouped": {
        "global_attention_config": {"type": "sliding_window", "num_heads": 4, "num_kv_heads": 2,
                                    "window": 3},
        "pooling": "min",
    },
    "equal widths": {"global_dim": 16, "global_attention_config": {"num_heads": 4}},
    "mixture": MIXTURE,
}  # fmt: skip


def make(rule="entropy", **changes):
    keras.utils.set_random_seed(0)
    entropy_model = EntropyModel(dim=16, num_layers=1, num_heads=2, window=5, hidden_dim=24)
    model = ByteLatentTransformer(
        **{
            "local_dim": 16,
            "global_dim": 40,
            "num_encoder_layers": 1,
            "num_global_layers": 2,
            "num_decoder_layers": 2,
            "local_attention_config": {"type": "sliding_window", "num_heads": 2, "window": 3},
            "global_attention_config": {"type": "multi_head", "num_heads": 4},
            "ngram_sizes": [2, 3],
            "ngram_table_size": 64,
            "entropy_model": entropy_model,
            "patch_rule": PatchRule(**RULES[rule]),
            **changes,
        }
    )
    for weight in model.weights:  # large, so that a leak shows and entropies differ
        if "norm" not in weight.path and "float" in keras.backend.standardize_dtype(weight.dtype):
            weight.assign((6.0 if "entropy" in weight.path else 3.0) * weight)
    return model


def logits_of(model, tokens=TOKENS, segments=SEGMENTS):
    return keras.ops.convert_to_numpy(model(tokens, None, segments))


def check_causality(model, tolerance=2e-5):
    program = compile_function(model, lambda *x: model(x[0], None, x[1]), jit_compile=False)

    def logits_of(tokens):
        return keras.ops.convert_to_numpy(program(tokens, SEGMENTS))

    before = logits_of(TOKENS)
    for changed in range(NUM_TOKENS):
        tokens = TOKENS.copy()
        tokens[:, changed] = np.where(
            tokens[:, changed] > 3, (tokens[:, changed] + 90) % 256 + 4, 5
        )
        after = logits_of(tokens)
        differs = np.abs(after - before).max(axis=-1) > tolerance
        # logits[:, t] has seen tokens up to t of its own document, and predicts token t + 1.
        sees = SEGMENTS[:, changed : changed + 1] == SEGMENTS
        sees &= np.arange(NUM_TOKENS) >= changed
        assert not differs[~sees & (SEGMENTS > 0)].any()
        for row in range(2):
            if SEGMENTS[row, changed]:
                assert differs[row, changed], "the token itself must show in its prediction"


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_lets_a_prediction_see_what_comes_after(rule):
    model = make(rule)
    cut = keras.ops.convert_to_numpy(model.cut_patches(TOKENS, SEGMENTS)[0])
    assert rule == "byte" or cut[cut > 0].mean() > 1  # the rule makes patches that say something
    check_causality(model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_architecture_lets_a_prediction_see_what_comes_after(variant):
    check_causality(make(**VARIANTS[variant]))


@pytest.mark.parametrize("changes", [{}, MIXTURE], ids=["plain", "mixture"])
def test_alone_padded_packed_or_batched_a_document_is_the_same(changes):
    model = make(**changes)
    packed = logits_of(model)
    for tokens, row, first in ((FIRST, 0, 0), (SECOND, 0, 13), (LONG, 1, 0)):
        where = slice(first, first + len(tokens))
        alone = keras.ops.convert_to_numpy(model(np.array([tokens], "int32")))[0]
        scale = np.abs(alone).max()
        np.testing.assert_allclose(packed[row, where], alone, atol=1e-5 * scale)
        padded = np.array([[*tokens, *[0] * 17]] * 3, "int32")
        in_batch = keras.ops.convert_to_numpy(model(padded))[:, : len(tokens)]
        for each in in_batch:
            np.testing.assert_allclose(each, alone, atol=1e-5 * scale)


def test_what_is_far_back_still_matters():
    model = make("static")
    tokens = TOKENS.copy()
    tokens[1, 1] += 5  # local layers and n-grams reach 8 tokens back
    differs = np.abs(logits_of(model, tokens) - logits_of(model)).max(axis=-1)
    assert differs[1, 25] > 1e-4


@pytest.mark.parametrize(
    "tokens",
    [
        np.full((1, 40), 70, "int32"),
        np.array([[1, 70, 2]], "int32"),
        np.array([[1, 2]], "int32"),
        np.array([[1]], "int32"),
        np.array([[1, 70, 2], [0, 0, 0]], "int32"),
        np.arange(4, 260, dtype="int32")[None],
    ],
    ids=["equal bytes", "one byte", "no byte", "BOS", "an empty row", "a full row"],
)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_odd_rows_give_finite_logits(tokens, dtype):
    logits = keras.ops.convert_to_numpy(make(dtype=dtype)(tokens))
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_large_activations_stay_finite_and_near(dtype):
    half, full = make(dtype=dtype), make()
    for model in (half, full):
        model.set_weights(full.get_weights())
        table = model.local_encoder.embedding.byte_table
        table.assign(10.0 * table)
    patches, _ = full.cut_patches(TOKENS, SEGMENTS)
    got, expected = (
        keras.ops.convert_to_numpy(model(TOKENS, patches, SEGMENTS)) for model in (half, full)
    )
    assert np.isfinite(got).all()
    assert np.corrcoef(got[SEGMENTS > 0].ravel(), expected[SEGMENTS > 0].ravel())[0, 1] > 0.98
