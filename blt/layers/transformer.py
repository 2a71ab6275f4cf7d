"""One pre-norm transformer layer."""

from typing import Any

import keras

from blt.layers.attention import CausalAttention
from blt.layers.feed_forward import SwiGLU
from blt.layers.normalization import create_normalization_layer


@keras.saving.register_keras_serializable(package="blt")
class TransformerLayer(keras.layers.Layer):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

    Call: as `CausalAttention`: x [batch, num_tokens, dim], mask, past; returns the same kinds.
    """

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        *,
        num_kv_heads: int | None = None,
        rope_theta: float = 10_000.0,
        normalization_type: str = "zero_centered_rms_norm",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.num_kv_heads = num_kv_heads
        self.rope_theta = rope_theta
        self.normalization_type = normalization_type
        policy = self.dtype_policy
        self.attention = CausalAttention(
            num_heads,
            num_kv_heads=num_kv_heads,
            rope_theta=rope_theta,
            name="attention",
            dtype=policy,
        )
        self.feed_forward = SwiGLU(hidden_dim, name="feed_forward", dtype=policy)
        self.attention_norm = create_normalization_layer(
            normalization_type, name="attention_norm", dtype=policy
        )
        self.feed_forward_norm = create_normalization_layer(
            normalization_type, name="feed_forward_norm", dtype=policy
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.attention_norm.build(input_shape)
        self.attention.build(input_shape)
        self.feed_forward_norm.build(input_shape)
        self.feed_forward.build(input_shape)

    def call(self, x: Any, mask: Any, past: tuple[Any, Any] | None = None) -> Any:
        attended = self.attention(self.attention_norm(x), mask, past=past)
        if past is not None:
            attended, past = attended
        x = x + attended
        x = x + self.feed_forward(self.feed_forward_norm(x))
        return x if past is None else (x, past)

    def compute_output_shape(self, input_shape: Any, *_: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "num_kv_heads": self.num_kv_heads,
            "rope_theta": self.rope_theta,
            "normalization_type": self.normalization_type,
        }
