"""Normalisation layers over the last axis, by name. All compute in float32 under every policy."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers.registry import Builder, Registry, split_type

EPSILON = 1e-5
DEFAULT_NORMALIZATION = "zero_centered_rms_norm"

_registry = Registry("normalization_type")


def register_normalization_layer(name: str, builder: Builder | None = None) -> Any:
    """Adds a normalisation: a class or function that takes `epsilon`; works as a decorator."""
    return _registry.register(name, builder)


def create_normalization_layer(
    normalization_type: str | Mapping[str, Any] = DEFAULT_NORMALIZATION, **kwargs: Any
) -> keras.layers.Layer:
    """Makes a normalisation layer.

    Args:
      normalization_type: `rms_norm` (with `unit_offset=True` its scale is 1 + w),
        `zero_centered_rms_norm`, `adaptive_band_rms`, `layer_norm`, or a name that was registered;
        or a dict of `type` and arguments.
      **kwargs: arguments of the layer.

    Raises:
      ConfigError: there is no such normalisation, or it does not take an argument.
    """
    kind, arguments = split_type(normalization_type, DEFAULT_NORMALIZATION)
    return _registry.create(kind, {"epsilon": EPSILON, **arguments, **kwargs})


def _float32_norm(x: Any, epsilon: float) -> tuple[Any, Any]:
    """Returns x in float32 and the reciprocal of its root mean square, [..., 1]."""
    x = ops.cast(x, "float32")
    return x, ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + epsilon)


@keras.saving.register_keras_serializable(package="blt")
class UnitOffsetRMSNorm(keras.layers.Layer):
    """`x / rms(x) * (1 + scale)`, with the scale starting at 0, so that decay pulls towards 1.

    Call: x [..., dim] -> [..., dim].
    """

    def __init__(self, *, epsilon: float = EPSILON, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.scale = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="scale")

    def call(self, x: Any) -> Any:
        x, reciprocal = _float32_norm(x, self.epsilon)
        return ops.cast(
            x * reciprocal * (1.0 + ops.cast(self.scale, "float32")), self.compute_dtype
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="blt")
class AdaptiveBandRMSNorm(keras.layers.Layer):
    """RMSNorm that leaves each vector a learned length, in a band that ends at 1.

    `x / rms(x) * s`, where `s = 1 - a + a * sigmoid(w * ln rms(x) + b)` lies in [1 - a, 1] and `a`
    is `max_band_width`. w and b are one number each, and start at 0.

    Call: x [..., dim] -> [..., dim].
    """

    def __init__(
        self, *, max_band_width: float = 0.1, epsilon: float = EPSILON, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= max_band_width < 1:
            raise ConfigError(f"max_band_width must be in [0, 1), got {max_band_width}.")
        self.max_band_width = max_band_width
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.band_scale = self.add_weight(shape=(1,), initializer="zeros", name="band_scale")
        self.band_bias = self.add_weight(shape=(1,), initializer="zeros", name="band_bias")

    def call(self, x: Any) -> Any:
        x, reciprocal = _float32_norm(x, self.epsilon)
        scale, bias = (ops.cast(w, "float32") for w in (self.band_scale, self.band_bias))
        place = ops.sigmoid(bias - scale * ops.log(reciprocal))  # ln rms = -ln (1 / rms)
        length = 1.0 - self.max_band_width + self.max_band_width * place
        return ops.cast(x * reciprocal * length, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "max_band_width": self.max_band_width,
            "epsilon": self.epsilon,
        }


@register_normalization_layer("rms_norm")
def _rms_norm(*, epsilon: float, unit_offset: bool = False, **kwargs: Any) -> keras.layers.Layer:
    if unit_offset:
        return UnitOffsetRMSNorm(epsilon=epsilon, **kwargs)
    return keras.layers.RMSNormalization(epsilon=epsilon, **kwargs)


@register_normalization_layer("zero_centered_rms_norm")
def _zero_centered_rms_norm(*, epsilon: float, **kwargs: Any) -> keras.layers.Layer:
    # It removes the mean, divides by the root mean square of what is left, and scales by gamma,
    # starting at 1: Keras's LayerNormalization without its offset, to the letter.
    return keras.layers.LayerNormalization(center=False, epsilon=epsilon, **kwargs)


@register_normalization_layer("layer_norm")
def _layer_norm(*, epsilon: float, **kwargs: Any) -> keras.layers.Layer:
    return keras.layers.LayerNormalization(epsilon=epsilon, **kwargs)


register_normalization_layer("adaptive_band_rms", AdaptiveBandRMSNorm)
