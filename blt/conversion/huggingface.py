"""Checkpoints of Hugging Face's `transformers`: `BltForCausalLM`, and its entropy model alone.

A `BltForCausalLM` (`model_type` "blt") holds its entropy model, which it calls patcher; alone, that
is a "blt_patcher".
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from blt.conversion.checkpoint import Checkpoint, quote
from blt.conversion.fields import Fields, head_options
from blt.conversion.making import (
    fit_weights,
    make_blt,
    make_entropy_model,
    read_patch_rule,
    rms_norm,
    unless_equal,
)
from blt.conversion.names import HUGGING_FACE, bind_blt, bind_entropy_model
from blt.conversion.weights import same_weights
from blt.model.serialization import fingerprint

_BLT = "blt"
_PATCHER = "blt_patcher"
_WRAPPERS = ("config",)
_EMBEDDING = f"{HUGGING_FACE.embedding}.weight"
_OUTPUT = f"{HUGGING_FACE.output}.weight"
# Fields that change nothing of what a model computes: of training, of generation, of files, and
# sizes that follow from others.
_NO_MATTER = frozenset(
    (
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "dtype",
        "encoder_cross_output_size",
        "eos_token_id",
        "head_dim",
        "hidden_size_global",
        "initializer_range",
        "max_position_embeddings",
        "model_type",
        "num_key_value_heads",
        "pad_token_id",
        "patch_in_forward",
        "patch_size",
        "patching_batch_size",
        "patching_device",
        "realtime_patching",
        "return_dict",
        "rope_parameters",  # of the whole; those of the parts are asked for
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vocab_size",
    )
)
_FIELDS_SHOWN = 8


def read_hugging_face(
    checkpoint: Checkpoint, *, compat: str | None = "hf"
) -> tuple[keras.Model, list[str]]:
    """Makes our model of a checkpoint.

    Args:
      checkpoint: of a `BltForCausalLM` or of a patcher.
      compat: of the model that is made: "hf", or None.

    Returns:
      A `ByteLatentTransformer` or an `EntropyModel`, and what the user should know, in sentences.

    Raises:
      UserError: a field or weight is missing, wrong or unknown.
    """
    fields = Fields(checkpoint.config, checkpoint.config_path).unwrap(_WRAPPERS)
    kind = fields.get("model_type", _PATCHER if _EMBEDDING in checkpoint.weights else _BLT)
    if kind == _PATCHER:
        checkpoint = _untie(checkpoint, fields, _EMBEDDING, _OUTPUT)
        arguments = _entropy_arguments(fields)
        bindings = bind_entropy_model(arguments, HUGGING_FACE)
        notes = fit_weights(checkpoint, bindings)
        model = make_entropy_model(checkpoint, arguments, bindings)
        return model, notes + _notes_on(fields, _NO_MATTER)
    if kind == _BLT:
        model, notes = _read_blt(checkpoint, fields, compat)
        no_matter = _NO_MATTER if model.entropy_model else _NO_MATTER | {"patcher_config"}
        return model, notes + _notes_on(fields, no_matter)
    raise fields.error("model_type", f"is {quote(kind)}, not {_BLT!r} or {_PATCHER!r}.")


def _notes_on(fields: Fields, no_matter: frozenset[str]) -> list[str]:
    """Says which fields of the config were not looked at, though they may matter."""
    names = [quote(name)[1:-1] for name in fields.never_asked(no_matter)]
    if not names:
        return []
    more = f" and {len(names) - _FIELDS_SHOWN} more" if len(names) > _FIELDS_SHOWN else ""
    return [
        f"Fields of the config that were not looked at: {', '.join(names[:_FIELDS_SHOWN])}{more}. "
        "If they change what the model computes, ours computes something else."
    ]


def _read_blt(
    checkpoint: Checkpoint, fields: Fields, compat: str | None
) -> tuple[keras.Model, list[str]]:
    checkpoint = _untie(
        checkpoint, fields, f"{HUGGING_FACE.model}local_encoder.{_EMBEDDING}", _OUTPUT
    )
    fields.only("patching_mode", ("entropy",), "entropy")
    arguments = {
        **_blt_arguments(fields),
        "patch_rule": read_patch_rule(fields, compat=compat and "meta"),
        "compat": compat,
    }
    if compat is None:
        _check_pooling(fields, arguments)
    bindings = bind_blt(arguments, HUGGING_FACE)
    patcher_bindings = []
    patcher = HUGGING_FACE.patcher
    has_patcher = any(name.startswith(patcher) for name in checkpoint.weights)
    if has_patcher:
        section = fields.section("patcher_config")
        checkpoint = _untie(checkpoint, section, patcher + _EMBEDDING, patcher + _OUTPUT)
        patcher_arguments = _entropy_arguments(section)
        patcher_bindings = bind_entropy_model(patcher_arguments, HUGGING_FACE, prefix=patcher)
    notes = fit_weights(checkpoint, [*bindings, *patcher_bindings])
    entropy_model = None
    if has_patcher:
        entropy_model = make_entropy_model(checkpoint, patcher_arguments, patcher_bindings)
        arguments["entropy_fingerprint"] = fingerprint(entropy_model)
    else:
        notes.append("It holds no patcher, so patches must be given to it.")
    arguments["entropy_model"] = entropy_model
    return make_blt(checkpoint, arguments, bindings), notes


def _untie(checkpoint: Checkpoint, fields: Fields, embedding: str, output: str) -> Checkpoint:
    """Returns the checkpoint with a matrix of logits of its own, where it is the embedding's."""
    weights = checkpoint.weights
    if not fields.flag("tie_word_embeddings", False) or embedding not in weights:
        return checkpoint
    if output not in weights:
        return replace(checkpoint, weights={**weights, output: weights[embedding]})
    if not same_weights(weights, embedding, output):
        raise fields.error(
            "tie_word_embeddings",
            f"is true, but {output} is not {embedding}. Set it to false to use the weights as "
            "they are.",
        )
    return checkpoint


def _check_pooling(fields: Fields, arguments: Mapping[str, Any]) -> None:
    in_all_layers = arguments["cross_attention_config"]["encoder_layers"] == "all"
    if in_all_layers and arguments["num_encoder_layers"] > 1:
        raise fields.error(
            "encoder_config.cross_attn_all_layers",
            "is true: Hugging Face's model pools patches anew at each layer, and ours only with "
            "its compat setting; leave out --compat none.",
        )


def _entropy_arguments(fields: Fields) -> dict[str, Any]:
    """Returns the arguments of `EntropyModel`."""
    dim = fields.integer("hidden_size")
    return {
        "vocab_size": fields.integer("vocab_size"),
        "dim": dim,
        "num_layers": fields.integer("num_hidden_layers"),
        **_heads(fields, dim),
        "hidden_dim": _hidden_dim(fields),
        "window": fields.integer("sliding_window", fields.integer("max_position_embeddings", None)),
        "rope_theta": _rope_theta(fields),
        "normalization_type": _norm(fields),
    }


def _heads(fields: Fields, dim: int) -> dict[str, Any]:
    return head_options(
        fields,
        dim,
        heads="num_attention_heads",
        kv_heads="num_key_value_heads",
        head_dim="head_dim",
    )


def _hidden_dim(fields: Fields) -> int:
    fields.only("hidden_act", ("silu",), "silu")
    return fields.integer("intermediate_size")


def _norm(fields: Fields) -> dict[str, Any]:
    return rms_norm(fields.positive("rms_norm_eps"))


def _rope_theta(fields: Fields) -> float:
    """Returns the base of rotary positions; older configs have it as a field of its own."""
    for name in ("rope_parameters", "rope_scaling"):
        if fields.has(name):
            scaling = fields.section(name)
            scaling.only("rope_type", ("default",), "default")
            if scaling.has("rope_theta"):
                return scaling.positive("rope_theta")
    return fields.positive("rope_theta")


def _blt_arguments(fields: Fields) -> dict[str, Any]:
    """Returns the arguments of `ByteLatentTransformer`, without those of its patches."""
    encoder, decoder, large = (
        fields.section(f"{part}_config") for part in ("encoder", "decoder", "global")
    )
    local_dim = encoder.integer("hidden_size")
    if decoder.integer("hidden_size") != local_dim:
        raise decoder.error(
            "hidden_size", f"differs from encoder_config.hidden_size, {local_dim}; ours are equal."
        )
    window = _window(fields, encoder)
    of_encoder, of_decoder = (_local_arguments(part, window) for part in (encoder, decoder))
    return {
        "vocab_size": fields.integer("vocab_size"),
        "local_dim": local_dim,
        "num_encoder_layers": encoder.integer("num_hidden_layers"),
        "num_decoder_layers": decoder.integer("num_hidden_layers"),
        **{f"local_{name}": config for name, config in of_encoder.items()},
        **{
            f"decoder_{name}": unless_equal(config, of_encoder[name])
            for name, config in of_decoder.items()
        },
        **_global_arguments(large),
        **_cross_attention_arguments(fields, encoder, decoder),
        "pooling": "max",
        "ngram_sizes": fields.integers("encoder_hash_byte_group_size"),
        "ngram_table_size": fields.integer("encoder_hash_byte_group_vocab"),
        "num_hash_functions": fields.integer("encoder_hash_byte_group_nb_functions"),
        "max_sequence_length": encoder.integer("max_position_embeddings"),
        "max_patches": large.integer("max_position_embeddings"),
    }


def _window(fields: Fields, encoder: Fields) -> int:
    """Returns the window of local attention, which stands in two places."""
    own = encoder.integer("sliding_window", encoder.integer("max_position_embeddings"))
    window = fields.integer("local_attention_window_len", own)
    if encoder.integer("sliding_window", window) != window:
        raise encoder.error("sliding_window", f"differs from local_attention_window_len, {window}.")
    return window


def _local_arguments(fields: Fields, window: int) -> dict[str, Any]:
    """Returns `attention_config`, `ffn_config` and `norm_type` of the local encoder or decoder."""
    attention = {
        "type": "sliding_window",
        **_heads(fields, fields.integer("hidden_size")),
        "window": window,
        "rope_theta": _rope_theta(fields),
    }
    return {
        "attention_config": attention,
        "ffn_config": {"type": "swiglu", "hidden_dim": _hidden_dim(fields)},
        "norm_type": _norm(fields),
    }


def _global_arguments(fields: Fields) -> dict[str, Any]:
    dim = fields.integer("hidden_size")
    return {
        "global_dim": dim,
        "num_global_layers": fields.integer("num_hidden_layers"),
        "global_attention_config": {
            "type": "group_query",
            **_heads(fields, dim),
            "rope_theta": _rope_theta(fields),
        },
        "global_ffn_config": {"type": "swiglu", "hidden_dim": _hidden_dim(fields)},
        "global_norm_type": _norm(fields),
    }


def _cross_attention_arguments(fields: Fields, encoder: Fields, decoder: Fields) -> dict[str, Any]:
    num_slices = fields.integer("cross_attn_k")
    for part in (encoder, decoder):
        if part.integer("cross_attn_k", num_slices) != num_slices:
            raise part.error("cross_attn_k", f"differs from that of the whole, {num_slices}.")
    in_all_encoder_layers = encoder.flag("cross_attn_all_layers")
    in_all_decoder_layers = decoder.flag("cross_attn_all_layers")
    return {
        "cross_attention_config": {
            "num_heads": encoder.integer("num_attention_heads"),
            "decoder_num_heads": decoder.integer("num_attention_heads"),
            "encoder_layers": "all" if in_all_encoder_layers else "last",
            "decoder_layers": "all" if in_all_decoder_layers else "first",
            "encoder_window": 1,
            "decoder_window": 1,
            "residual_scale": 2.0,
        },
        "num_slices": num_slices,
    }
