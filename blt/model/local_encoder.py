"""The local encoder: bytes to byte states, and to one vector for each patch."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from blt.layers import ByteEmbedding, TransformerLayer
from blt.layers.cross_attention import EncoderCrossAttention
from blt.layers.patches import PatchLayout


@keras.saving.register_keras_serializable(package="blt")
class LocalEncoder(keras.layers.Layer):
    """Embedding -> transformer layers with a sliding window -> cross-attention into patches.

    The queries of a patch start from the maximum of its byte states, projected to `num_slices`
    vectors of width `dim`.

    Call:
      tokens, segment_ids: [batch, num_tokens] int32.
      mask: of the window, from `make_block_mask`.
      layout: where the patches lie.

    Returns:
      byte states [batch, num_tokens, dim], and patch vectors [batch, num_patches, num_slices *
      dim], which are 0 where there is no patch.
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
        ngram_sizes: Sequence[int] = (),
        ngram_table_size: int = 0,
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
        self.ngram_sizes = tuple(ngram_sizes)
        self.ngram_table_size = ngram_table_size
        policy = self.dtype_policy
        self.embedding = ByteEmbedding(
            vocab_size,
            dim,
            ngram_sizes=self.ngram_sizes,
            ngram_table_size=ngram_table_size,
            name="embedding",
            dtype=policy,
        )
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
        self.patch_projection = keras.layers.Dense(
            num_slices * dim, use_bias=False, name="patch_projection", dtype=policy
        )
        self.cross_attention = EncoderCrossAttention(
            cross_attention_heads,
            normalization_type=normalization_type,
            name="cross_attention",
            dtype=policy,
        )

    def build(self, tokens_shape: Any, *_: Any) -> None:
        hidden = (None, None, self.dim)
        self.embedding.build(tokens_shape)
        for layer in self.transformer_layers:
            layer.build(hidden)
        self.patch_projection.build(hidden)
        self.cross_attention.build(hidden)

    def call(
        self, tokens: Any, segment_ids: Any, mask: Any, layout: PatchLayout
    ) -> tuple[Any, Any]:
        x = self.embedding(tokens, segment_ids)
        for layer in self.transformer_layers:
            x = layer(x, mask)
        batch, num_patches = ops.shape(x)[0], layout.num_patches
        queries = self.patch_projection(layout.max_by_patch(x))
        queries = ops.reshape(queries, (batch, num_patches, self.num_slices, self.dim))
        patches = self.cross_attention(queries, x, layout=layout)
        return x, ops.reshape(patches, (batch, num_patches, self.num_slices * self.dim))

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
            "ngram_sizes": list(self.ngram_sizes),
            "ngram_table_size": self.ngram_table_size,
        }
