"""Our models as checkpoints of Hugging Face's `transformers`.

Its layout holds what the published models are: RMSNorm, SwiGLU, rotary positions, cross-attention
with a doubled residual, an entropy model inside. Any other option is refused by its name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from blt.conversion.checkpoint import write_checkpoint
from blt.conversion.names import (
    HUGGING_FACE,
    bind_blt,
    bind_entropy_model,
    has_decoder_projection,
    has_global_projection,
    patch_width,
)
from blt.conversion.weights import export_weights
from blt.dataset.storage import Place
from blt.errors import UserError
from blt.layers.attention import CausalAttention
from blt.layers.feed_forward import SwiGLU
from blt.model import ByteLatentTransformer, EntropyModel

_PATCHER_POSITIONS = 8192  # as in the published checkpoint; the entropy model itself has no limit
_INITIALIZER_RANGE = 0.02


class _Refusal:
    """Makes errors about options that the layout does not hold.

    Args:
      source: the file that the model is from.
    """

    def __init__(self, source: Place) -> None:
        self._source = source

    def require(self, option: str, value: Any, allowed: Any) -> None:
        """Raises UserError unless an option has the only value that the layout holds."""
        if value != allowed:
            raise UserError(
                f"{self._source}: {option} is {value!r}, but Hugging Face's layout only holds "
                f"models in which it is {allowed!r}. Train the model with that."
            )


def write_hugging_face(model: keras.Model, folder: Place, *, source: Place) -> list[str]:
    """Writes config.json and model.safetensors.

    Args:
      model: a `ByteLatentTransformer` with its entropy model, or an `EntropyModel`.
      folder: is made if it is not there.
      source: the file that the model is from, for messages.

    Returns:
      What the user should know, in sentences.

    Raises:
      UserError: the layout does not hold the model; names the option.
    """
    refusal = _Refusal(source)
    for part in (model, getattr(model, "entropy_model", None)):
        if part is not None and part.quantized_mode is not None:
            raise UserError(
                f"{source}: is quantized ({part.quantized_mode}), which Hugging Face's layout "
                "does not hold. Convert the model as it was before."
            )
    if isinstance(model, EntropyModel):
        options = _entropy_options(model, refusal)
        weights = export_weights(model, bind_entropy_model(options, HUGGING_FACE))
        config = {"architectures": ["BltPatcher"], "dtype": "float32", **_patcher_config(options)}
        write_checkpoint(folder, config, weights)
        return []
    if model.entropy_model is None:
        raise UserError(
            f"{source}: holds no entropy model, which Hugging Face's layout needs. Make the BLT "
            "with one: blt train --entropy-model, or blt convert --from meta --entropy-model."
        )
    patcher_options = _entropy_options(model.entropy_model, refusal)
    options = _blt_options(model, refusal)
    patcher_bindings = bind_entropy_model(
        patcher_options, HUGGING_FACE, prefix=HUGGING_FACE.patcher
    )
    weights = {
        **export_weights(model, bind_blt(options, HUGGING_FACE)),
        **export_weights(model.entropy_model, patcher_bindings),
    }
    if not has_decoder_projection(options):
        identity = np.eye(options["global_dim"], dtype=np.float32)
        weights[f"{HUGGING_FACE.decoder_projection}.weight"] = identity
    config = _blt_config(options, model, _patcher_config(patcher_options))
    write_checkpoint(folder, config, weights)
    return _notes(model, options)


def _notes(model: ByteLatentTransformer, options: Mapping[str, Any]) -> list[str]:
    notes = []
    if not has_decoder_projection(options):
        notes.append(
            f"The model has no {HUGGING_FACE.decoder_projection}, and Hugging Face's always has "
            "one: it is written as the identity, which changes nothing."
        )
    if has_global_projection(options) and patch_width(options) == options["global_dim"]:
        notes.append(
            f"The model has {HUGGING_FACE.global_projection}, and Hugging Face's has none where "
            "widths are equal: it is written, but will be left out there."
        )
    if model.compat == "hf":
        return notes
    return [
        *notes,
        f"The model's compat is {model.compat!r}, and Hugging Face's model computes as 'hf': it "
        "reads one document in a row, and differs where the row's last token ends a patch.",
    ]


def _entropy_options(model: EntropyModel, refusal: _Refusal) -> dict[str, Any]:
    """Returns what describes an entropy model in full."""
    refusal.require("the entropy model's ngram_sizes", list(model.ngram_sizes), [])
    options = _stack_options(model.transformer_layers, "the entropy model's", refusal)
    return {
        **options["attention"],
        **options["ffn"],
        "vocab_size": model.vocab_size,
        "dim": model.dim,
        "num_layers": model.num_layers,
        "tied_embeddings": model.tied_embeddings,
        "epsilon": options["epsilon"],
    }


def _stack_options(layers: Sequence[Any], whose: str, refusal: _Refusal) -> dict[str, Any]:
    """Returns what describes the layers of a stack: `attention`, `ffn` and `epsilon`."""
    layer = layers[0]
    attention, ffn, norm = layer.attention, layer.feed_forward, layer.attention_norm
    for part, found, allowed in (
        ("attention", attention, CausalAttention),
        ("feed-forward network", ffn, SwiGLU),
        ("norm", norm, keras.layers.RMSNormalization),
    ):
        refusal.require(f"{whose} {part}", type(found).__name__, allowed.__name__)
    output_dim = ffn.down.kernel.shape[1]
    refusal.require(f"{whose} output_dim", output_dim, attention.out.kernel.shape[1])
    return {
        "attention": {
            "num_heads": attention.num_heads,
            "num_kv_heads": attention.num_kv_heads,
            "head_dim": attention.out.kernel.shape[0] // attention.num_heads,
            "window": attention.window,
            "rope_theta": attention.rope_theta,
        },
        "ffn": {"hidden_dim": ffn.down.kernel.shape[0]},
        "epsilon": norm.epsilon,
    }


def _blt_options(model: ByteLatentTransformer, refusal: _Refusal) -> dict[str, Any]:
    """Returns what describes a BLT in full: its options, and those of its stacks."""
    options = model.get_config()
    _check_options(model, options, refusal)
    for part, name in (
        ("local_encoder", "local"),
        ("local_decoder", "decoder"),
        ("global_transformer", "global"),
    ):
        whose = f"the {part.replace('_', ' ')}'s"
        stack = _stack_options(getattr(model, part).transformer_layers, whose, refusal)
        options[f"{name}_attention_config"] = stack["attention"]
        options[f"{name}_ffn_config"] = stack["ffn"]
        options[f"{name}_epsilon"] = stack["epsilon"]
    encoder, decoder = options["local_attention_config"], options["decoder_attention_config"]
    cross = options["cross_attention_config"]
    for whose, attention, name in (
        ("encoder's", encoder, "num_heads"),
        ("decoder's", decoder, "decoder_num_heads"),
    ):
        num_heads = attention["num_heads"]
        for option, allowed in (
            ("num_kv_heads", num_heads),
            ("head_dim", options["local_dim"] // num_heads),
            ("window", encoder["window"]),
        ):
            refusal.require(f"the local {whose} {option}", attention[option], allowed)
        refusal.require(f"cross_attention_config's {name}", cross[name], num_heads)
    refusal.require(
        "the global transformer's window", options["global_attention_config"]["window"], None
    )
    return options


def _check_options(
    model: ByteLatentTransformer, options: Mapping[str, Any], refusal: _Refusal
) -> None:
    """Refuses what the layout has no field for."""
    refusal.require("global_moe_config", options["global_moe_config"], None)
    refusal.require("pooling", options["pooling"], "max")
    if not options["ngram_sizes"]:
        refusal.require("ngram_sizes", options["ngram_sizes"], "one or more sizes")
    cross = options["cross_attention_config"]
    if cross["encoder_layers"] == "none":
        refusal.require("cross_attention_config's encoder_layers", "none", "last or all")
    for name, allowed in (("residual_scale", 2.0), ("encoder_window", 1), ("decoder_window", 1)):
        refusal.require(f"cross_attention_config's {name}", cross[name], allowed)
    if cross["encoder_layers"] == "all" and options["num_encoder_layers"] > 1:
        refusal.require("compat (with encoder_layers 'all')", model.compat, "hf")
    refusal.require("the patch rule", model.patch_rule.rule, "entropy")
    refusal.require("the patch rule's reset_on_newline", model.patch_rule.reset_on_newline, False)
    refusal.require("the patch rule's snap_utf8", model.patch_rule.snap_utf8, False)


def _patcher_config(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_stack_config(options, options, options["epsilon"]),
        "model_type": "blt_patcher",
        "vocab_size": options["vocab_size"],
        "hidden_size": options["dim"],
        "num_hidden_layers": options["num_layers"],
        "max_position_embeddings": max(_PATCHER_POSITIONS, options["window"]),
        "sliding_window": options["window"],
        "tie_word_embeddings": options["tied_embeddings"] is not None,
    }


def _stack_config(
    attention: Mapping[str, Any], ffn: Mapping[str, Any], epsilon: float
) -> dict[str, Any]:
    """Returns the fields that all four stacks have."""
    return {
        "dropout": 0.0,
        "head_dim": attention["head_dim"],
        "hidden_act": "silu",
        "initializer_range": _INITIALIZER_RANGE,
        "intermediate_size": ffn["hidden_dim"],
        "num_attention_heads": attention["num_heads"],
        "num_key_value_heads": attention["num_kv_heads"],
        "rms_norm_eps": epsilon,
        "rope_parameters": _rope_parameters(attention),
        "tie_word_embeddings": False,
    }


def _rope_parameters(attention: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_theta": attention["rope_theta"], "rope_type": "default"}


def _blt_config(
    options: Mapping[str, Any], model: ByteLatentTransformer, patcher_config: Mapping[str, Any]
) -> dict[str, Any]:
    window = options["local_attention_config"]["window"]
    return {
        "architectures": ["BltForCausalLM"],
        "cross_attn_k": options["num_slices"],
        "decoder_config": {
            **_local_config(options, "decoder", "decoder", "first"),
            "model_type": "blt_local_decoder",
        },
        "dtype": "float32",
        "encoder_config": {
            **_local_config(options, "local", "encoder", "last"),
            "model_type": "blt_local_encoder",
            "sliding_window": window,
        },
        "encoder_hash_byte_group_nb_functions": options["num_hash_functions"],
        "encoder_hash_byte_group_size": options["ngram_sizes"],
        "encoder_hash_byte_group_vocab": options["ngram_table_size"],
        "global_config": _global_config(options),
        "initializer_range": _INITIALIZER_RANGE,
        "local_attention_window_len": window,
        "max_patch_length": model.patch_rule.max_patch_length,
        "max_position_embeddings": options["max_sequence_length"],
        "model_type": "blt",
        "patch_in_forward": True,
        "patcher_config": patcher_config,
        "patching_mode": "entropy",
        "patching_threshold": model.patch_rule.threshold_nats,
        "rope_parameters": _rope_parameters(options["local_attention_config"]),
        "tie_word_embeddings": options.get("tied_embeddings") is not None,
        "vocab_size": options["vocab_size"],
    }


def _local_config(
    options: Mapping[str, Any], name: str, part: str, single_layer: str
) -> dict[str, Any]:
    """Returns what the local encoder's and decoder's sections have in common."""
    layers = options["cross_attention_config"][f"{part}_layers"]
    return {
        **_stack_config(
            options[f"{name}_attention_config"],
            options[f"{name}_ffn_config"],
            options[f"{name}_epsilon"],
        ),
        "cross_attn_all_layers": layers != single_layer,
        "cross_attn_k": options["num_slices"],
        "hidden_size": options["local_dim"],
        "hidden_size_global": options["global_dim"],
        "max_position_embeddings": options["max_sequence_length"],
        "num_hidden_layers": options[f"num_{part}_layers"],
        "vocab_size": options["vocab_size"],
    }


def _global_config(options: Mapping[str, Any]) -> dict[str, Any]:
    width = patch_width(options)
    return {
        **_stack_config(
            options["global_attention_config"],
            options["global_ffn_config"],
            options["global_epsilon"],
        ),
        "encoder_cross_output_size": width if has_global_projection(options) else None,
        "hidden_size": options["global_dim"],
        "max_position_embeddings": options["max_patches"],
        "model_type": "blt_global_transformer",
        "num_hidden_layers": options["num_global_layers"],
    }
