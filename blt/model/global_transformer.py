"""The global transformer: the large model, which runs once a patch."""

from typing import Any

import keras

from blt.layers import TransformerLayer, make_block_mask


@keras.saving.register_keras_serializable(package="blt")
class GlobalTransformer(keras.layers.Layer):
    """Causal transformer over the patches of each document; positions are patch numbers.

    Call:
      patches: [batch, num_patches, any width]; projected to `dim` if that is another width.
      patch_segment_ids: [batch, num_patches] int32; documents do not see one another.

    Returns:
      [batch, num_patches, dim].
    """

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int | None,
        hidden_dim: int,
        rope_theta: float,
        normalization_type: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.hidden_dim = hidden_dim
        self.rope_theta = rope_theta
        self.normalization_type = normalization_type
        self.projection = None
        self.transformer_layers = [
            TransformerLayer(
                num_heads,
                hidden_dim,
                num_kv_heads=num_kv_heads,
                rope_theta=rope_theta,
                normalization_type=normalization_type,
                name=f"layer_{i}",
                dtype=self.dtype_policy,
            )
            for i in range(num_layers)
        ]

    def build(self, patches_shape: Any, *_: Any) -> None:
        if patches_shape[-1] != self.dim:
            self.projection = keras.layers.Dense(
                self.dim, use_bias=False, name="projection", dtype=self.dtype_policy
            )
            self.projection.build(patches_shape)
        for layer in self.transformer_layers:
            layer.build((None, None, self.dim))

    def call(self, patches: Any, patch_segment_ids: Any) -> Any:
        # All of the past is seen, so one block holds the row: blocks would save nothing.
        mask = make_block_mask(patch_segment_ids, window=None, block_size=patches.shape[1])
        x = patches if self.projection is None else self.projection(patches)
        for layer in self.transformer_layers:
            x = layer(x, mask)
        return x

    def compute_output_shape(self, patches_shape: Any, *_: Any) -> Any:
        return (*patches_shape[:-1], self.dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dim": self.dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "hidden_dim": self.hidden_dim,
            "rope_theta": self.rope_theta,
            "normalization_type": self.normalization_type,
        }
