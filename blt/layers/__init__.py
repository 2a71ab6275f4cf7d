"""The layers that the models are made of; `keras.ops` alone, on every backend.

Attention, normalisation and feed-forward networks go by name; `register_…` adds one.
"""

from blt.layers.attention import (
    CausalAttention,
    create_attention_layer,
    make_block_mask,
    register_attention_layer,
)
from blt.layers.embedding import ByteEmbedding
from blt.layers.feed_forward import GEGLU, MLP, SwiGLU, create_ffn_from_config, register_ffn
from blt.layers.moe import MixtureOfExperts
from blt.layers.normalization import (
    AdaptiveBandRMSNorm,
    UnitOffsetRMSNorm,
    create_normalization_layer,
    register_normalization_layer,
)
from blt.layers.transformer import TransformerLayer

__all__ = [
    "GEGLU",
    "MLP",
    "AdaptiveBandRMSNorm",
    "ByteEmbedding",
    "CausalAttention",
    "MixtureOfExperts",
    "SwiGLU",
    "TransformerLayer",
    "UnitOffsetRMSNorm",
    "create_attention_layer",
    "create_ffn_from_config",
    "create_normalization_layer",
    "make_block_mask",
    "register_attention_layer",
    "register_ffn",
    "register_normalization_layer",
]
