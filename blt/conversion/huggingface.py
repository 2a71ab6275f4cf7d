"""Checkpoints of Hugging Face's `transformers`: `BltForCausalLM`, and its entropy model alone.

A `BltForCausalLM` (`model_type` "blt") holds its entropy model, which it calls patcher; alone, that
is a "blt_patcher".
"""

from collections.abc import Mapping
from typing import Any

import keras

from blt.conversion.checkpoint import Checkpoint, quote
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
from blt.conversion.names import (
    HUGGING_FACE,
    bind_blt,
    bind_entropy_model,
    has_decoder_projection,
    has_global_projection,
    patch_width,
)
from blt.conversion.weights import same_weights
from blt.model.serialization import fingerprint

_BLT = "blt"
_PATCHER = "blt_patcher"
_WRAPPERS = ("config",)
_EMBEDDING = f"{HUGGING_FACE.embedding}.weight"
_OUTPUT = f"{HUGGING_FACE.output}.weight"
_NORM = "norm.weight"  # at this place a patcher alone has one, and a BLT has none
# Fields that change nothing of what a model computes: of training, of generation, of files.
_NO_MATTER = frozenset(
    (
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "max_position_embeddings",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "patch_in_forward",
        "patch_size",
        "patching_batch_size",
        "patching_device",
        "problem_type",
        "realtime_patching",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)
# Values with which a field says nothing that our models do not do.
_USUAL = {
    "attention_bias": (False,),
    "attention_dropout": (0,),
    "dropout": (0,),
    "mlp_bias": (False,),
    "tie_word_embeddings": (False,),
}
_ROPE_SECTIONS = ("rope_parameters", "rope_scaling")


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
    kind = fields.get("model_type", _PATCHER if _NORM in checkpoint.weights else _BLT)
    if kind == _PATCHER:
        arguments = _entropy_arguments(fields)
        arguments |= _find_tie(checkpoint, fields, _EMBEDDING, _OUTPUT)
        bindings = bind_entropy_model(arguments, HUGGING_FACE)
        notes = fit_weights(checkpoint, bindings)
        model = make_entropy_model(checkpoint, arguments, bindings)
        return model, notes + notes_on_fields(fields, _NO_MATTER, _USUAL)
    if kind == _BLT:
        model, notes = _read_blt(checkpoint, fields, compat)
        no_matter = _NO_MATTER if model.entropy_model else _NO_MATTER | {"patcher_config"}
        return model, notes + notes_on_fields(fields, no_matter, _USUAL)
    raise fields.error("model_type", f"is {quote(kind)}, not {_BLT!r} or {_PATCHER!r}.")


def _read_blt(
    checkpoint: Checkpoint, fields: Fields, compat: str | None
) -> tuple[keras.Model, list[str]]:
    fields.only("patching_mode", ("entropy",), "entropy")
    _check_rope_sections(fields)
    embedding = f"{HUGGING_FACE.model}local_encoder.{_EMBEDDING}"
    arguments = {
        **_blt_arguments(fields),
        **_find_tie(checkpoint, fields, embedding, _OUTPUT),
        "patch_rule": read_patch_rule(fields, compat=compat and "meta"),
        "compat": compat,
    }
    if compat is None:
        _check_pooling(fields, arguments)
    arguments |= find_projections(checkpoint, arguments, HUGGING_FACE)
    bindings = bind_blt(arguments, HUGGING_FACE)
    patcher_bindings = []
    patcher = HUGGING_FACE.patcher
    has_patcher = any(name.startswith(patcher) for name in checkpoint.weights)
    if has_patcher:
        section = fields.section("patcher_config")
        patcher_arguments = _entropy_arguments(section)
        patcher_arguments |= _find_tie(checkpoint, section, patcher + _EMBEDDING, patcher + _OUTPUT)
        patcher_bindings = bind_entropy_model(patcher_arguments, HUGGING_FACE, prefix=patcher)
    notes = fit_weights(checkpoint, [*bindings, *patcher_bindings])
    notes += _notes_on_projections(arguments)
    _expect_what_follows(fields, arguments)
    entropy_model = None
    if has_patcher:
        entropy_model = make_entropy_model(checkpoint, patcher_arguments, patcher_bindings)
        arguments["entropy_fingerprint"] = fingerprint(entropy_model)
    else:
        notes.append("It holds no patcher, so patches must be given to it.")
    arguments["entropy_model"] = entropy_model
    return make_blt(checkpoint, arguments, bindings), notes


def _find_tie(
    checkpoint: Checkpoint, fields: Fields, embedding: str, output: str
) -> dict[str, str]:
    """Returns `tied_embeddings`, if the logits are to be made by the byte embedding's matrix.

    A checkpoint then holds that under either name, or twice.
    """
    weights = checkpoint.weights
    if not fields.flag("tie_word_embeddings", False):
        return {}
    if embedding in weights and output in weights:
        if not same_weights(weights, embedding, output):
            raise fields.error(
                "tie_word_embeddings",
                f"is true, but {output} is not {embedding}. Set it to false to use the weights as "
                "they are.",
            )
        return {"tied_embeddings": "both"}
    return {"tied_embeddings": "output" if output in weights else "embedding"}


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


def _check_rope_sections(fields: Fields) -> list[Fields]:
    """Returns the sections on rotary positions, which must be the plain ones of a whole head."""
    sections = [fields.section(name) for name in _ROPE_SECTIONS if fields.has(name)]
    for section in sections:
        for kind in ("rope_type", "type"):  # the second is of older configs
            section.only(kind, ("default",), "default")
        section.only("partial_rotary_factor", (1,), 1)
    return sections


def _rope_theta(fields: Fields) -> float:
    """Returns the base of rotary positions; older configs have it as a field of its own.

    Raises:
      UserError: positions are scaled, turn a part of a head alone, or have two bases.
    """
    holders = [fields, *_check_rope_sections(fields)]
    found = [holder.positive("rope_theta") for holder in holders if holder.has("rope_theta")]
    if len(set(found)) > 1:
        both = " and ".join(map(str, found))
        raise fields.error("rope_theta", f"is said more than once: {both}. Leave the right one.")
    return found[0] if found else fields.positive("rope_theta")


def _notes_on_projections(options: Mapping[str, Any]) -> list[str]:
    """Says where a BLT has a projection that Hugging Face's has not, or the reverse."""
    notes = []
    if options.get("global_projection"):
        notes.append(
            f"It has {HUGGING_FACE.global_projection}, though the widths are equal. Ours uses it; "
            "Hugging Face's own model has none there."
        )
    if not has_decoder_projection(options):
        notes.append(
            f"It has no {HUGGING_FACE.decoder_projection}, which Hugging Face's own model always "
            "has. Ours takes patches as they are there."
        )
    return notes


def _expect_what_follows(fields: Fields, arguments: Mapping[str, Any]) -> None:
    """Counts fields that follow from others as looked at, where they say what others do."""
    encoder, decoder, large = (
        fields.section(f"{part}_config") for part in ("encoder", "decoder", "global")
    )
    for part in (encoder, decoder):
        part.expect("hidden_size_global", arguments["global_dim"])
        part.expect("vocab_size", arguments["vocab_size"])
    if has_global_projection(arguments):
        large.expect("encoder_cross_output_size", patch_width(arguments))
    # Nothing uses those of the whole; each part has its own.
    for name in (*_ROPE_SECTIONS, "rope_theta"):
        fields.expect(name, encoder.get(name, None))


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
