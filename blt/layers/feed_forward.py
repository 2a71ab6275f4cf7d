"""The gated feed-forward network of a transformer layer."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="blt")
class SwiGLU(keras.layers.Layer):
    """`W_down (silu(W_gate x) * (W_up x))`, without biases (Shazeer 2020, arXiv 2002.05202).

    Gate and up are one matrix, [gate | up], so that one product makes both.

    Call: x [..., dim] -> [..., dim].
    """

    def __init__(self, hidden_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.gate_up = keras.layers.Dense(
            2 * hidden_dim, use_bias=False, name="gate_up", dtype=self.dtype_policy
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dim = input_shape[-1]
        self.down = keras.layers.Dense(dim, use_bias=False, name="down", dtype=self.dtype_policy)
        self.gate_up.build(input_shape)
        self.down.build((*input_shape[:-1], self.hidden_dim))

    def call(self, x: Any) -> Any:
        gate, up = ops.split(self.gate_up(x), 2, axis=-1)
        return self.down(ops.silu(gate) * up)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden_dim": self.hidden_dim}
