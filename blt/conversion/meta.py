"""Checkpoints of the paper's authors: `tok_embeddings`, `wq`, `w1` and so on.

Two kinds of model, told apart by the names of their weights: entropy models, and BLTs, which do not
hold the entropy model that cuts their patches.
"""

import dataclasses
from typing import Any

import keras

from blt.conversion.checkpoint import Checkpoint
from blt.conversion.fields import Fields, head_options
from blt.conversion.making import (
    find_projections,
    fit_weights,
    make_blt,
    make_entropy_model,
    notes_on_fields,
    read_patch_rule,
    rms_norm,
    unless_equal,
)
from blt.conversion.names import META, bind_blt, bind_entropy_model
from blt.errors import UserError
from blt.model import EntropyModel
from blt.model.blt import DEFAULT_THRESHOLD_NATS
from blt.model.serialization import fingerprint
from blt.tokenizer import EOS_ID

_WRAPPERS = ("model", "config", "args")
_ENTROPY_WRAPPERS = ("entropy_model", *_WRAPPERS)
_DEFAULT_EPSILON = 1e-5
_ENTROPY_ROPE_THETA = 10_000.0  # the reference implementation never sets another
# Fields that change nothing of what a model computes: of training and of how it is run; sizes that
# the weights say; and what the reference implementation has, but never uses. What is asked for
# under some patch rules alone is among them, too.
_NO_MATTER = frozenset(
    (
        "attn_impl",
        "ffn_dim_multiplier",
        "init_base_std",
        "init_std_factor",
        "init_use_depth",
        "max_length",
        "max_seqlen",
        "monotonicity",
        "multiple_of",
        "non_linearity",
        "norm_affine",
        "patch_size",
        "patching_threshold",
        "patching_threshold_add",
        "recompute_attn",
        "recompute_fc1_out",
        "recompute_fc3_out",
        "rope_use_fp32_in_outer_product",
        "seed",
        "share_encoder_decoder_emb",
        "tie_local_encoder_decoder",
    )
)
# Of the base that a BLT's config has in common with an entropy model's; the parts have their own.
_NO_MATTER_TO_A_BLT = _NO_MATTER | {"dim", "n_heads", "n_layers", "weight_tying"}
_NO_MATTER_TO_AN_ENTROPY_MODEL = _NO_MATTER | {"sliding_window"}  # --window stands before it
_USUAL = {"cross_attn_use_flex_attention": (True,), "dropout": (0,), "eos_id": (EOS_ID,)}
_USUAL_IN_ENTROPY_MODELS = {**_USUAL, "attn_bias_type": ("local_block_causal",)}
_USUAL_IN_BLTS = {**_USUAL, "attn_bias_type": ("block_causal", "local_block_causal")}


@dataclasses.dataclass(frozen=True)
class MetaOptions:
    """What a checkpoint does not say.

    Attributes:
      compat: of the model that is made: "meta", or None.
      window: of an entropy model, in place of its config's; tokens.
      entropy_model: to be kept in a BLT.
      threshold_nats: of a BLT's patch rule, in place of its config's.
    """

    compat: str | None = "meta"
    window: int | None = None
    entropy_model: EntropyModel | None = None
    threshold_nats: float | None = None


def read_meta(checkpoint: Checkpoint, options: MetaOptions) -> tuple[keras.Model, list[str]]:
    """Makes our model of a checkpoint.

    Returns:
      An `EntropyModel` or a `ByteLatentTransformer`, and what the user should know, in sentences.

    Raises:
      UserError: a field or weight is missing, wrong or unknown, or an option does not go with the
        kind of model.
    """
    if f"{META.embedding}.weight" in checkpoint.weights:
        return _read_entropy_model(checkpoint, options)
    if f"local_encoder.{META.embedding}.weight" in checkpoint.weights:
        return _read_blt(checkpoint, options)
    raise UserError(
        f"{checkpoint.path}: neither a BLT nor an entropy model in this format; it has no weight "
        "local_encoder.tok_embeddings.weight or tok_embeddings.weight. Is it --from hf?"
    )


def _read_entropy_model(
    checkpoint: Checkpoint, options: MetaOptions
) -> tuple[EntropyModel, list[str]]:
    for flag, value in (
        ("--entropy-model", options.entropy_model),
        ("--threshold-nats", options.threshold_nats),
    ):
        if value is not None:
            raise UserError(f"{flag}: {checkpoint.path} is an entropy model; leave it out.")
    fields = Fields(checkpoint.config, checkpoint.config_path).unwrap(_ENTROPY_WRAPPERS)
    notes = []
    window = options.window or fields.integer("sliding_window", None)
    if window is None:
        window = fields.integer("max_seqlen")
        notes.append(
            f"Its config has no sliding_window, so attention sees all of a sequence ({window} "
            "tokens). If it was trained with a window, give --window."
        )
    fields.only("weight_tying", (False,), False)
    dim = fields.integer("dim")
    arguments = {
        "vocab_size": _rows(checkpoint, META.embedding),
        "dim": dim,
        "num_layers": fields.integer("n_layers"),
        **head_options(fields, dim, heads="n_heads", kv_heads="n_kv_heads", head_dim="head_dim"),
        "hidden_dim": _rows(checkpoint, f"layers.0.{META.gate}"),
        "window": window,
        "rope_theta": fields.positive("rope_theta", _ENTROPY_ROPE_THETA),
        "normalization_type": rms_norm(fields.positive("norm_eps", _DEFAULT_EPSILON)),
    }
    bindings = bind_entropy_model(arguments, META)
    notes += fit_weights(checkpoint, bindings)
    fields.expect("vocab_size", arguments["vocab_size"])
    notes += notes_on_fields(fields, _NO_MATTER_TO_AN_ENTROPY_MODEL, _USUAL_IN_ENTROPY_MODELS)
    return make_entropy_model(checkpoint, arguments, bindings), notes


def _rows(checkpoint: Checkpoint, name: str) -> int:
    """Returns the first size of a weight; 1 if it is missing, as will be said of all that are."""
    weight = checkpoint.weights.get(f"{name}.weight")
    return weight.shape[0] if weight is not None and weight.shape else 1


def _read_blt(checkpoint: Checkpoint, options: MetaOptions) -> tuple[keras.Model, list[str]]:
    if options.window is not None:
        raise UserError(f"--window: {checkpoint.path} is a BLT; it is for entropy models alone.")
    fields = Fields(checkpoint.config, checkpoint.config_path).unwrap(_WRAPPERS)
    rule = read_patch_rule(
        fields, compat=options.compat, threshold_nats=_threshold(fields, options.threshold_nats)
    )
    arguments = {
        **_blt_arguments(fields, checkpoint),
        "entropy_model": options.entropy_model,
        "entropy_fingerprint": options.entropy_model and fingerprint(options.entropy_model),
        "patch_rule": rule,
        "compat": options.compat,
    }
    arguments |= find_projections(checkpoint, arguments, META)
    bindings = bind_blt(arguments, META)
    notes = fit_weights(checkpoint, bindings)
    if options.entropy_model is None and rule.needs_entropies:
        notes.append(
            "It holds no entropy model, so patches must be given to it; convert the entropy "
            "model first and give --entropy-model to keep it inside."
        )
    fields.expect("vocab_size", arguments["vocab_size"])
    notes += notes_on_fields(fields, _NO_MATTER_TO_A_BLT, _USUAL_IN_BLTS)
    return make_blt(checkpoint, arguments, bindings), notes


def _threshold(fields: Fields, given: float | None) -> float | None:
    by_entropy = fields.get("patching_mode", "entropy") == "entropy"
    if given is not None or not by_entropy or fields.has("patching_threshold"):
        return given
    return DEFAULT_THRESHOLD_NATS


def _blt_arguments(fields: Fields, checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the arguments of `ByteLatentTransformer`, without those of its patches."""
    local_dim = fields.integer("dim_local_encoder")
    if fields.integer("dim_local_decoder") != local_dim:
        raise fields.error(
            "dim_local_decoder", f"differs from dim_local_encoder, {local_dim}; ours are equal."
        )
    fields.only("use_local_encoder_transformer", (True,), True)
    if fields.has("head_dim"):
        raise fields.error("head_dim", "is not null; it is not known which attention it is of.")
    parts = ("encoder", "decoder")
    encoder, decoder = (_local_arguments(fields, checkpoint, part) for part in parts)
    max_patches = fields.integer("max_seqlen")
    return {
        "vocab_size": _rows(checkpoint, f"local_encoder.{META.embedding}"),
        "local_dim": local_dim,
        "num_encoder_layers": fields.integer("n_layers_local_encoder"),
        "num_decoder_layers": fields.integer("n_layers_local_decoder"),
        **{f"local_{name}": config for name, config in encoder.items()},
        **{
            f"decoder_{name}": unless_equal(config, encoder[name])
            for name, config in decoder.items()
        },
        **_global_arguments(fields, checkpoint),
        **_cross_attention_arguments(fields),
        **_ngram_arguments(fields),
        "pooling": fields.only("downsampling_by_pooling", ("max", "min", "avg")),
        "max_sequence_length": fields.integer("max_encoder_seq_length", max_patches),
        "max_patches": max_patches,
    }


def _norm(fields: Fields) -> dict[str, Any]:
    return rms_norm(fields.positive("norm_eps", _DEFAULT_EPSILON))


def _local_arguments(fields: Fields, checkpoint: Checkpoint, part: str) -> dict[str, Any]:
    """Returns `attention_config`, `ffn_config` and `norm_type` of the local encoder or decoder."""
    layer = f"local_{part}.layers.0."
    heads = head_options(fields, fields.integer(f"dim_local_{part}"), heads=f"n_heads_local_{part}")
    num_kv_heads = _rows(checkpoint, layer + META.key) // heads["head_dim"]
    if num_kv_heads and heads["num_heads"] % num_kv_heads == 0:  # else the shape is refused
        heads["num_kv_heads"] = num_kv_heads
    longest = fields.integer("max_encoder_seq_length", fields.integer("max_seqlen"))
    attention = {
        "type": "sliding_window",
        **heads,
        "window": fields.integer("local_attention_window_len", longest),
        "rope_theta": fields.positive("rope_theta"),
    }
    hidden_dim = _rows(checkpoint, layer + META.gate)
    return {
        "attention_config": attention,
        "ffn_config": {"type": "swiglu", "hidden_dim": hidden_dim},
        "norm_type": _norm(fields),
    }


def _global_arguments(fields: Fields, checkpoint: Checkpoint) -> dict[str, Any]:
    dim = fields.integer("dim_global")
    heads = head_options(fields, dim, heads="n_heads_global", kv_heads="n_kv_heads_global")
    hidden_dim = _rows(checkpoint, f"global_transformer.layers.0.{META.gate}")
    return {
        "global_dim": dim,
        "num_global_layers": fields.integer("n_layers_global"),
        "global_attention_config": {
            "type": "group_query",
            **heads,
            "rope_theta": fields.positive("rope_theta"),
        },
        "global_ffn_config": {"type": "swiglu", "hidden_dim": hidden_dim},
        "global_norm_type": _norm(fields),
    }


def _cross_attention_arguments(fields: Fields) -> dict[str, Any]:
    has_any = fields.flag("cross_attn_encoder")
    if fields.flag("cross_attn_decoder") != has_any:
        raise fields.error("cross_attn_decoder", "differs from cross_attn_encoder; ours are equal.")
    if not has_any:
        none = {"encoder_layers": "none", "decoder_layers": "none"}
        return {"cross_attention_config": none, "num_slices": 1}
    fields.only("cross_attn_init_by_pooling", (True,))
    in_all_encoder_layers = fields.flag("cross_attn_all_layers_encoder")
    in_all_decoder_layers = fields.flag("cross_attn_all_layers_decoder")
    return {
        "cross_attention_config": {
            "num_heads": fields.integer("cross_attn_nheads"),
            "encoder_layers": "all" if in_all_encoder_layers else "last",
            "decoder_layers": "all" if in_all_decoder_layers else "first",
            "encoder_window": fields.integer("cross_attn_window_encoder", 1),
            "decoder_window": fields.integer("cross_attn_window_decoder", 1),
            "residual_scale": 2.0,
        },
        "num_slices": fields.integer("cross_attn_k"),
    }


def _ngram_arguments(fields: Fields) -> dict[str, Any]:
    if not fields.get("encoder_hash_byte_group_size", []):
        return {"ngram_sizes": [], "ngram_table_size": 0, "num_hash_functions": 1}
    return {
        "ngram_sizes": fields.integers("encoder_hash_byte_group_size"),
        "ngram_table_size": fields.integer("encoder_hash_byte_group_vocab"),
        "num_hash_functions": fields.integer("encoder_hash_byte_group_nb_functions"),
    }
