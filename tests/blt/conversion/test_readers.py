"""Configs of both formats: what they become, and every field that is refused."""

import copy

import keras
import numpy as np
import pytest

from blt.conversion.checkpoint import read_checkpoint
from blt.conversion.export import write_hugging_face
from blt.conversion.huggingface import read_hugging_face
from blt.conversion.meta import MetaOptions, read_meta
from blt.errors import UserError
from blt.model import ByteLatentTransformer, EntropyModel
from blt.model.serialization import fingerprint
from blt.patching.rules import PatchRule
from tests.blt.conversion.checkpoints import (
    hf_patcher,
    random_blt,
    random_entropy_model,
    random_hf_blt,
    save_folder,
)

TOKENS = np.array([[1, 70, 71, 72, 36, 90, 91, 2]])


def changed(config, changes):
    """Returns a copy of a config in which the fields at dotted paths are others."""
    config = copy.deepcopy(config)
    for path, value in changes.items():
        section = config
        *sections, name = path.split(".")
        for each in sections:
            section = section[each]
        section[name] = value
    return config


def meta_model(folder, config, weights, **options):
    return read_meta(read_checkpoint(save_folder(folder, config, weights)), MetaOptions(**options))


def hf_model(folder, config, weights, **options):
    return read_hugging_face(read_checkpoint(save_folder(folder, config, weights)), **options)


def refuses(text, read, *args, **options):
    with pytest.raises(UserError, match=text):
        read(*args, **options)


def assert_all_weights_loaded(model):
    """A weight that was forgotten would have the values that a new model has: 0 and 1 in norms."""
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        assert len(np.unique(values)) > 1, weight.path


def test_a_blt_of_the_authors(tmp_path):
    model, notes = meta_model(tmp_path, *random_blt())
    assert isinstance(model, ByteLatentTransformer)
    assert_all_weights_loaded(model)
    assert model.compat == "meta"
    assert model.patch_rule == PatchRule(threshold_nats=1.335442066192627, compat="meta")
    assert (model.max_sequence_length, model.max_patches) == (128, 64)
    assert "holds no entropy model" in notes[0]


def test_a_blt_of_the_authors_with_its_entropy_model(tmp_path):
    entropy_model, _ = meta_model(tmp_path / "entropy", *random_entropy_model())
    config, weights = random_blt(patching_threshold=0.5, max_patch_length=9)
    options = {"entropy_model": entropy_model, "compat": None}
    model, notes = meta_model(tmp_path, {"model": config}, weights, **options)
    assert notes == []
    assert model.compat is None
    assert model.entropy_fingerprint == fingerprint(entropy_model)
    assert model.patch_rule == PatchRule(threshold_nats=0.5, max_patch_length=9)
    model, _ = meta_model(tmp_path, config, weights, threshold_nats=2.5, **options)
    assert model.patch_rule.threshold_nats == 2.5


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"patching_mode": "space"}, {"rule": "space"}),
        ({"patching_mode": "byte"}, {"rule": "byte"}),
        ({"patching_mode": "static", "patch_size": 4.0}, {"rule": "static", "patch_size": 4}),
        (
            {"monotonicity": True, "patching_threshold": 0.2},
            {"rule": "monotonic", "threshold_nats": 0.2},
        ),
        (
            {"patching_threshold": 1.0, "patching_threshold_add": 0.1},
            {"rule": "combined", "threshold_nats": 1.0, "threshold_add_nats": 0.1},
        ),
    ],
)
def test_patch_rules_of_the_authors(changes, rule, tmp_path):
    model, _ = meta_model(tmp_path, *random_blt(**changes))
    assert model.patch_rule == PatchRule(**rule, compat="meta")


def test_an_entropy_model_of_the_authors(tmp_path):
    config, weights = random_entropy_model()
    wrapped = {"model": {"dim": 999}, "entropy_model": config}
    weights["rope.freqs_cis"] = np.ones((2, 3), np.float32)
    model, notes = meta_model(tmp_path, wrapped, weights)
    assert isinstance(model, EntropyModel)
    assert_all_weights_loaded(model)
    assert model.window == 8
    assert notes == ["Left out, since nothing uses them: rope.freqs_cis."]
    assert meta_model(tmp_path, config, weights, window=5)[0].window == 5


def test_an_entropy_model_without_a_window_sees_all_of_a_sequence(tmp_path):
    config, weights = random_entropy_model(sliding_window=None)
    model, notes = meta_model(tmp_path, config, weights)
    assert model.window == 64
    assert "no sliding_window" in notes[0]


def test_a_blt_of_hugging_face(tmp_path):
    model, notes = hf_model(tmp_path, *random_hf_blt())
    assert notes == []
    assert_all_weights_loaded(model)
    assert_all_weights_loaded(model.entropy_model)
    assert model.compat == "hf"
    assert model.patch_rule == PatchRule(threshold_nats=4.5, compat="meta")
    assert model.entropy_fingerprint == fingerprint(model.entropy_model)


def test_a_patcher_of_hugging_face_alone_and_in_an_older_config(tmp_path):
    config, weights = hf_patcher(*random_entropy_model())
    model, _ = hf_model(tmp_path, {"config": config}, weights)
    assert_all_weights_loaded(model)
    older = changed(config, {"rope_parameters": None, "rope_theta": 10000.0, "model_type": None})
    older["rope_scaling"] = {"rope_type": "default"}
    assert fingerprint(hf_model(tmp_path, older, weights)[0]) == fingerprint(model)


def test_a_blt_of_hugging_face_without_a_patcher_needs_patches(tmp_path):
    config, weights = random_hf_blt()
    weights = {name: w for name, w in weights.items() if not name.startswith("model.patcher.")}
    model, notes = hf_model(tmp_path, config, weights, compat=None)
    assert model.entropy_model is None
    assert model.compat is None
    assert notes == ["It holds no patcher, so patches must be given to it."]


def test_a_tied_matrix_of_logits_is_the_embedding(tmp_path):
    config, weights = hf_patcher(*random_entropy_model())
    config["tie_word_embeddings"] = True
    refuses("tie_word_embeddings: is true, but lm_head.weight", hf_model, tmp_path, config, weights)
    del weights["lm_head.weight"]
    model, _ = hf_model(tmp_path, config, weights)
    x = np.random.default_rng(0).normal(size=(1, 3, 16)).astype("float32")
    logits = keras.ops.convert_to_numpy(model.output_layer(x, embedding=model.embedding))
    np.testing.assert_allclose(logits, x @ weights["embed_tokens.weight"].T, atol=1e-5)
    for names in (("lm_head.weight",), ("embed_tokens.weight", "lm_head.weight")):
        table = weights.pop("embed_tokens.weight")
        other, _ = hf_model(tmp_path, config, weights | dict.fromkeys(names, table))
        weights["embed_tokens.weight"] = table
        assert other.count_params() == model.count_params()
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(other(TOKENS)), keras.ops.convert_to_numpy(model(TOKENS))
        )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dim_local_encoder": None}, "config.json: dim_local_encoder: missing; add it"),
        ({"dim_local_decoder": 24}, "dim_local_decoder: differs from dim_local_encoder, 12"),
        ({"use_local_encoder_transformer": False}, "use_local_encoder_transformer: is False, but"),
        ({"head_dim": 6}, "head_dim: is not null"),
        ({"n_heads_global": 3}, "n_heads_global: is 3, no divisor of the width, 20"),
        ({"n_heads_global": 4}, "n_heads_global: the width of a head, 5, must be even"),
        ({"n_kv_heads_global": 3}, "n_kv_heads_global: is 3, no divisor of n_heads_global, 2"),
        ({"n_layers_global": 1.5}, "n_layers_global: must be a whole number from 1 to"),
        ({"n_layers_global": "2"}, "n_layers_global: must be a whole number"),
        ({"n_layers_global": True}, "n_layers_global: must be a whole number"),
        ({"n_layers_global": 3}, "weights are missing"),
        ({"n_layers_global": 1}, "weights are left over"),
        ({"rope_theta": "big"}, "rope_theta: must be a number, is 'big'"),
        ({"norm_eps": 0}, "norm_eps: must be above 0"),
        ({"cross_attn_encoder": 1}, "cross_attn_encoder: must be true or false, is 1"),
        ({"cross_attn_decoder": False}, "cross_attn_decoder: differs from cross_attn_encoder"),
        ({"cross_attn_init_by_pooling": False}, "cross_attn_init_by_pooling: is False, but"),
        ({"cross_attn_k": 3}, "weights? (is|are) (not of the shape|missing)"),
        ({"cross_attn_nheads": 5}, "config.json: width 12 is not a multiple of num_heads"),
        ({"downsampling_by_pooling": "topk:2"}, "only 'max' or 'min' or 'avg' can be converted"),
        ({"encoder_hash_byte_group_size": "3,4"}, "must be a list of whole numbers from 1 on"),
        ({"patching_mode": "bpe"}, "patching_mode: is 'bpe', but only"),
        ({"patching_threshold": 99}, "patching_mode: 'entropy' cannot be had so: .*must be in"),
    ],
)
def test_what_is_refused_in_a_blt_of_the_authors(changes, text, tmp_path):
    config, weights = random_blt()
    refuses(text, meta_model, tmp_path, {**config, **changes}, weights)


def test_what_does_not_go_with_a_model_of_the_authors_is_refused(tmp_path):
    entropy = random_entropy_model()
    refuses("--threshold-nats: .*leave it out", meta_model, tmp_path, *entropy, threshold_nats=1.0)
    refuses("--window: .*a BLT", meta_model, tmp_path, *random_blt(), window=3)
    config, weights = entropy
    tied = {**config, "weight_tying": True}
    refuses("weight_tying: is True, but only False", meta_model, tmp_path, tied, weights)
    model, _ = meta_model(tmp_path, *entropy)
    refuses("--entropy-model: .*leave it out", meta_model, tmp_path, *entropy, entropy_model=model)
    refuses(
        "neither a BLT nor an entropy model.*--from hf",
        meta_model,
        tmp_path,
        {},
        {"a": weights["norm.weight"]},
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_type": "llama"}, "model_type: is 'llama', not 'blt' or 'blt_patcher'"),
        ({"encoder_config": None}, "encoder_config: missing"),
        ({"global_config": 3}, "global_config: must be an object"),
        ({"decoder_config.hidden_size": 24}, "decoder_config.hidden_size: differs from encoder"),
        ({"encoder_config.hidden_act": "gelu"}, "encoder_config.hidden_act: is 'gelu', but only"),
        (
            {"global_config.rope_parameters": {"rope_type": "yarn"}},
            "global_config.rope_parameters.rope_type: is 'yarn', but only 'default'",
        ),
        (
            {"patcher_config.rope_scaling": {"type": "linear", "factor": 2.0}},
            "patcher_config.rope_scaling.type: is 'linear', but only 'default'",
        ),
        (
            {"decoder_config.rope_scaling": {"rope_type": "dynamic"}},
            "decoder_config.rope_scaling.rope_type: is 'dynamic', but only 'default'",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling.type: is 'linear', but only 'default'",
        ),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type: is 'yarn'"),
        (
            {"encoder_config.rope_parameters.partial_rotary_factor": 0.5},
            "rope_parameters.partial_rotary_factor: is 0.5, but only 1",
        ),
        (
            {"encoder_config.rope_theta": 3.0},
            "encoder_config.rope_theta: is said more than once: 3.0 and 500000.0",
        ),
        ({"global_config.rope_parameters": {}}, "global_config.rope_theta: missing"),
        ({"encoder_config.sliding_window": 7}, "sliding_window: differs from local_attention"),
        ({"decoder_config.cross_attn_k": 3}, "decoder_config.cross_attn_k: differs from"),
        ({"patching_mode": "static"}, "patching_mode: is 'static', but only 'entropy'"),
        ({"patching_threshold": None}, "patching_mode: 'entropy' cannot be had so: .*missing"),
        ({"global_config.intermediate_size": 25}, "6 weights are not of the shape .* 1 more"),
        ({"patcher_config.num_hidden_layers": 3}, "9 weights are missing.*patcher.layers.2"),
    ],
)
def test_what_is_refused_in_a_blt_of_hugging_face(changes, text, tmp_path):
    config, weights = random_hf_blt()
    refuses(text, hf_model, tmp_path, changed(config, changes), weights)


def test_another_way_of_pooling_needs_compat(tmp_path):
    checkpoint = random_hf_blt(cross_attn_all_layers_encoder=True)
    refuses("leave out --compat none", hf_model, tmp_path, *checkpoint, compat=None)


def test_fields_that_nobody_looks_at_are_named(tmp_path):
    config, weights = random_hf_blt()
    _, notes = hf_model(tmp_path / "plain", config, weights)
    assert notes == []
    config["encoder_config"]["attention_bias"] = True
    config |= {"logit_softcapping": 30.0, "use_cache": True, "dropout": 0.0, "quantization": None}
    _, notes = hf_model(tmp_path / "more", config, weights)
    (note,) = notes
    assert note.startswith("Warning: fields of the config that conversion does not know, or does")
    assert "honour: encoder_config.attention_bias, logit_softcapping. If" in note


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rope": False},
        {"global_config.logit_scale": 0},
        {"decoder_config.mlp_bias": True},
        {"patcher_config.tie_encoder_decoder": True},
        {"encoder_config.tie_word_embeddings": True},
        {"encoder_config.vocab_size": 300},
        {"decoder_config.hidden_size_global": 21},
        {"global_config.encoder_cross_output_size": 23},
        {"global_config.sliding_window": 5},
        {"hidden_act": "gelu"},
        {"head_dim": 6},
        {"rope_theta": 7.0},
        {"decoder_config.rope_parameters.factor": 2.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_field_that_is_not_honoured_is_named_whatever_it_says(changes, tmp_path):
    config, weights = random_hf_blt()
    _, notes = hf_model(tmp_path, changed(config, changes), weights)
    (note,) = notes
    (name,) = changes
    assert f"does not honour: {name}. If they change" in note


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"attn_bias_type": "causal"}, "attn_bias_type"),
        ({"eos_id": 3}, "eos_id"),
        ({"cross_attn_use_flex_attention": False}, "cross_attn_use_flex_attention"),
        ({"something": {"inside": 0}}, "something"),
        ({"vocab_size": 300}, "vocab_size"),
        ({"use_qk_norm": False}, "use_qk_norm"),
    ],
)
def test_a_field_of_the_authors_that_is_not_honoured_is_named(changes, name, tmp_path):
    config, weights = random_blt(patching_mode="space")
    _, notes = meta_model(tmp_path, config | changes, weights)
    (note,) = notes
    assert f"does not honour: {name}. If they change" in note
    config, weights = random_entropy_model()
    _, notes = meta_model(tmp_path, config | changes, weights)
    assert f"does not honour: {name}. If they change" in notes[0]


def test_a_window_of_a_blt_is_named_since_its_parts_have_their_own(tmp_path):
    _, notes = meta_model(tmp_path, *random_blt(patching_mode="space", sliding_window=4))
    assert "does not honour: sliding_window. If" in notes[0]


def test_fields_of_the_authors_that_change_nothing_are_not_named(tmp_path):
    config, weights = random_entropy_model(
        attn_impl="sdpa", attn_bias_type="local_block_causal", eos_id=2, seed=42, multiple_of=256
    )
    config |= {"vocab_size": 260, "init_std_factor": "disabled", "n_kv_heads": None}
    assert meta_model(tmp_path, config, weights, window=3)[1] == []


def test_fields_that_we_write_ourselves_are_not_named(tmp_path):
    model, _ = hf_model(tmp_path / "first", *random_hf_blt())
    write_hugging_face(model, tmp_path / "again", source=tmp_path / "m.keras")
    assert read_hugging_face(read_checkpoint(tmp_path / "again"))[1] == []
