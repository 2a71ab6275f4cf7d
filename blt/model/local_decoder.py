"""The local decoder: byte states and patches to predictions of the next byte."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers import ByteEmbedding, create_normalization_layer
from blt.layers.cross_attention import DecoderCrossAttention
from blt.layers.embedding import create_output_layer
from blt.layers.patches import LastPatches, PatchLayout
from blt.layers.transformer import create_transformer_layers

CROSS_ATTENTION_LAYERS = ("all", "first", "none")


@keras.saving.register_keras_serializable(package="blt")
class LocalDecoder(keras.layers.Layer):
    """Before its layers, bytes read the last complete patch; then norm and logits.

    Args:
      vocab_size: ids.
      dim: width; `patch_dim`: width of the patches that come in.
      num_layers: transformer layers.
      attention_config, ffn_config, normalization_type: see `TransformerLayer`.
      num_slices: vectors of width `dim` that a patch becomes.
      has_projection: whether a patch is projected to them, or is they as it comes; None: unless
        `patch_dim` is `dim`.
      is_tied: whether logits are made by the byte embedding's table, which the call then needs.
      cross_attention_config: arguments of `DecoderCrossAttention`.
      cross_attention_layers: before which layers bytes read patches: "all", "first", or "none",
        where the projected patch is added to the byte state, once.

    Call:
      byte_states: [batch, num_tokens, dim], as the encoder left them.
      patches: [batch, num_patches, patch_dim], from the global transformer.
      block_mask: of the window, from `make_block_mask`.
      layout: where the patches lie.
      embedding: the encoder's `ByteEmbedding`, if the logits are tied to it; else None.

    Returns:
      [batch, num_tokens, vocab_size] float32 logits. Entry i predicts token i + 1.

    Raises:
      ConfigError: an option is unknown, or widths do not go together without a projection.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int,
        patch_dim: int,
        num_layers: int,
        attention_config: str | Mapping[str, Any],
        ffn_config: str | Mapping[str, Any],
        normalization_type: str | Mapping[str, Any],
        num_slices: int,
        cross_attention_config: Mapping[str, Any],
        cross_attention_layers: str = "all",
        has_projection: bool | None = None,
        is_tied: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if cross_attention_layers not in CROSS_ATTENTION_LAYERS:
            raise ConfigError(
                f"the decoder's cross-attention layers {cross_attention_layers!r}: not one of "
                f"{', '.join(CROSS_ATTENTION_LAYERS)}."
            )
        if num_layers < 1:
            raise ConfigError(f"the decoder must have at least 1 layer, got {num_layers}.")
        self.vocab_size = vocab_size
        self.dim = dim
        self.patch_dim = patch_dim
        self.num_layers = num_layers
        self.attention_config = attention_config
        self.ffn_config = ffn_config
        self.normalization_type = normalization_type
        self.num_slices = 1 if cross_attention_layers == "none" else num_slices
        self.cross_attention_config = dict(cross_attention_config)
        self.cross_attends_at = cross_attention_layers
        policy = self.dtype_policy
        self.has_projection = has_projection
        self.is_tied = is_tied
        self.patch_projection = None
        if has_projection or (has_projection is None and patch_dim != dim):
            self.patch_projection = keras.layers.Dense(
                self.num_slices * dim, use_bias=False, name="patch_projection", dtype=policy
            )
        elif has_projection is None and self.num_slices != 1:
            raise ConfigError(
                f"num_slices must be 1 where local and global width are equal, got {num_slices}; "
                "or set decoder_projection to True."
            )
        elif self.num_slices * dim != patch_dim:
            raise ConfigError(
                f"decoder_projection is False, but patches of width {patch_dim} are not "
                f"{self.num_slices} slices of width {dim}."
            )
        self.cross_attention_layers = [
            DecoderCrossAttention(
                **self.cross_attention_config, name=f"cross_attention_{i}", dtype=policy
            )
            for i in range({"all": num_layers, "first": 1, "none": 0}[cross_attention_layers])
        ]
        self.transformer_layers = create_transformer_layers(
            num_layers,
            attention_config=attention_config,
            ffn_config=ffn_config,
            normalization_type=normalization_type,
            dtype=policy,
        )
        self.norm = create_normalization_layer(normalization_type, name="norm", dtype=policy)
        self.output_layer = create_output_layer(vocab_size, is_tied=is_tied)

    def build(self, input_shape: Any) -> None:
        hidden = (None, None, self.dim)
        if self.patch_projection is not None:
            self.patch_projection.build((None, None, self.patch_dim))
        for layer in [*self.cross_attention_layers, *self.transformer_layers]:
            layer.build(hidden)
        self.norm.build(hidden)
        self.output_layer.build(hidden)

    def call(
        self,
        byte_states: Any,
        patches: Any,
        block_mask: Any,
        layout: PatchLayout,
        embedding: ByteEmbedding | None = None,
    ) -> Any:
        return self.decode(byte_states, patches, block_mask, layout, embedding=embedding)[0]

    def decode(
        self,
        byte_states: Any,
        patches: Any,
        block_mask: Any,
        layout: PatchLayout | LastPatches,
        past: Sequence[Any] | None = None,
        embedding: ByteEmbedding | None = None,
    ) -> tuple[Any, list[Any] | None]:
        """Does what the layer does, with `past` going in and out as in `LocalEncoder.encode`."""
        if self.patch_projection is not None:
            patches = self.patch_projection(patches)
        slices = ops.reshape(patches, (-1, layout.num_patches, self.num_slices, self.dim))
        x, new_past = byte_states, []
        if not self.cross_attention_layers:
            x = x + layout.readable_patches(slices)[0][:, :, 0, 0]
        for i, layer in enumerate(self.transformer_layers):
            if i < len(self.cross_attention_layers):
                x = self.cross_attention_layers[i](x, slices, layout=layout)
            if past is None:
                x = layer(x, block_mask)
            else:
                x, kept = layer(x, block_mask, past=past[i])
                new_past.append(kept)
        tied = {"embedding": embedding} if self.is_tied else {}
        return self.output_layer(self.norm(x), **tied), None if past is None else new_past

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.vocab_size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "dim": self.dim,
            "patch_dim": self.patch_dim,
            "num_layers": self.num_layers,
            "attention_config": self.attention_config,
            "ffn_config": self.ffn_config,
            "normalization_type": self.normalization_type,
            "num_slices": self.num_slices,
            "cross_attention_config": self.cross_attention_config,
            "cross_attention_layers": self.cross_attends_at,
            "has_projection": self.has_projection,
            "is_tied": self.is_tied,
        }
