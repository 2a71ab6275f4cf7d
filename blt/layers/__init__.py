"""The layers that the models are made of; `keras.ops` alone, on every backend."""

from blt.layers.attention import CausalAttention, make_block_mask
from blt.layers.embedding import ByteEmbedding
from blt.layers.feed_forward import SwiGLU
from blt.layers.normalization import create_normalization_layer
from blt.layers.transformer import TransformerLayer

__all__ = [
    "ByteEmbedding",
    "CausalAttention",
    "SwiGLU",
    "TransformerLayer",
    "create_normalization_layer",
    "make_block_mask",
]
