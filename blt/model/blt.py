"""The Byte Latent Transformer (arXiv 2412.09871): bytes in, patches inside, bytes out.

    tokens ──► local encoder ──────────────── byte states ───────────► local decoder ──► logits
                     └──► patches ──► global transformer ──► patches ──────┘

The local models are small and run on every byte; the global transformer is large and runs once a
patch. Where patches begin is an input: `patch_lengths`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from blt.errors import UserError, near_names
from blt.layers import make_block_mask
from blt.layers.patches import PatchLayout
from blt.model.entropy_model import EntropyModel, choose_block_size
from blt.model.global_transformer import GlobalTransformer
from blt.model.local_decoder import LocalDecoder
from blt.model.local_encoder import LocalEncoder
from blt.model.serialization import load_model_file
from blt.patching.rules import PatchRule
from blt.tokenizer import VOCAB_SIZE

# `tiny` is ours, made for a CPU and a minute of training: nearly all of its parameters are n-gram
# embeddings, of which a byte needs five.
BLT_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "local_dim": 64,
        "global_dim": 128,
        "num_encoder_layers": 1,
        "num_global_layers": 2,
        "num_decoder_layers": 1,
        "local_heads": 4,
        "global_heads": 4,
        "local_window": 64,
        "ngram_sizes": [2, 3, 4, 5, 6],
        "ngram_table_size": 16384,
    },
}


def _hidden_dim(dim: int) -> int:
    """Returns 8/3 of a width, rounded up to 64: a SwiGLU as large as a common MLP."""
    return math.ceil(dim * 8 / 3 / 64) * 64


@keras.saving.register_keras_serializable(package="blt")
class ByteLatentTransformer(keras.Model):
    """A causal byte language model that spends most of its work on patches.

    Args:
      vocab_size: ids it knows.
      local_dim: width of local encoder and decoder.
      global_dim: width of the global transformer.
      num_encoder_layers, num_global_layers, num_decoder_layers: transformer layers of each.
      local_heads, global_heads: query heads.
      global_kv_heads: key and value heads of the global transformer; None for `global_heads`.
      cross_attention_heads: of both cross-attentions; None for `local_heads`.
      local_hidden_dim, global_hidden_dim: of the feed-forward networks; None for 8/3 of the width.
      local_window: bytes that local attention sees, the current one included.
      num_slices: vectors of width `local_dim` that make a patch; None for as many as `global_dim`
        needs.
      rope_theta: base of the rotary positions.
      normalization_type: see `create_normalization_layer`.
      ngram_sizes, ngram_table_size: of the hashed n-grams; none by default.
      max_sequence_length, max_patches: tokens and patches in the rows it was trained on. Longer
        rows can be run, but are scored in windows of this size.
      entropy_model: the frozen model that says where patches begin, or its serialized form; kept
        in the file, so that it is at hand, but no part of this model's function or size.
      patch_rule: the rule that cuts by it, as `PatchRule` or as its fields.
      entropy_fingerprint: of the entropy model that made the boundaries it was trained with.

    Call:
      tokens: [batch, num_tokens] integers.
      patch_lengths: [batch, num_patches] integers; each row sums to its tokens, with 0 for no patch
        at the end.
      segment_ids: [batch, num_tokens] integers: documents of a row from 1, 0 for padding; documents
        do not see one another, and a patch lies in one of them. None: each row is one document, as
        long as its patches.

    Returns:
      [batch, num_tokens, vocab_size] float32 logits. Entry i predicts token i + 1, from tokens up
      to i and the patches complete by then.
    """

    def __init__(
        self,
        *,
        vocab_size: int = VOCAB_SIZE,
        local_dim: int = 256,
        global_dim: int = 384,
        num_encoder_layers: int = 1,
        num_global_layers: int = 4,
        num_decoder_layers: int = 2,
        local_heads: int = 4,
        global_heads: int = 6,
        global_kv_heads: int | None = None,
        cross_attention_heads: int | None = None,
        local_hidden_dim: int | None = None,
        global_hidden_dim: int | None = None,
        local_window: int = 512,
        num_slices: int | None = None,
        rope_theta: float = 10_000.0,
        normalization_type: str = "zero_centered_rms_norm",
        ngram_sizes: Sequence[int] = (),
        ngram_table_size: int = 0,
        max_sequence_length: int = 1024,
        max_patches: int = 512,
        entropy_model: EntropyModel | Mapping[str, Any] | None = None,
        patch_rule: PatchRule | Mapping[str, Any] | None = None,
        entropy_fingerprint: str | None = None,
        **kwargs: Any,
    ) -> None:
        # A name of its own: Keras would count the models made in this process into it.
        kwargs.setdefault("name", "byte_latent_transformer")
        super().__init__(**kwargs)
        if local_window < 1:
            raise ValueError(f"local_window must be at least 1, got {local_window}.")
        self._options = {
            "vocab_size": vocab_size,
            "local_dim": local_dim,
            "global_dim": global_dim,
            "num_encoder_layers": num_encoder_layers,
            "num_global_layers": num_global_layers,
            "num_decoder_layers": num_decoder_layers,
            "local_heads": local_heads,
            "global_heads": global_heads,
            "global_kv_heads": global_kv_heads,
            "cross_attention_heads": cross_attention_heads or local_heads,
            "local_hidden_dim": local_hidden_dim or _hidden_dim(local_dim),
            "global_hidden_dim": global_hidden_dim or _hidden_dim(global_dim),
            "local_window": local_window,
            "num_slices": num_slices or math.ceil(global_dim / local_dim),
            "rope_theta": rope_theta,
            "normalization_type": normalization_type,
            "ngram_sizes": list(ngram_sizes),
            "ngram_table_size": ngram_table_size,
            "max_sequence_length": max_sequence_length,
            "max_patches": max_patches,
            "entropy_fingerprint": entropy_fingerprint,
        }
        self.vocab_size = vocab_size
        self.local_window = local_window
        self.max_sequence_length = max_sequence_length
        self.max_patches = max_patches
        self.block_size = choose_block_size(local_window)
        self.entropy_fingerprint = entropy_fingerprint
        if isinstance(entropy_model, Mapping):
            entropy_model = keras.saving.deserialize_keras_object(dict(entropy_model))
        if isinstance(patch_rule, Mapping):
            patch_rule = PatchRule(**patch_rule)
        self.patch_rule = patch_rule
        self.entropy_model = entropy_model
        if entropy_model is not None:
            # Both, since on TensorFlow an assignment of the value it has does nothing, and a model
            # read from a file is marked as frozen before it has layers that could be.
            entropy_model.trainable = True
            entropy_model.trainable = False
        self._make_layers()
        self.build((None, self.block_size))

    def _make_layers(self) -> None:
        options = self._options
        shared = {
            "rope_theta": options["rope_theta"],
            "normalization_type": options["normalization_type"],
            "dtype": self.dtype_policy,
        }
        local = {
            "vocab_size": options["vocab_size"],
            "dim": options["local_dim"],
            "num_heads": options["local_heads"],
            "hidden_dim": options["local_hidden_dim"],
            "num_slices": options["num_slices"],
            "cross_attention_heads": options["cross_attention_heads"],
            **shared,
        }
        self.local_encoder = LocalEncoder(
            num_layers=options["num_encoder_layers"],
            ngram_sizes=options["ngram_sizes"],
            ngram_table_size=options["ngram_table_size"],
            name="local_encoder",
            **local,
        )
        self.global_transformer = GlobalTransformer(
            dim=options["global_dim"],
            num_layers=options["num_global_layers"],
            num_heads=options["global_heads"],
            num_kv_heads=options["global_kv_heads"],
            hidden_dim=options["global_hidden_dim"],
            name="global_transformer",
            **shared,
        )
        self.local_decoder = LocalDecoder(
            num_layers=options["num_decoder_layers"], name="local_decoder", **local
        )

    def build(self, input_shape: Any) -> None:
        options = self._options
        byte_states = (None, None, options["local_dim"])
        self.local_encoder.build(input_shape)
        self.global_transformer.build((None, None, options["num_slices"] * options["local_dim"]))
        self.local_decoder.build(byte_states, (None, None, options["global_dim"]))

    def call(self, tokens: Any, patch_lengths: Any, segment_ids: Any = None) -> Any:
        num_tokens = tokens.shape[1]
        tokens = ops.cast(tokens, "int32")
        patch_lengths = ops.cast(patch_lengths, "int32")
        if segment_ids is None:
            total = ops.sum(patch_lengths, axis=1, keepdims=True)
            segment_ids = ops.arange(num_tokens, dtype="int32")[None] < total
        segment_ids = ops.cast(segment_ids, "int32")
        padding = -num_tokens % self.block_size
        if padding:
            tokens = ops.pad(tokens, [[0, 0], [0, padding]])
            segment_ids = ops.pad(segment_ids, [[0, 0], [0, padding]])
        mask = make_block_mask(segment_ids, window=self.local_window, block_size=self.block_size)
        layout = PatchLayout(patch_lengths, segment_ids)
        byte_states, patches = self.local_encoder(tokens, segment_ids, mask, layout=layout)
        patches = self.global_transformer(patches, layout.patch_segment_ids)
        return self.local_decoder(byte_states, patches, mask, layout=layout)[:, :num_tokens]

    def count_params(self) -> int:
        """Returns the number of parameters, those of the entropy model left out."""
        parts = (self.local_encoder, self.global_transformer, self.local_decoder)
        return sum(part.count_params() for part in parts)

    def compute_output_shape(self, tokens_shape: Any, *_: Any) -> Any:
        return (*tokens_shape, self.vocab_size)

    def get_config(self) -> dict[str, Any]:
        entropy_model, rule = self.entropy_model, self.patch_rule
        return {
            **super().get_config(),
            **self._options,
            "entropy_model": entropy_model and keras.saving.serialize_keras_object(entropy_model),
            "patch_rule": rule and dataclasses.asdict(rule),
        }


def create_blt(preset: str, **changes: Any) -> ByteLatentTransformer:
    """Makes an untrained BLT.

    Args:
      preset: a key of `BLT_PRESETS`.
      **changes: arguments of `ByteLatentTransformer` that differ from the preset.

    Raises:
      UserError: there is no such preset.
    """
    check_blt_preset(preset)
    return ByteLatentTransformer(**{**BLT_PRESETS[preset], **changes})


def check_blt_preset(preset: str) -> None:
    """Raises UserError unless there is such a preset."""
    if preset not in BLT_PRESETS:
        raise UserError(
            f"--preset {preset}: not one of {', '.join(BLT_PRESETS)}."
            + near_names(preset, BLT_PRESETS)
        )


def load_blt(path: str | Path) -> ByteLatentTransformer:
    """Reads a BLT; raises UserError as `load_model_file` does."""
    return load_model_file(path, ByteLatentTransformer)
