"""Our models as Hugging Face's checkpoints, and back."""

from pathlib import Path

import keras
import numpy as np
import pytest

from blt.conversion.checkpoint import read_checkpoint
from blt.conversion.export import write_hugging_face
from blt.conversion.huggingface import read_hugging_face
from blt.errors import UserError
from blt.model import ByteLatentTransformer, EntropyModel
from blt.model.serialization import fingerprint
from tests.blt.conversion.checkpoints import random_hf_blt, save_folder

RMS = {"type": "rms_norm", "epsilon": 1e-4}
TOKENS = np.array([[1, 70, 71, 72, 36, 90, 91, 2]])
PATCH_LENGTHS = np.array([[1, 2, 3, 3]])
SOURCE = Path("model.keras")


def make_entropy_model(**changes):
    options = {"dim": 16, "num_layers": 1, "num_heads": 2, "window": 8, "normalization_type": RMS}
    return EntropyModel(**{**options, **changes})


def make_blt(**changes):
    """Returns a BLT of random weights that the layout holds, but for the changes."""
    cross = {"residual_scale": 2.0, **changes.pop("cross_attention_config", {})}
    entropy_model = changes.pop("entropy_model", make_entropy_model())
    options = {
        "local_dim": 12,
        "global_dim": 20,
        "num_global_layers": 2,
        "num_decoder_layers": 2,
        "local_attention_config": {"type": "sliding_window", "num_heads": 2, "window": 6},
        "local_norm_type": RMS,
        "global_attention_config": {"type": "multi_head", "num_heads": 2},
        "global_norm_type": "rms_norm",
        "ngram_sizes": (3, 4),
        "ngram_table_size": 13,
        "max_sequence_length": 64,
        "max_patches": 32,
        "patch_rule": {"threshold_nats": 2.0, "max_patch_length": 4},
        "compat": "hf",
    }
    model = ByteLatentTransformer(
        **{**options, **changes}, cross_attention_config=cross, entropy_model=entropy_model
    )
    rng = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape).astype("float32"))
    return model


def round_trip(model, folder):
    write_hugging_face(model, folder, source=SOURCE)
    return read_hugging_face(read_checkpoint(folder))[0]


def logits(model):
    return keras.ops.convert_to_numpy(model(TOKENS, PATCH_LENGTHS))


VARIANTS = {
    "one of each": {},
    "grouped heads of another width": {
        "global_attention_config": {
            "type": "group_query",
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 6,
            "rope_theta": 77.0,
        }
    },
    "all layers of the encoder, one of the decoder": {
        "num_encoder_layers": 2,
        "cross_attention_config": {"encoder_layers": "all", "decoder_layers": "first"},
    },
    "hash functions": {"num_hash_functions": 3},
    "slices that make the global width": {"global_dim": 24, "num_slices": 2},
    "one width": {"global_dim": 12},
    "one width, with projections": {
        "global_dim": 12,
        "global_projection": True,
        "decoder_projection": True,
    },
    "one width, with slices": {"global_dim": 12, "num_slices": 2, "decoder_projection": True},
    "slices that are the global width": {
        "global_dim": 24,
        "num_slices": 2,
        "decoder_projection": False,
    },
    "tied by its embedding": {"tied_embeddings": "embedding"},
    "tied by its output": {
        "tied_embeddings": "output",
        "entropy_model": make_entropy_model(tied_embeddings="both"),
    },
    "another decoder": {
        "decoder_norm_type": {"type": "rms_norm", "epsilon": 1e-3},
        "decoder_ffn_config": {"type": "swiglu", "hidden_dim": 14},
        "decoder_attention_config": {"num_heads": 3, "window": 6, "rope_theta": 50.0},
        "cross_attention_config": {"decoder_num_heads": 3},
    },
    "an entropy model of another kind": {
        "entropy_model": make_entropy_model(num_kv_heads=1, head_dim=6, rope_theta=99.0)
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_blt_comes_back_as_it_was(changes, tmp_path):
    model = make_blt(**changes)
    back = round_trip(model, tmp_path)
    np.testing.assert_array_equal(logits(back), logits(model))
    ours, theirs = (
        keras.ops.convert_to_numpy(each.entropy_model(TOKENS)) for each in (model, back)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert back.patch_rule.threshold_nats == 2.0
    assert back.patch_rule.max_patch_length == 4
    assert (back.max_sequence_length, back.max_patches) == (64, 32)


def test_a_checkpoint_of_theirs_comes_back_as_it_was(tmp_path):
    config, weights = random_hf_blt(n_kv_heads_global=1, encoder_hash_byte_group_nb_functions=2)
    model, _ = read_hugging_face(read_checkpoint(save_folder(tmp_path / "one", config, weights)))
    assert write_hugging_face(model, tmp_path / "two", source=SOURCE) == []
    back = read_checkpoint(tmp_path / "two")
    assert fingerprint(read_hugging_face(back)[0]) == fingerprint(model)
    assert back.weights.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(back.weights[name].load(), array)


def test_an_entropy_model_comes_back_as_it_was(tmp_path):
    model = make_entropy_model(window=9000)
    back = round_trip(model, tmp_path)
    assert isinstance(back, EntropyModel)
    assert back.window == 9000
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(back(TOKENS)), keras.ops.convert_to_numpy(model(TOKENS))
    )


def test_a_projection_that_only_one_side_has_is_said(tmp_path):
    notes = write_hugging_face(make_blt(global_dim=12), tmp_path, source=SOURCE)
    (note,) = notes
    assert "no model.local_decoder.patch_embedding_projection" in note
    projection = read_checkpoint(tmp_path).weights[
        "model.local_decoder.patch_embedding_projection.weight"
    ]
    np.testing.assert_array_equal(projection.load(), np.eye(12, dtype="float32"))
    model = make_blt(global_dim=12, global_projection=True, decoder_projection=True)
    (note,) = write_hugging_face(model, tmp_path, source=SOURCE)
    assert "has model.global_transformer.token_embedding_projection" in note


def test_another_compat_is_said(tmp_path):
    notes = write_hugging_face(make_blt(compat=None), tmp_path, source=SOURCE)
    assert "The model's compat is None, and Hugging Face's model computes as 'hf'" in notes[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"entropy_model": None}, "holds no entropy model.*blt train --entropy-model"),
        (
            {"entropy_model": make_entropy_model(ngram_sizes=(2,), ngram_table_size=5)},
            r"the entropy model's ngram_sizes is \[2\]",
        ),
        (
            {"entropy_model": make_entropy_model(normalization_type="layer_norm")},
            "the entropy model's norm is 'LayerNormalization', but .* 'RMSNormalization'",
        ),
        ({"local_norm_type": "zero_centered_rms_norm"}, "the local encoder's norm is"),
        ({"global_ffn_config": "geglu"}, "global transformer's feed-forward network is 'GEGLU'"),
        (
            {"global_moe_config": {"num_experts": 2}},
            "global_moe_config is .*num_experts",
        ),
        ({"pooling": "avg"}, "pooling is 'avg', but .* 'max'"),
        ({"ngram_sizes": (), "ngram_table_size": 0}, r"ngram_sizes is \[\]"),
        (
            {"cross_attention_config": {"encoder_layers": "none", "decoder_layers": "none"}},
            "encoder_layers is 'none'",
        ),
        ({"cross_attention_config": {"residual_scale": 1.0}}, "residual_scale is 1.0, .* 2.0"),
        ({"cross_attention_config": {"encoder_window": 2}}, "encoder_window is 2, .* 1"),
        ({"cross_attention_config": {"decoder_window": 3}}, "decoder_window is 3, .* 1"),
        ({"cross_attention_config": {"num_heads": 3}}, "cross_attention_config's num_heads is 3"),
        (
            {
                "compat": "meta",
                "num_encoder_layers": 2,
                "cross_attention_config": {"encoder_layers": "all"},
            },
            "compat .with encoder_layers 'all'. is 'meta', .* 'hf'",
        ),
        ({"patch_rule": {"rule": "byte"}}, "the patch rule is 'byte', .* 'entropy'"),
        (
            {"patch_rule": {"threshold_nats": 2.0, "reset_on_newline": True}},
            "the patch rule's reset_on_newline is True, .* False",
        ),
        (
            {"decoder_attention_config": {"type": "sliding_window", "num_heads": 3, "window": 6}},
            "decoder_num_heads is 2",
        ),
        (
            {"decoder_attention_config": {"type": "sliding_window", "num_heads": 2, "window": 5}},
            "the local decoder's window is 5",
        ),
        (
            {"global_attention_config": {"type": "sliding_window", "num_heads": 2, "window": 5}},
            "the global transformer's window is 5, .* None",
        ),
    ],
)
def test_an_option_that_the_layout_does_not_hold_is_refused_by_name(changes, text, tmp_path):
    with pytest.raises(UserError, match=f"model.keras: .*{text}"):
        write_hugging_face(make_blt(**changes), tmp_path, source=SOURCE)
    assert list(tmp_path.iterdir()) == []
