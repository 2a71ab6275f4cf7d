"""The feed-forward networks of a transformer layer, by name; none has biases."""

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers.registry import Builder, Registry, split_type

DEFAULT_FFN = "swiglu"
DEFAULT_EXPANSION = 8 / 3  # with it a gated network is as large as a common one of 4
_MULTIPLE = 64

_registry = Registry("ffn_type")


def register_ffn(name: str, builder: Builder | None = None) -> Any:
    """Adds a feed-forward network; works as a decorator.

    It is a class or function that takes `hidden_dim`, `expansion` and `output_dim`, and makes a
    layer [..., dim] -> [..., output_dim or dim].
    """
    return _registry.register(name, builder)


def create_ffn_from_config(
    config: str | Mapping[str, Any] = DEFAULT_FFN, **kwargs: Any
) -> keras.layers.Layer:
    """Makes a feed-forward network.

    Args:
      config: `type` (`swiglu`, `geglu`, `mlp`, or a name that was registered) and arguments:
        `hidden_dim`, or `expansion` in units of the input's width; `output_dim`, None for the
        input's width. A string is a type alone.
      **kwargs: more arguments of the layer.

    Raises:
      ConfigError: there is no such network, or it does not take an argument.
    """
    kind, arguments = split_type(config, DEFAULT_FFN)
    return _registry.create(kind, {**arguments, **kwargs})


def ffn_hidden_dim(dim: int, expansion: float) -> int:
    """Returns `dim * expansion`, rounded up to a multiple of 64."""
    return math.ceil(round(dim * expansion / _MULTIPLE, 6)) * _MULTIPLE


class _FeedForward(keras.layers.Layer):
    """What all of them share: sizes, and the matrix that leads back.

    Args:
      hidden_dim: width inside; None for `expansion` times the input's, rounded up to 64.
      output_dim: width of the result; None for the input's.
    """

    def __init__(
        self,
        hidden_dim: int | None = None,
        *,
        expansion: float = DEFAULT_EXPANSION,
        output_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("hidden_dim", hidden_dim), ("output_dim", output_dim)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        self.hidden_dim = hidden_dim
        self.expansion = expansion
        self.output_dim = output_dim

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dim = input_shape[-1]
        hidden = self.hidden_dim or ffn_hidden_dim(dim, self.expansion)
        self._build_up(input_shape, hidden)
        self.down = self._dense("down", self.output_dim or dim)
        self.down.build((*input_shape[:-1], hidden))

    def _dense(self, name: str, width: int) -> keras.layers.Dense:
        return keras.layers.Dense(width, use_bias=False, name=name, dtype=self.dtype_policy)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.output_dim or input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "expansion": self.expansion,
            "output_dim": self.output_dim,
        }


class _GatedFeedForward(_FeedForward):
    """`W_down (f(W_gate x) * (W_up x))` (Shazeer 2020, arXiv 2002.05202).

    Gate and up are one matrix, [gate | up], so that one product makes both.
    """

    def _build_up(self, input_shape: tuple[int | None, ...], hidden: int) -> None:
        self.gate_up = self._dense("gate_up", 2 * hidden)
        self.gate_up.build(input_shape)

    def call(self, x: Any) -> Any:
        gate, up = ops.split(self.gate_up(x), 2, axis=-1)
        return self.down(self._activation(gate) * up)


@keras.saving.register_keras_serializable(package="blt")
class SwiGLU(_GatedFeedForward):
    """`W_down (silu(W_gate x) * (W_up x))`. Call: x [..., dim] -> [..., output_dim or dim]."""

    def _activation(self, x: Any) -> Any:
        return ops.silu(x)


@keras.saving.register_keras_serializable(package="blt")
class GEGLU(_GatedFeedForward):
    """`W_down (gelu(W_gate x) * (W_up x))`. Call: x [..., dim] -> [..., output_dim or dim]."""

    def _activation(self, x: Any) -> Any:
        return ops.gelu(x, approximate=False)


@keras.saving.register_keras_serializable(package="blt")
class MLP(_FeedForward):
    """`W_down gelu(W_up x)`. Call: x [..., dim] -> [..., output_dim or dim]."""

    def __init__(
        self,
        hidden_dim: int | None = None,
        *,
        expansion: float = 4.0,
        output_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_dim, expansion=expansion, output_dim=output_dim, **kwargs)

    def _build_up(self, input_shape: tuple[int | None, ...], hidden: int) -> None:
        self.up = self._dense("up", hidden)
        self.up.build(input_shape)

    def call(self, x: Any) -> Any:
        return self.down(ops.gelu(self.up(x), approximate=False))


register_ffn("swiglu", SwiGLU)
register_ffn("geglu", GEGLU)
register_ffn("mlp", MLP)
