"""One pre-norm transformer layer, of parts that configs choose."""

from collections.abc import Mapping
from typing import Any

import keras

from blt.layers.attention import create_attention_layer
from blt.layers.feed_forward import create_ffn_from_config
from blt.layers.moe import MixtureOfExperts
from blt.layers.normalization import DEFAULT_NORMALIZATION, create_normalization_layer
from blt.layers.registry import check_keys

_MOE_KEYS = ("num_experts", "expert_config", "gating_config")


@keras.saving.register_keras_serializable(package="blt")
class TransformerLayer(keras.layers.Layer):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

    Args:
      attention_config: see `create_attention_layer`.
      ffn_config: see `create_ffn_from_config`.
      normalization_type: see `create_normalization_layer`.
      moe_config: `num_experts`, `expert_config`, `gating_config` of a `MixtureOfExperts` in place
        of the feed-forward network; None for none.

    Call:
      x: [batch, num_tokens, dim].
      block_mask, past: as `CausalAttention` takes them; without a block_mask, each row is one
        sequence.
      is_token: [batch, num_tokens] bool, the places that count in a mixture's balance loss.

    Returns:
      The shape of x; with `past`, also what the next row takes for it.
    """

    def __init__(
        self,
        attention_config: str | Mapping[str, Any],
        *,
        ffn_config: str | Mapping[str, Any] = "swiglu",
        normalization_type: str | Mapping[str, Any] = DEFAULT_NORMALIZATION,
        moe_config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.attention_config = attention_config
        self.ffn_config = ffn_config
        self.normalization_type = normalization_type
        self.moe_config = moe_config
        policy = self.dtype_policy
        self.attention = create_attention_layer(attention_config, name="attention", dtype=policy)
        if moe_config is None:
            self.feed_forward = create_ffn_from_config(
                ffn_config, name="feed_forward", dtype=policy
            )
        else:
            check_keys("moe_config", moe_config, _MOE_KEYS)
            experts = {"ffn_config": ffn_config, **(moe_config.get("expert_config") or {})}
            self.feed_forward = MixtureOfExperts(
                **{**moe_config, "expert_config": experts}, name="experts", dtype=policy
            )
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

    def call(self, x: Any, block_mask: Any = None, past: Any = None, is_token: Any = None) -> Any:
        attended = self.attention(self.attention_norm(x), block_mask=block_mask, past=past)
        if past is not None:
            attended, past = attended
        x = x + attended
        normed = self.feed_forward_norm(x)
        if self.moe_config is None:
            x = x + self.feed_forward(normed)
        else:
            x = x + self.feed_forward(normed, is_token=is_token)
        return x if past is None else (x, past)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "attention_config": self.attention_config,
            "ffn_config": self.ffn_config,
            "normalization_type": self.normalization_type,
            "moe_config": self.moe_config,
        }


def create_transformer_layers(
    num_layers: int, *, dtype: Any, **config: Any
) -> list[TransformerLayer]:
    """Returns `num_layers` equal layers, named `layer_0` and so on, for a stack."""
    return [TransformerLayer(**config, name=f"layer_{i}", dtype=dtype) for i in range(num_layers)]
