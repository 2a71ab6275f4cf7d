"""Learning-rate schedules and optimizers from plain dicts, as configs hold them.

Both are Keras's own; what is added is names, defaults, and errors for misspelt keys.
"""

from collections.abc import Mapping
from typing import Any

import keras

from blt.errors import UserError, near_names

_SCHEDULE_DEFAULTS = {
    "cosine_decay": {
        "learning_rate": None,
        "decay_steps": None,
        "warmup_steps": 0,
        "warmup_start_lr": 0.0,
        "alpha": 0.0,
    },
    "constant": {"learning_rate": None},
}

_OPTIMIZER_DEFAULTS = {
    "adamw": {
        "weight_decay": 0.01,
        "beta_1": 0.9,
        "beta_2": 0.95,
        "epsilon": 1e-8,
        "gradient_clipping_by_norm": None,
    },
    "adam": {
        "beta_1": 0.9,
        "beta_2": 0.95,
        "epsilon": 1e-8,
        "gradient_clipping_by_norm": None,
    },
}

# Scales and offsets of norms, biases, and embedding tables: decay would pull them away from where
# they act, and rows of a table that a batch does not use would shrink without being learned.
NOT_DECAYED = ("gamma", "beta", "scale", "bias", "table", "embeddings")


def _checked(what: str, config: Mapping[str, Any], known: Mapping[str, Mapping]) -> dict[str, Any]:
    """Returns the config's values over the defaults of its type."""
    if "type" not in config:
        raise UserError(f"{what}: 'type' is missing; one of {sorted(known)}.")
    kind = config["type"]
    if kind not in known:
        raise UserError(
            f"{what}: type {kind!r} is not one of {sorted(known)}." + near_names(str(kind), known)
        )
    values = {key: value for key, value in config.items() if key != "type"}
    for key in values:
        if key not in known[kind]:
            raise UserError(
                f"{what}: {key!r} is not a key of {kind!r}; known are {sorted(known[kind])}."
                + near_names(key, known[kind])
            )
    merged = {**known[kind], **values}
    for key in ("learning_rate", "decay_steps"):
        if key in merged and merged[key] is None:
            raise UserError(f"{what}: {key!r} is missing; {kind!r} needs it.")
    return merged


def learning_rate_schedule_builder(
    config: Mapping[str, Any],
) -> keras.optimizers.schedules.LearningRateSchedule | float:
    """Makes a learning-rate schedule.

    Args:
      config: `type` and its keys. `cosine_decay`: `learning_rate` (the peak), `decay_steps` (from
        the peak to the end, after the warm-up), `warmup_steps`, `warmup_start_lr`, `alpha` (the
        part of the peak that is left at the end). `constant`: `learning_rate`.

    Returns:
      A Keras schedule; for `constant`, the number.

    Raises:
      UserError: the type or a key is unknown, or one is missing.
    """
    values = _checked("learning rate schedule", config, _SCHEDULE_DEFAULTS)
    if config["type"] == "constant":
        return float(values["learning_rate"])
    warmup_steps = int(values["warmup_steps"])
    peak = float(values["learning_rate"])
    return keras.optimizers.schedules.CosineDecay(
        float(values["warmup_start_lr"]) if warmup_steps else peak,
        decay_steps=int(values["decay_steps"]),
        alpha=float(values["alpha"]),
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def optimizer_builder(
    config: Mapping[str, Any],
    learning_rate: keras.optimizers.schedules.LearningRateSchedule | float,
) -> keras.optimizers.Optimizer:
    """Makes an optimizer.

    Args:
      config: `type` (`adamw` or `adam`), `beta_1`, `beta_2`, `epsilon`,
        `gradient_clipping_by_norm` (of all gradients together; None for none) and, for `adamw`,
        `weight_decay`, from which norms, biases and embedding tables are spared.
      learning_rate: a number or a schedule.

    Raises:
      UserError: the type or a key is unknown.
    """
    values = _checked("optimizer", config, _OPTIMIZER_DEFAULTS)
    clip = values.pop("gradient_clipping_by_norm")
    if config["type"] == "adam":
        return keras.optimizers.Adam(learning_rate, global_clipnorm=clip, **values)
    optimizer = keras.optimizers.AdamW(learning_rate, global_clipnorm=clip, **values)
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    return optimizer
