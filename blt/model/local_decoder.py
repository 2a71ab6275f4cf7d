"""The local decoder: byte states and patches to predictions of the next byte."""

from typing import Any

import keras
from keras import ops

from blt.layers import TransformerLayer, create_normalization_layer
from blt.layers.cross_attention import DecoderCrossAttention
from blt.layers.patches import PatchLayout


@keras.saving.register_keras_serializable(package="blt")
class LocalDecoder(keras.layers.Layer):
    """Before each layer, bytes read the last complete patch; then norm and logits.

    Call:
      byte_states: [batch, num_tokens, dim], as the encoder left them.
      patches: [batch, num_patches, any width], from the global transformer.
      mask: of the window, from `make_block_mask`.
      layout: where the patches lie.

    Returns:
      [batch, num_tokens, vocab_size] float32 logits. Entry i predicts token i + 1.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        num_slices: int,
        cross_attention_heads: int,
        rope_theta: float,
        normalization_type: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.dim = dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.num_slices = num_slices
        self.cross_attention_heads = cross_attention_heads
        self.rope_theta = rope_theta
        self.normalization_type = normalization_type
        policy = self.dtype_policy
        self.patch_projection = keras.layers.Dense(
            num_slices * dim, use_bias=False, name="patch_projection", dtype=policy
        )
        self.cross_attention_layers = [
            DecoderCrossAttention(
                cross_attention_heads,
                normalization_type=normalization_type,
                name=f"cross_attention_{i}",
                dtype=policy,
            )
            for i in range(num_layers)
        ]
        self.transformer_layers = [
            TransformerLayer(
                num_heads,
                hidden_dim,
                rope_theta=rope_theta,
                normalization_type=normalization_type,
                name=f"layer_{i}",
                dtype=policy,
            )
            for i in range(num_layers)
        ]
        self.norm = create_normalization_layer(normalization_type, name="norm", dtype=policy)
        self.output_layer = keras.layers.Dense(
            vocab_size, use_bias=False, name="output", dtype="float32"
        )

    def build(self, byte_states_shape: Any, patches_shape: Any, *_: Any) -> None:
        hidden = (None, None, self.dim)
        self.patch_projection.build(patches_shape)
        for layer in [*self.cross_attention_layers, *self.transformer_layers]:
            layer.build(hidden)
        self.norm.build(hidden)
        self.output_layer.build(hidden)

    def call(self, byte_states: Any, patches: Any, mask: Any, layout: PatchLayout) -> Any:
        slices = ops.reshape(
            self.patch_projection(patches),
            (ops.shape(patches)[0], layout.num_patches, self.num_slices, self.dim),
        )
        x = byte_states
        layers = zip(self.cross_attention_layers, self.transformer_layers, strict=True)
        for cross_attention, layer in layers:
            x = layer(cross_attention(x, slices, layout=layout), mask)
        return self.output_layer(self.norm(x))

    def compute_output_shape(self, byte_states_shape: Any, *_: Any) -> Any:
        return (*byte_states_shape[:-1], self.vocab_size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "dim": self.dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "num_slices": self.num_slices,
            "cross_attention_heads": self.cross_attention_heads,
            "rope_theta": self.rope_theta,
            "normalization_type": self.normalization_type,
        }
