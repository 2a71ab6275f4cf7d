"""The local encoder: bytes to byte states, and to one vector for each patch."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers import ByteEmbedding
from blt.layers.cross_attention import EncoderCrossAttention
from blt.layers.patches import PatchLayout
from blt.layers.transformer import create_transformer_layers

CROSS_ATTENTION_LAYERS = ("last", "all", "none")
POOLINGS = ("max", "min", "avg")


@keras.saving.register_keras_serializable(package="blt")
class LocalEncoder(keras.layers.Layer):
    """Embedding -> transformer layers with a sliding window -> cross-attention into patches.

    The queries of a patch start from the maximum (or minimum, or mean) of its byte states,
    projected to `num_slices` vectors of width `dim`.

    Args:
      vocab_size, ngram_sizes, ngram_table_size, num_hash_functions: see `ByteEmbedding`.
      dim: width.
      num_layers: transformer layers.
      attention_config, ffn_config, normalization_type: see `TransformerLayer`.
      num_slices: vectors of width `dim` that make a patch.
      cross_attention_config: arguments of `EncoderCrossAttention`.
      cross_attention_layers: after which layers patches look at their bytes: "last", "all", or
        "none", where a patch is its pooled byte states alone.
      pooling: "max", "min" or "avg".
      pools_each_layer: pool anew before each cross-attention, instead of going on with the queries.
      hashes_across_documents: let n-grams run across the documents of a row.

    Call:
      tokens, segment_ids: [batch, num_tokens] int32.
      block_mask: of the window, from `make_block_mask`.
      layout: where the patches lie.

    Returns:
      byte states [batch, num_tokens, dim], and patch vectors [batch, num_patches, num_slices *
      dim] (`dim` without cross-attention), which are 0 where there is no patch.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int,
        num_layers: int,
        attention_config: str | Mapping[str, Any],
        ffn_config: str | Mapping[str, Any],
        normalization_type: str | Mapping[str, Any],
        num_slices: int,
        cross_attention_config: Mapping[str, Any],
        cross_attention_layers: str = "last",
        pooling: str = "max",
        pools_each_layer: bool = False,
        ngram_sizes: Sequence[int] = (),
        ngram_table_size: int = 0,
        num_hash_functions: int = 1,
        hashes_across_documents: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if cross_attention_layers not in CROSS_ATTENTION_LAYERS:
            raise ConfigError(
                f"the encoder's cross-attention layers {cross_attention_layers!r}: not one of "
                f"{', '.join(CROSS_ATTENTION_LAYERS)}."
            )
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling {pooling!r}: not one of {', '.join(POOLINGS)}.")
        if num_layers < 1:
            raise ConfigError(f"the encoder must have at least 1 layer, got {num_layers}.")
        self.vocab_size = vocab_size
        self.dim = dim
        self.num_layers = num_layers
        self.attention_config = attention_config
        self.ffn_config = ffn_config
        self.normalization_type = normalization_type
        self.num_slices = num_slices
        self.cross_attention_config = dict(cross_attention_config)
        self.cross_attends_at = cross_attention_layers
        self.pooling = pooling
        self.pools_each_layer = pools_each_layer
        self.ngram_sizes = tuple(ngram_sizes)
        self.ngram_table_size = ngram_table_size
        self.num_hash_functions = num_hash_functions
        self.hashes_across_documents = hashes_across_documents
        policy = self.dtype_policy
        self.embedding = ByteEmbedding(
            vocab_size,
            dim,
            ngram_sizes=self.ngram_sizes,
            ngram_table_size=ngram_table_size,
            num_hash_functions=num_hash_functions,
            name="embedding",
            dtype=policy,
        )
        self.transformer_layers = create_transformer_layers(
            num_layers,
            attention_config=attention_config,
            ffn_config=ffn_config,
            normalization_type=normalization_type,
            dtype=policy,
        )
        self.patch_projection = None
        if cross_attention_layers != "none":
            self.patch_projection = keras.layers.Dense(
                num_slices * dim, use_bias=False, name="patch_projection", dtype=policy
            )
        self.cross_attention_layers = [
            EncoderCrossAttention(
                **self.cross_attention_config, name=f"cross_attention_{i}", dtype=policy
            )
            for i in range({"last": 1, "all": num_layers, "none": 0}[cross_attention_layers])
        ]

    def build(self, input_shape: Any) -> None:
        hidden = (None, None, self.dim)
        self.embedding.build(input_shape)
        for layer in [*self.transformer_layers, *self.cross_attention_layers]:
            layer.build(hidden)
        if self.patch_projection is not None:
            self.patch_projection.build(hidden)

    def call(
        self, tokens: Any, segment_ids: Any, block_mask: Any, layout: PatchLayout
    ) -> tuple[Any, Any]:
        states, _ = self.encode(tokens, segment_ids, block_mask)
        return states[-1], self.make_patches(states, layout)

    def encode(
        self, tokens: Any, segment_ids: Any, block_mask: Any, past: Sequence[Any] | None = None
    ) -> tuple[list[Any], list[Any] | None]:
        """Runs the transformer layers.

        Args:
          tokens, segment_ids: [batch, num_context + num_tokens] int32; the context is what n-grams
            look back at, and may be there only with `past`.
          block_mask: of the num_tokens last.
          past: for each layer, what its attention keeps of the tokens before; None for none.

        Returns:
          The byte states [batch, num_tokens, dim] that patches look at, one for each layer with
          cross-attention (after the last alone, where there is none), and the new `past`.
        """
        hashed = ops.minimum(segment_ids, 1) if self.hashes_across_documents else segment_ids
        x = self.embedding(tokens, hashed)[
            :, tokens.shape[1] - block_mask.shape[1] * block_mask.shape[2] :
        ]
        states, new_past = [], []
        for i, layer in enumerate(self.transformer_layers):
            if past is None:
                x = layer(x, block_mask)
            else:
                x, kept = layer(x, block_mask, past=past[i])
                new_past.append(kept)
            if self.cross_attends_at == "all":
                states.append(x)
        return states or [x], None if past is None else new_past

    def make_patches(self, states: Sequence[Any], layout: PatchLayout) -> Any:
        """Returns patch vectors [batch, num_patches, …] of byte states, as `encode` gives them."""
        if not self.cross_attention_layers:
            return layout.reduce_by_patch(states[-1], self.pooling)
        queries = None
        for x, cross_attention in zip(states, self.cross_attention_layers, strict=True):
            if queries is None or self.pools_each_layer:
                queries = self.patch_projection(layout.reduce_by_patch(x, self.pooling))
                shape = (-1, layout.num_patches, self.num_slices, self.dim)
                queries = ops.reshape(queries, shape)
            queries = cross_attention(queries, x, layout=layout)
        return ops.reshape(queries, (-1, layout.num_patches, self.num_slices * self.dim))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, Any]:
        num_slices = self.num_slices if self.cross_attention_layers else 1
        return (*input_shape, self.dim), (input_shape[0], None, num_slices * self.dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "dim": self.dim,
            "num_layers": self.num_layers,
            "attention_config": self.attention_config,
            "ffn_config": self.ffn_config,
            "normalization_type": self.normalization_type,
            "num_slices": self.num_slices,
            "cross_attention_config": self.cross_attention_config,
            "cross_attention_layers": self.cross_attends_at,
            "pooling": self.pooling,
            "pools_each_layer": self.pools_each_layer,
            "ngram_sizes": list(self.ngram_sizes),
            "ngram_table_size": self.ngram_table_size,
            "num_hash_functions": self.num_hash_functions,
            "hashes_across_documents": self.hashes_across_documents,
        }
