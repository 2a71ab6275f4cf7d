"""Normalisation layers, by name."""

from typing import Any

import keras

from blt.errors import UserError, near_names

EPSILON = 1e-5

# "zero_centered_rms_norm" removes the mean, divides by the root mean square of what is left, and
# scales by γ starting at 1. That is Keras's LayerNormalization without its offset, to the letter.
_BUILDERS = {
    "zero_centered_rms_norm": lambda **kw: keras.layers.LayerNormalization(center=False, **kw),
    "rms_norm": lambda **kw: keras.layers.RMSNormalization(**kw),
    "layer_norm": lambda **kw: keras.layers.LayerNormalization(**kw),
}


def create_normalization_layer(
    normalization_type: str = "zero_centered_rms_norm", *, epsilon: float = EPSILON, **kwargs: Any
) -> keras.layers.Layer:
    """Makes the normalisation layer of that name, over the last axis.

    All of them compute in float32 under every precision policy (Keras casts inside).

    Raises:
      UserError: there is no such normalisation.
    """
    if normalization_type not in _BUILDERS:
        raise UserError(
            f"normalization_type {normalization_type!r}: not one of {sorted(_BUILDERS)}."
            + near_names(normalization_type, _BUILDERS)
        )
    return _BUILDERS[normalization_type](epsilon=epsilon, **kwargs)
