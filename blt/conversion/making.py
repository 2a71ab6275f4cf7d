"""Our models, made of configs and weights that were checked against each other."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from blt.conversion.checkpoint import Checkpoint, quote
from blt.conversion.fields import Fields
from blt.conversion.names import (
    Names,
    has_decoder_projection,
    has_global_projection,
    patch_width,
)
from blt.conversion.weights import Binding, check_weights, load_weights
from blt.errors import ConfigError, UserError
from blt.model import ByteLatentTransformer, EntropyModel
from blt.patching.rules import PatchRule

# What `PatchRule` has for those of the reference implementations, but for "entropy".
_RULES = ("static", "space", "byte")
_FIELDS_SHOWN = 100


def make_entropy_model(
    checkpoint: Checkpoint, options: Mapping[str, Any], bindings: Sequence[Binding]
) -> EntropyModel:
    """Makes an entropy model of a checkpoint whose weights are known to fit."""
    model = _make(EntropyModel, checkpoint, options)
    load_weights(model, bindings, checkpoint)
    return model


def make_blt(
    checkpoint: Checkpoint, options: Mapping[str, Any], bindings: Sequence[Binding]
) -> ByteLatentTransformer:
    """Makes a BLT of a checkpoint whose weights are known to fit."""
    model = _make(ByteLatentTransformer, checkpoint, options)
    load_weights(model, bindings, checkpoint)
    return model


def _make(
    model_class: type[keras.Model], checkpoint: Checkpoint, options: Mapping[str, Any]
) -> keras.Model:
    try:
        return model_class(**options)
    except ConfigError as error:
        raise UserError(f"{checkpoint.config_path}: {error}") from error


def fit_weights(checkpoint: Checkpoint, bindings: Sequence[Binding]) -> list[str]:
    """Checks a checkpoint's weights, before a model is made of its config's sizes.

    Returns:
      What the user should know, in sentences.

    Raises:
      UserError: as `check_weights` does.
    """
    never_used = check_weights(checkpoint, bindings)
    if not never_used:
        return []
    return [f"Left out, since nothing uses them: {', '.join(never_used)}."]


def find_projections(
    checkpoint: Checkpoint, options: Mapping[str, Any], names: Names
) -> dict[str, bool]:
    """Returns `global_projection` and `decoder_projection` of a BLT, by what its file holds.

    Widths alone do not say it: Hugging Face's layout has the decoder's whatever they are. What has
    to be there, since widths differ, is wanted also where it is missing, so that it is named. A
    projection that our model has or lacks anyway is left out of the result.
    """
    found = {}
    differs = patch_width(options) != options["global_dim"]
    for option, usual, name, is_needed in (
        ("global_projection", has_global_projection(options), names.global_projection, differs),
        (
            "decoder_projection",
            has_decoder_projection(options),
            names.decoder_projection,
            differs or options["global_dim"] != options["local_dim"],
        ),
    ):
        has_it = is_needed or f"{name}.weight" in checkpoint.weights
        if has_it != usual:
            found[option] = has_it
    return found


def notes_on_fields(
    fields: Fields, no_matter: Iterable[str], usual: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Returns a sentence that names the fields that were not looked at; see `Fields`."""
    names = [quote(name)[1:-1] for name in fields.never_asked(frozenset(no_matter), usual)]
    if not names:
        return []
    more = f" and {len(names) - _FIELDS_SHOWN} more" if len(names) > _FIELDS_SHOWN else ""
    return [
        "Warning: fields of the config that conversion does not know, or does not honour: "
        f"{', '.join(names[:_FIELDS_SHOWN])}{more}. If they change what the model computes, ours "
        "computes something else."
    ]


def rms_norm(epsilon: float) -> dict[str, Any]:
    """Returns the config of the norm that both families have."""
    return {"type": "rms_norm", "epsilon": epsilon}


def unless_equal(config: Mapping[str, Any], usual: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns a config of the decoder, or None where it is that of the encoder."""
    return None if config == usual else config


def read_patch_rule(
    fields: Fields, *, compat: str | None, threshold_nats: float | None = None
) -> PatchRule:
    """Returns the rule that a config asks for.

    Args:
      fields: `patching_mode`, `patching_threshold`, `patching_threshold_add`, `monotonicity`,
        `patch_size` and `max_patch_length`, as far as they are there.
      compat: of the rule.
      threshold_nats: stands before the config's.

    Raises:
      UserError: it is a rule that we do not have, or a number is missing or out of range.
    """
    rule = fields.only("patching_mode", ("entropy", *_RULES), "entropy")
    options: dict[str, Any] = {"max_patch_length": fields.integer("max_patch_length", None)}
    if rule == "static":
        options["patch_size"] = fields.integer("patch_size")
    if rule == "entropy":
        options["threshold_nats"] = fields.number("patching_threshold", None)
        if fields.flag("monotonicity", False):
            rule = "monotonic"
        elif fields.has("patching_threshold_add"):
            rule = "combined"
            options["threshold_add_nats"] = fields.number("patching_threshold_add")
    if threshold_nats is not None:
        options["threshold_nats"] = threshold_nats
    try:
        return PatchRule(rule=rule, compat=compat, **options)
    except UserError as error:
        raise fields.error("patching_mode", f"{rule!r} cannot be had so: {error}") from error
