"""The global transformer: the large model, which runs once a patch."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from blt.errors import ConfigError
from blt.layers import make_block_mask
from blt.layers.transformer import create_transformer_layers


@keras.saving.register_keras_serializable(package="blt")
class GlobalTransformer(keras.layers.Layer):
    """Causal transformer over the patches of each document; positions are patch numbers.

    Args:
      dim: width.
      num_layers: transformer layers.
      attention_config, ffn_config, normalization_type, moe_config: see `TransformerLayer`.
      has_projection: whether patches are projected to `dim`; None: if they have another width.

    Call:
      patches: [batch, num_patches, any width]; `dim` without a projection.
      patch_segment_ids: [batch, num_patches] int32; documents do not see one another.

    Returns:
      [batch, num_patches, dim].

    Raises:
      ConfigError: when it is built for patches of another width, without a projection.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        attention_config: str | Mapping[str, Any],
        ffn_config: str | Mapping[str, Any],
        normalization_type: str | Mapping[str, Any],
        moe_config: Mapping[str, Any] | None = None,
        has_projection: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.num_layers = num_layers
        self.attention_config = attention_config
        self.ffn_config = ffn_config
        self.normalization_type = normalization_type
        self.moe_config = moe_config
        self.has_projection = has_projection
        self.projection = None
        self.transformer_layers = create_transformer_layers(
            num_layers,
            attention_config=attention_config,
            ffn_config=ffn_config,
            normalization_type=normalization_type,
            moe_config=moe_config,
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: Any) -> None:
        differs = input_shape[-1] != self.dim
        if differs and self.has_projection is False:
            raise ConfigError(
                f"global_projection is False, but patches of width {input_shape[-1]} come to a "
                f"global transformer of width {self.dim}."
            )
        if differs or self.has_projection:
            self.projection = keras.layers.Dense(
                self.dim, use_bias=False, name="projection", dtype=self.dtype_policy
            )
            self.projection.build(input_shape)
        for layer in self.transformer_layers:
            layer.build((None, None, self.dim))

    def call(self, patches: Any, patch_segment_ids: Any) -> Any:
        return self.transform(patches, patch_segment_ids)[0]

    def transform(
        self,
        patches: Any,
        patch_segment_ids: Any,
        past: Sequence[Any] | None = None,
        past_segment_ids: Any = None,
    ) -> tuple[Any, list[Any] | None]:
        """Does what the layer does, with `past` going in and out as in `LocalEncoder.encode`."""
        x = patches if self.projection is None else self.projection(patches)
        is_token, new_past = patch_segment_ids > 0, []
        for i, layer in enumerate(self.transformer_layers):
            if i == 0:
                # One block holds the row: of all the past, smaller ones would save nothing.
                block_mask = make_block_mask(
                    patch_segment_ids,
                    window=layer.attention.window,
                    block_size=patches.shape[1],
                    past_segment_ids=past_segment_ids,
                )
            if past is None:
                x = layer(x, block_mask, is_token=is_token)
            else:
                x, kept = layer(x, block_mask, past=past[i], is_token=is_token)
                new_past.append(kept)
        return x, None if past is None else new_past

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dim": self.dim,
            "num_layers": self.num_layers,
            "attention_config": self.attention_config,
            "ffn_config": self.ffn_config,
            "normalization_type": self.normalization_type,
            "moe_config": self.moe_config,
            "has_projection": self.has_projection,
        }
