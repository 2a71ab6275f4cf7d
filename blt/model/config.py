"""Models from plain dicts, as they stand in YAML files and notebooks."""

from collections.abc import Mapping
from typing import Any

from blt.errors import ConfigError, near_names
from blt.layers.registry import argument_names, check_keys
from blt.model.blt import ByteLatentTransformer
from blt.model.presets import BLT_PRESETS, VARIANTS

# What the parts' arguments are called there, and where they go.
_ATTENTION_KEYS = ("num_heads", "num_kv_heads", "head_dim", "window", "rope_theta")
_FFN_KEYS = ("hidden_dim", "expansion", "output_dim")
_PARTS = {"global_transformer_args": "global", "local_transformer_args": "local"}


def create_blt_from_config(config: Mapping[str, Any]) -> ByteLatentTransformer:
    """Makes an untrained BLT from a dict.

    Args:
      config: any argument of `ByteLatentTransformer`; `variant` ("micro", "small", "base",
        "large", or "tiny"), whose sizes stand where the config says nothing; and
        `global_transformer_args` and `local_transformer_args`, dicts of `attention_type`,
        `num_heads`, `num_kv_heads`, `head_dim`, `window`, `rope_theta`, `normalization_type`,
        `ffn_type`, `hidden_dim`, `expansion`, `dim`, and (global) `num_layers` and `moe_config`.

    Raises:
      ConfigError: a key or a value is unknown; the near ones are listed.

    >>> model = create_blt_from_config({"variant": "micro", "max_sequence_length": 256})
    >>> model.count_params() // 1_000_000
    15
    """
    config = dict(config)
    known = [*argument_names(ByteLatentTransformer), "name", "dtype", "variant", *_PARTS]
    check_keys("the model's config", config, known)
    variant = config.pop("variant", None)
    if variant is not None and variant not in BLT_PRESETS:
        raise ConfigError(
            f"variant {variant!r}: not one of {', '.join(VARIANTS)}."
            + near_names(str(variant), BLT_PRESETS)
        )
    arguments = dict(BLT_PRESETS[variant]) if variant is not None else {}
    parts = {name: config.pop(name, None) or {} for name in _PARTS}
    for name, part in parts.items():
        given = _part_arguments(name, part, arguments)
        for twice in given.keys() & config.keys():
            raise ConfigError(f"{twice!r} is given twice: by its name, and in {name!r}.")
        arguments.update(given)
    return ByteLatentTransformer(**{**arguments, **config})


def _part_arguments(
    name: str, part: Mapping[str, Any], variant: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the model's arguments that `…_transformer_args` stand for."""
    prefix = _PARTS[name]
    known = ["attention_type", "normalization_type", "ffn_type", "dim"]
    known += [*_ATTENTION_KEYS, *_FFN_KEYS]
    if prefix == "global":
        known += ["num_layers", "moe_config"]
    check_keys(f"{name!r}", part, known)
    result = {}
    for key, target in (
        ("dim", f"{prefix}_dim"),
        ("num_layers", "num_global_layers"),
        ("normalization_type", f"{prefix}_norm_type"),
        ("moe_config", "global_moe_config"),
    ):
        if key in part:
            result[target] = part[key]
    for kind, keys, target in (
        ("attention_type", _ATTENTION_KEYS, f"{prefix}_attention_config"),
        ("ffn_type", _FFN_KEYS, f"{prefix}_ffn_config"),
    ):
        given = {key: part[key] for key in keys if key in part}
        if kind in part:
            given["type"] = part[kind]
        if given:
            result[target] = {**variant.get(target, {}), **given}
    return result
