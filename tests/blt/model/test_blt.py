import keras
import numpy as np
import pytest

from blt.errors import ConfigError, UserError
from blt.model import create_blt_from_config
from blt.model.blt import ByteLatentTransformer, load_blt
from blt.model.entropy_model import EntropyModel
from blt.model.serialization import fingerprint, save_model
from blt.patching.rules import PatchRule
from tests.shared import not_allocated

# Two documents and padding; one long document. Patch lengths sum to the tokens.
TOKENS = np.array(
    [[1, 70, 71, 72, 73, 2, 1, 80, 81, 2, 0, 0], [1, 90, *range(91, 100), 2]], "int32"
)
SEGMENTS = np.array([[1] * 6 + [2] * 4 + [0] * 2, [1] * 12], "int32")
PATCHES = np.array([[1, 2, 2, 1, 1, 2, 1, 0], [1, 1, 4, 1, 2, 3, 0, 0]], "int32")

SMALL = {
    "entropy_model": None,
    "local_dim": 16,
    "global_dim": 40,
    "num_encoder_layers": 1,
    "num_global_layers": 2,
    "num_decoder_layers": 2,
    "local_attention_config": {"type": "sliding_window", "num_heads": 2, "window": 3},
    "global_attention_config": {"type": "multi_head", "num_heads": 4},
    "ngram_sizes": [2, 3],
    "ngram_table_size": 64,
}


def make(**changes):
    keras.utils.set_random_seed(0)
    model = ByteLatentTransformer(**{**SMALL, **changes})
    for weight in model.trainable_weights:  # large, so that a leak shows
        if "norm" not in weight.path:
            weight.assign(4.0 * weight)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


def logits_of(model, tokens=TOKENS, patches=PATCHES, segments=SEGMENTS):
    return keras.ops.convert_to_numpy(model(tokens, patches, segments))


def test_logits_never_see_a_later_byte_nor_another_document(model):
    before = logits_of(model)
    assert before.shape == (2, 12, 260)
    for changed in range(12):
        tokens = TOKENS.copy()
        tokens[:, changed] += 5
        differs = np.abs(logits_of(model, tokens) - before).max(axis=-1) > 1e-6
        # logits[:, t] predicts token t + 1 and has seen tokens up to t of its own document.
        sees = SEGMENTS[:, changed : changed + 1] == SEGMENTS
        sees &= np.arange(12) >= changed
        assert not differs[~sees].any()
        assert differs[sees].all()


def test_a_byte_reads_its_patch_only_if_it_ends_it(model):
    before = logits_of(model)
    # Row 1, patch 2 is tokens 2 to 5. Cut after token 3, it is complete when token 3 is read.
    patches = PATCHES.copy()
    patches[1, :7] = [1, 1, 2, 2, 1, 2, 3]
    differs = np.abs(logits_of(model, patches=patches) - before).max(axis=-1) > 1e-6
    assert np.flatnonzero(differs[1])[0] == 3
    assert not differs[0].any()


@pytest.mark.parametrize(
    ("row", "where", "patches"), [(0, slice(0, 6), slice(0, 4)), (0, slice(6, 10), slice(4, 7))]
)
def test_a_document_is_the_same_alone_and_beside_others(model, row, where, patches):
    alone = logits_of(model, TOKENS[row : row + 1, where], PATCHES[row : row + 1, patches], None)
    np.testing.assert_allclose(alone[0], logits_of(model)[row, where], atol=5e-5)


def test_room_for_more_patches_and_tokens_changes_nothing(model):
    wider = logits_of(
        model,
        np.pad(TOKENS, [[0, 0], [0, 9]]),
        np.pad(PATCHES, [[0, 0], [0, 5]]),
        np.pad(SEGMENTS, [[0, 0], [0, 9]]),
    )
    # Weights are four times what they begin as, and so is what rounding does.
    np.testing.assert_allclose(wider[:, :12], logits_of(model), atol=2e-4)


def test_the_global_transformer_matters_beyond_the_local_window(model):
    tokens = TOKENS.copy()
    tokens[1, 1] += 5  # three local layers reach 6 tokens back, n-grams 2 more
    differs = np.abs(logits_of(model, tokens) - logits_of(model)).max(axis=-1)
    assert differs[1, 11] > 1e-3


@pytest.mark.parametrize(
    "tokens",
    [np.full((1, 12), 70, "int32"), np.zeros((1, 12), "int32")],
    ids=["all bytes equal", "an empty row"],
)
def test_odd_rows_give_finite_logits(model, tokens):
    segments = (tokens > 0).astype("int32")
    patches = np.array([[1, 11 if tokens.any() else 0, 0]], "int32") * segments[:, :1]
    assert np.isfinite(logits_of(model, tokens, patches, segments)).all()


def test_mixed_precision_gives_float32_logits_near_the_full_ones():
    half, full = make(dtype="mixed_bfloat16"), make()
    half.set_weights(full.get_weights())
    logits = keras.ops.convert_to_numpy(half(TOKENS, PATCHES, SEGMENTS))
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert np.corrcoef(logits.ravel(), logits_of(full).ravel())[0, 1] > 0.98


def test_a_model_file_holds_the_model_its_entropy_model_and_its_rule(tmp_path):
    entropy_model = EntropyModel(dim=16, num_layers=1, num_heads=2, window=8)
    made_by = fingerprint(entropy_model)
    model = make(
        num_slices=4,
        num_encoder_layers=2,
        local_attention_config={
            "type": "sliding_window",
            "num_heads": 4,
            "num_kv_heads": 2,
            "window": 6,
            "head_dim": 8,
            "rope_theta": 500.0,
        },
        local_ffn_config={"type": "geglu", "hidden_dim": 24},
        local_norm_type={"type": "rms_norm", "epsilon": 1e-6},
        decoder_attention_config={"type": "multi_head", "num_heads": 2, "window": 5},
        decoder_ffn_config={"type": "mlp", "hidden_dim": 40},
        decoder_norm_type="layer_norm",
        global_attention_config={"type": "group_query", "num_heads": 4, "num_kv_heads": 2},
        global_ffn_config={"type": "swiglu", "hidden_dim": 56},
        global_norm_type={"type": "adaptive_band_rms", "max_band_width": 0.3},
        global_moe_config={"num_experts": 3, "gating_config": {"top_k": 2}},
        cross_attention_config={
            "num_heads": 4,
            "encoder_layers": "all",
            "decoder_layers": "first",
            "encoder_window": 2,
            "decoder_window": 3,
            "residual_scale": 2.0,
        },
        pooling="avg",
        num_hash_functions=2,
        compat="meta",
        max_sequence_length=48,
        max_patches=20,
        entropy_model=entropy_model,
        patch_rule=PatchRule(rule="combined", threshold_nats=1.0, threshold_add_nats=0.5),
        entropy_fingerprint=made_by,
    )
    save_model(model, tmp_path / "m.keras")
    back = load_blt(tmp_path / "m.keras")
    assert back.get_config() == model.get_config()
    assert back.patch_rule == model.patch_rule
    assert fingerprint(back.entropy_model) == made_by == back.entropy_fingerprint
    assert fingerprint(back) == fingerprint(model)
    np.testing.assert_array_equal(logits_of(back), logits_of(model))

    # The entropy model is kept, not trained and not counted.
    without = make(**{**model._options, "entropy_fingerprint": None})
    for each in (model, back):
        assert len(each.trainable_weights) == len(without.trainable_weights)
        assert each.count_params() == without.count_params()
    assert without.count_params() == sum(w.size for w in map(np.asarray, without.get_weights()))


def test_a_file_of_another_kind_is_refused(tmp_path):
    save_model(EntropyModel(dim=16, num_layers=1, num_heads=2, window=8), tmp_path / "e.keras")
    with pytest.raises(UserError, match="holds an entropy model, but a BLT is needed here"):
        load_blt(tmp_path / "e.keras")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"local_attention_config": {"window": 0}}, "window must be at least 1, got 0"),
        ({"local_attention_config": {"window": None}}, "local attention must have a window"),
        ({"cross_attention_config": {"num_heads": 3}}, r"width 16 is not a multiple .*\(3\)"),
        ({"cross_attention_config": {"heads": 2}}, "Did you mean 'num_heads'"),
        ({"cross_attention_config": {"encoder_layers": "none"}}, "must be 'none' together"),
        ({"cross_attention_config": {"encoder_layers": "some"}}, "'some': not one of last, all"),
        ({"cross_attention_config": {"decoder_layers": "last"}}, "'last': not one of all, first"),
        ({"cross_attention_config": {"encoder_window": 0}}, "must be at least 1, got 0"),
        ({"pooling": "mean"}, "pooling 'mean': not one of max, min, avg"),
        ({"compat": "fb"}, "compat 'fb': not one of None, 'meta', 'hf'"),
        ({"num_encoder_layers": 0}, "the encoder must have at least 1 layer"),
        ({"num_decoder_layers": 0}, "the decoder must have at least 1 layer"),
        ({"global_dim": 16, "num_slices": 2}, "num_slices must be 1 where local and global"),
        ({"global_projection": False}, "global_projection is False, but patches of width"),
        ({"decoder_projection": False, "global_dim": 40}, "decoder_projection is False, but patc"),
        ({"tied_embeddings": "yes"}, "tied_embeddings 'yes': not one of None, 'embedding'"),
        ({"local_dims": 16}, "Did you mean 'local_dim'"),
        ({"global_ffn_config": {"type": "swiglu", "output_dims": 3}}, "Did you mean 'output_dim'"),
    ],
)
def test_wrong_options_are_refused_when_the_model_is_made(changes, match):
    with pytest.raises(ConfigError, match=match):
        make(**changes)


def test_without_a_rule_or_entropies_patches_must_be_given():
    with pytest.raises(ConfigError, match="no patch_rule to cut patches by"):
        make()(TOKENS)
    model = make(patch_rule=PatchRule(threshold_nats=1.0))
    with pytest.raises(ConfigError, match="no entropy model to cut patches by"):
        model(TOKENS)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"variant": "mirco"}, "variant 'mirco': not one of .* Did you mean 'micro'"),
        ({"vocab": 260}, "'vocab' is not a key of it.*Did you mean 'vocab_size'"),
        ({"global_transformer_args": {"norm_type": 1}}, "Did you mean .*'normalization_type'"),
        ({"local_transformer_args": {"moe_config": 1}}, "'moe_config' is not a key of it"),
        (
            {"global_dim": 8, "global_transformer_args": {"dim": 8}},
            "'global_dim' is given twice: by its name, and in 'global_transformer_args'",
        ),
    ],
)
def test_wrong_keys_of_a_config_are_refused(config, match):
    with pytest.raises(ConfigError, match=match):
        create_blt_from_config(config)


def test_a_config_changes_what_it_names_and_keeps_the_rest_of_the_variant():
    with not_allocated():
        model = create_blt_from_config(
            {
                "variant": "small",
                "max_sequence_length": 77,
                "global_transformer_args": {
                    "num_layers": 2,
                    "num_heads": 4,
                    "num_kv_heads": 1,
                    "ffn_type": "geglu",
                    "normalization_type": "rms_norm",
                },
                "local_transformer_args": {"window": 99, "dim": 64, "rope_theta": 5.0},
            }
        )
    options = model.get_config()
    assert options["global_attention_config"] == {
        "type": "group_query",
        "num_heads": 4,
        "num_kv_heads": 1,
    }
    assert options["global_ffn_config"] == {"type": "geglu", "expansion": 3.5}
    assert (options["global_norm_type"], options["num_global_layers"]) == ("rms_norm", 2)
    assert options["local_attention_config"] == {
        "type": "sliding_window",
        "num_heads": 1,
        "window": 99,
        "rope_theta": 5.0,
    }
    assert (options["local_dim"], options["global_dim"]) == (64, 768)
    assert options["max_sequence_length"] == 77
