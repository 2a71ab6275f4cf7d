"""The Byte Latent Transformer (arXiv 2412.09871): bytes in, patches inside, bytes out.

    tokens ──► local encoder ──────────────── byte states ───────────► local decoder ──► logits
       │             └──► patches ──► global transformer ──► patches ──────┘
       └──► entropy model ──► patcher: where patches begin

The local models are small and run on every byte; the global transformer is large and runs once a
patch. Where patches begin is an input, `patch_lengths`, as the pipelines compute it beforehand; or
the model's own entropy model and patcher find it.

Departures from the paper are listed in docs/model.md.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from blt.dataset.storage import PlaceLike
from blt.errors import ConfigError
from blt.layers import ByteEmbedding, make_block_mask
from blt.layers.attention import DEFAULT_WINDOW, choose_block_size
from blt.layers.embedding import check_tie
from blt.layers.normalization import DEFAULT_NORMALIZATION
from blt.layers.patcher import Patcher, cut_context
from blt.layers.patches import PatchLayout
from blt.layers.registry import argument_names, check_keys, split_type
from blt.model.entropy_model import EntropyModel
from blt.model.global_transformer import GlobalTransformer
from blt.model.language_model import ByteLanguageModel
from blt.model.local_decoder import LocalDecoder
from blt.model.local_encoder import LocalEncoder
from blt.model.presets import BLT_PRESETS, check_preset, create_entropy_model
from blt.model.serialization import load_model_file
from blt.patching.rules import PatchRule
from blt.tokenizer import PAD_ID, VOCAB_SIZE, ByteTokenizer

# The published code's threshold (nats; 1.927 bits), for a model that is given none.
DEFAULT_THRESHOLD_NATS = 1.335442066192627

_HEAD_DIM = 64  # of heads whose number is not given
_CROSS_ATTENTION_DEFAULTS = {
    "num_heads": None,
    "decoder_num_heads": None,
    "encoder_layers": "last",
    "decoder_layers": "all",
    "encoder_window": 1,
    "decoder_window": 1,
    "residual_scale": 1.0,
}
_COMPATS = (None, "meta", "hf")
_SAID_IF_SET = ("global_projection", "decoder_projection", "tied_embeddings")


@keras.saving.register_keras_serializable(package="blt")
class ByteLatentTransformer(ByteLanguageModel):
    """A causal byte language model that spends most of its work on patches.

    Configs of attention, feed-forward networks and norms are what `blt.layers.create_…` take: a
    name, or a dict of `type` and arguments. Attention without `num_heads` has heads of width 64.

    Args:
      vocab_size: ids it knows.
      local_dim: width of local encoder and decoder.
      global_dim: width of the global transformer.
      num_encoder_layers, num_global_layers, num_decoder_layers: transformer layers of each.
      local_attention_config, local_ffn_config, local_norm_type: of encoder and decoder; attention
        sees a `window` of 512 bytes unless told otherwise.
      decoder_attention_config, decoder_ffn_config, decoder_norm_type: where the decoder differs.
      global_attention_config, global_ffn_config, global_norm_type: of the global transformer.
      global_moe_config: a mixture of experts in place of its feed-forward networks, see
        `TransformerLayer`; None for none.
      cross_attention_config: `num_heads` (None for those of local attention), `decoder_num_heads`
        (None for the same), `encoder_layers`
        ("last", "all" or "none"), `decoder_layers` ("all", "first" or "none"), `encoder_window` and
        `decoder_window` (patches, 1), `residual_scale` (1; the published checkpoints have 2).
      pooling: what a patch's queries start from: "max", "min" or "avg" of its byte states.
      num_slices: vectors of width `local_dim` that make a patch; None for as many as `global_dim`
        needs.
      global_projection, decoder_projection: whether there is a projection of patches before the
        global transformer, and before the decoder. None: where widths differ. Checkpoints may have
        one where they do not.
      tied_embeddings: None: the logits have a matrix of their own. "embedding", "output" or "both":
        they have that of the byte embedding, and a checkpoint holds it by that name, or by both.
      ngram_sizes, ngram_table_size, num_hash_functions: of the hashed n-grams; none by default.
      max_sequence_length, max_patches: tokens and patches in the rows it was trained on. Longer
        rows can be run, but are scored in windows of this size.
      entropy_model: the frozen model that says where patches begin: an `EntropyModel`, its
        serialized form, or the name of a preset, of which an untrained one is made. It is kept in
        the file, but is no part of this model's function of given patches, nor of its size. None:
        patches are always given, or cut by a rule that needs no entropies.
      patch_rule: the rule that cuts, as `PatchRule` or as its fields; None for `entropy` with the
        published threshold, if there is an entropy model.
      entropy_fingerprint: of the entropy model that made the boundaries it was trained with.
      compat: reproduces a reference implementation at the edges, for its checkpoints. "meta":
        n-grams and the decoder's reading run on across documents of a row. "hf": that, and given
        patch lengths count the token after the row without its 1, so that they end with 0 where it
        opens a patch; with encoder cross-attention at all layers, patches are pooled anew at each.

    Call:
      tokens: [batch, num_tokens] integers; or these inputs together, as `fit` and `predict` pass
        them: a dict by name, or a list or tuple in order.
      patch_lengths: [batch, num_patches] integers, 0 for no patch. Each row sums to its tokens, or
        to one more if it is known whether the token that follows the row opens a patch: the last
        token reads its own patch only if that is complete. None: the model cuts for itself.
      segment_ids: [batch, num_tokens] integers: documents of a row from 1, 0 for padding at its
        end; documents do not see one another, and a patch lies in one of them. None: each row is
        one document, as long as its patches; or, without those, up to where only PAD follows.

    Returns:
      [batch, num_tokens, vocab_size] float32 logits. Entry i predicts token i + 1, from tokens up
      to i and the patches complete by then.

    Raises:
      ConfigError: an option, or a key of a config, is unknown or out of range.
    """

    input_names = ("tokens", "patch_lengths", "segment_ids")

    def __init__(
        self,
        *,
        vocab_size: int = VOCAB_SIZE,
        local_dim: int = 256,
        global_dim: int = 384,
        num_encoder_layers: int = 1,
        num_global_layers: int = 5,
        num_decoder_layers: int = 3,
        local_attention_config: str | Mapping[str, Any] = "sliding_window",
        local_ffn_config: str | Mapping[str, Any] = "swiglu",
        local_norm_type: str | Mapping[str, Any] = DEFAULT_NORMALIZATION,
        decoder_attention_config: str | Mapping[str, Any] | None = None,
        decoder_ffn_config: str | Mapping[str, Any] | None = None,
        decoder_norm_type: str | Mapping[str, Any] | None = None,
        global_attention_config: str | Mapping[str, Any] = "group_query",
        global_ffn_config: str | Mapping[str, Any] = "swiglu",
        global_norm_type: str | Mapping[str, Any] = DEFAULT_NORMALIZATION,
        global_moe_config: Mapping[str, Any] | None = None,
        cross_attention_config: Mapping[str, Any] | None = None,
        pooling: str = "max",
        num_slices: int | None = None,
        global_projection: bool | None = None,
        decoder_projection: bool | None = None,
        tied_embeddings: str | None = None,
        ngram_sizes: Sequence[int] = (),
        ngram_table_size: int = 0,
        num_hash_functions: int = 1,
        max_sequence_length: int = 1024,
        max_patches: int = 512,
        entropy_model: EntropyModel | Mapping[str, Any] | str | None = "tiny",
        patch_rule: PatchRule | Mapping[str, Any] | None = None,
        entropy_fingerprint: str | None = None,
        compat: str | None = None,
        **kwargs: Any,
    ) -> None:
        # A name of its own: Keras would count the models made in this process into it.
        kwargs.setdefault("name", "byte_latent_transformer")
        _check_layer_arguments(kwargs)
        super().__init__(**kwargs)
        if compat not in _COMPATS:
            raise ConfigError(f"compat {compat!r}: not one of None, 'meta', 'hf'.")
        check_tie(tied_embeddings)
        local_attention = _complete_attention(local_attention_config, local_dim, is_local=True)
        cross_attention = _complete_cross_attention(cross_attention_config, local_attention)
        self._options = {
            "vocab_size": vocab_size,
            "local_dim": local_dim,
            "global_dim": global_dim,
            "num_encoder_layers": num_encoder_layers,
            "num_global_layers": num_global_layers,
            "num_decoder_layers": num_decoder_layers,
            "local_attention_config": local_attention,
            "local_ffn_config": local_ffn_config,
            "local_norm_type": local_norm_type,
            "decoder_attention_config": decoder_attention_config
            and _complete_attention(decoder_attention_config, local_dim, is_local=True),
            "decoder_ffn_config": decoder_ffn_config,
            "decoder_norm_type": decoder_norm_type,
            "global_attention_config": _complete_attention(global_attention_config, global_dim),
            "global_ffn_config": global_ffn_config,
            "global_norm_type": global_norm_type,
            "global_moe_config": global_moe_config,
            "cross_attention_config": cross_attention,
            "pooling": pooling,
            "num_slices": _num_slices(num_slices, local_dim, global_dim, cross_attention),
            "ngram_sizes": list(ngram_sizes),
            "ngram_table_size": ngram_table_size,
            "num_hash_functions": num_hash_functions,
            "max_sequence_length": max_sequence_length,
            "max_patches": max_patches,
            "entropy_fingerprint": entropy_fingerprint,
            "compat": compat,
            "global_projection": global_projection,
            "decoder_projection": decoder_projection,
            "tied_embeddings": tied_embeddings,
        }
        self.vocab_size = vocab_size
        self.max_sequence_length = max_sequence_length
        self.max_patches = max_patches
        self.entropy_fingerprint = entropy_fingerprint
        self.compat = compat
        self.tokenizer = ByteTokenizer()
        self._take_entropy_model(entropy_model, patch_rule)
        self._make_layers()
        self.build((None, self.block_size))

    def _take_entropy_model(self, entropy_model: Any, patch_rule: Any) -> None:
        if isinstance(entropy_model, str):
            entropy_model = create_entropy_model(entropy_model)
        elif isinstance(entropy_model, Mapping):
            entropy_model = keras.saving.deserialize_keras_object(dict(entropy_model))
        if isinstance(patch_rule, Mapping):
            patch_rule = PatchRule(**patch_rule)
        if patch_rule is None and entropy_model is not None:
            patch_rule = PatchRule(threshold_nats=DEFAULT_THRESHOLD_NATS)
        self.patch_rule = patch_rule
        # Patches snapped to characters cannot be cut as bytes come: a model that is trained on them
        # knows their rule, but needs its patch_lengths.
        can_cut = patch_rule is not None and not patch_rule.snap_utf8
        self.patcher = Patcher(patch_rule, name="patcher") if can_cut else None
        self.entropy_model = entropy_model
        if entropy_model is not None:
            # Both, since on TensorFlow an assignment of the value it has does nothing, and a model
            # read from a file is marked as frozen before it has layers that could be.
            entropy_model.trainable = True
            entropy_model.trainable = False

    def _make_layers(self) -> None:
        options = self._options
        cross = options["cross_attention_config"]
        local = {
            "vocab_size": options["vocab_size"],
            "dim": options["local_dim"],
            "num_slices": options["num_slices"],
            "dtype": self.dtype_policy,
        }
        names = ("attention_config", "ffn_config", "norm_type")
        encoder, decoder, large = (
            {name.replace("norm", "normalization"): options[f"{part}_{name}"] for name in names}
            for part in ("local", "decoder", "global")
        )
        decoder = {name: value or encoder[name] for name, value in decoder.items()}

        def cross_attention(part: str, num_heads: int, normalization_type: Any) -> dict[str, Any]:
            return {
                "cross_attention_layers": cross[f"{part}_layers"],
                "cross_attention_config": {
                    "num_heads": num_heads,
                    "window": cross[f"{part}_window"],
                    "residual_scale": cross["residual_scale"],
                    "normalization_type": normalization_type,
                },
            }

        self.local_encoder = LocalEncoder(
            num_layers=options["num_encoder_layers"],
            pooling=options["pooling"],
            pools_each_layer=self.compat == "hf",
            ngram_sizes=options["ngram_sizes"],
            ngram_table_size=options["ngram_table_size"],
            num_hash_functions=options["num_hash_functions"],
            hashes_across_documents=self.compat is not None,
            name="local_encoder",
            **encoder,
            **cross_attention("encoder", cross["num_heads"], encoder["normalization_type"]),
            **local,
        )
        self.global_transformer = GlobalTransformer(
            dim=options["global_dim"],
            num_layers=options["num_global_layers"],
            moe_config=options["global_moe_config"],
            has_projection=options["global_projection"],
            name="global_transformer",
            dtype=self.dtype_policy,
            **large,
        )
        self.local_decoder = LocalDecoder(
            patch_dim=options["global_dim"],
            num_layers=options["num_decoder_layers"],
            has_projection=options["decoder_projection"],
            is_tied=options["tied_embeddings"] is not None,
            name="local_decoder",
            **decoder,
            **cross_attention("decoder", cross["decoder_num_heads"], decoder["normalization_type"]),
            **local,
        )
        self.encoder_window = self.local_encoder.transformer_layers[0].attention.window
        self.decoder_window = self.local_decoder.transformer_layers[0].attention.window
        if self.encoder_window is None or self.decoder_window is None:
            raise ConfigError("local attention must have a window, in bytes.")
        self.block_size = choose_block_size(min(self.encoder_window, self.decoder_window))

    def build(self, input_shape: Any) -> None:
        if self.built:  # by the constructor
            return
        options = self._options
        width = options["local_dim"]
        if options["cross_attention_config"]["encoder_layers"] != "none":
            width *= options["num_slices"]
        if self.patcher is not None:
            self.patcher.build(input_shape)
        self.local_encoder.build(input_shape)
        self.global_transformer.build((None, None, width))
        self.local_decoder.build((None, None, options["local_dim"]))

    def call(self, tokens: Any, patch_lengths: Any = None, segment_ids: Any = None) -> Any:
        tokens, patch_lengths, segment_ids = self.take_inputs(tokens, patch_lengths, segment_ids)
        num_tokens = tokens.shape[1]
        # Padded first, so that rows of nearly equal lengths share what is compiled for them.
        padding = [[0, 0], [0, -num_tokens % self.block_size]]
        tokens = ops.pad(ops.cast(tokens, "int32"), padding)
        if segment_ids is not None:
            segment_ids = ops.pad(ops.cast(segment_ids, "int32"), padding)
        closes = None
        if patch_lengths is None:
            if segment_ids is None:
                segment_ids = _until_padding(tokens)
            patch_lengths, closes = self.cut_patches(tokens, segment_ids)
        patch_lengths = ops.cast(patch_lengths, "int32")
        if segment_ids is None:
            total = ops.minimum(ops.sum(patch_lengths, axis=1, keepdims=True), num_tokens)
            segment_ids = ops.cast(
                ops.arange(tokens.shape[1], dtype="int32")[None] < total, "int32"
            )
        if self.compat == "hf" and closes is None:
            next_token = ops.one_hot(patch_lengths.shape[1] - 1, patch_lengths.shape[1])
            patch_lengths = patch_lengths + ops.cast(next_token, "int32")
        encoder_mask, decoder_mask = self._masks(segment_ids)
        layout = PatchLayout(
            patch_lengths,
            segment_ids,
            closes=closes,
            across_documents=self.compat is not None,
        )
        byte_states, patches = self.local_encoder(tokens, segment_ids, encoder_mask, layout=layout)
        patches = self.global_transformer(patches, layout.patch_segment_ids)
        logits = self.local_decoder(
            byte_states, patches, decoder_mask, layout=layout, embedding=self.tied_embedding
        )
        return logits[:, :num_tokens]

    @property
    def tied_embedding(self) -> ByteEmbedding | None:
        """The embedding whose table makes the logits; None if they have a matrix of their own."""
        return None if self._options["tied_embeddings"] is None else self.local_encoder.embedding

    def _masks(self, segment_ids: Any) -> tuple[Any, Any]:
        encoder_mask = make_block_mask(
            segment_ids, window=self.encoder_window, block_size=self.block_size
        )
        if self.decoder_window == self.encoder_window:
            return encoder_mask, encoder_mask
        return encoder_mask, make_block_mask(
            segment_ids, window=self.decoder_window, block_size=self.block_size
        )

    def cut_patches(self, tokens: Any, segment_ids: Any = None) -> tuple[Any, Any]:
        """Cuts rows by the model's own entropy model and rule.

        Args:
          tokens, segment_ids: as the model's call takes them.

        Returns:
          Patch lengths and closed tokens, as `Patcher.cut` gives them.

        Raises:
          ConfigError: there is no rule, or no entropy model that it needs.
        """
        if self.patcher is None:
            why = "has no patch_rule to cut patches by"
            if self.patch_rule is not None:
                why = "was made for patches of snap_utf8, which only `blt patch` can cut"
            raise ConfigError(f"patch_lengths are needed: this model {why}.")
        tokens = ops.cast(tokens, "int32")
        segment_ids = _until_padding(tokens) if segment_ids is None else segment_ids
        if self.patch_rule.needs_entropies:
            if self.entropy_model is None:
                raise ConfigError(
                    "patch_lengths are needed: this model has no entropy model to cut patches by. "
                    "Give it one: entropy_model=..."
                )
            read, read_segments = cut_context(
                tokens, ops.cast(segment_ids, "int32"), self.patch_rule
            )
            logits = ops.stop_gradient(self.entropy_model(read, segment_ids=read_segments))
            entropies = self.entropy_model.compute_entropy(logits)
        else:
            entropies = ops.zeros_like(tokens, dtype="float32")
        return self.patcher.cut(entropies, tokens, segment_ids)

    def generate(
        self, prompts: str | bytes | Iterable[str | bytes], **options: Any
    ) -> Any | Iterator[Any]:
        """Goes on with prompts, text or bytes, byte by byte; see `blt.generation.generate`."""
        from blt.generation import generate

        return generate(self, prompts, **options)

    def count_params(self) -> int:
        """Returns the number of parameters, those of the entropy model left out."""
        parts = (self.local_encoder, self.global_transformer, self.local_decoder)
        return sum(part.count_params() for part in parts)

    @property
    def trainable(self) -> bool:
        """Whether the weights are trained; those of the entropy model never are."""
        return keras.Model.trainable.fget(self)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.Model.trainable.fset(self, value)
        if getattr(self, "entropy_model", None) is not None:
            self.entropy_model.trainable = False

    def _layers_not_quantized(self) -> Sequence[keras.layers.Layer]:
        # The threshold was calibrated with its numbers, and the boundaries were cut by them.
        return [] if self.entropy_model is None else list(self.entropy_model._flatten_layers())

    def get_config(self) -> dict[str, Any]:
        entropy_model, rule = self.entropy_model, self.patch_rule
        # Of these only what is said, so that models from before them keep their fingerprints.
        unsaid = {name for name in _SAID_IF_SET if self._options[name] is None}
        return {
            **super().get_config(),
            **{name: value for name, value in self._options.items() if name not in unsaid},
            "entropy_model": entropy_model and keras.saving.serialize_keras_object(entropy_model),
            "patch_rule": rule and dataclasses.asdict(rule),
        }


def _check_layer_arguments(kwargs: Mapping[str, Any]) -> None:
    """Raises ConfigError for an argument that neither we nor Keras's models know."""
    known = [*argument_names(ByteLatentTransformer), "name", "dtype", "trainable"]
    check_keys("ByteLatentTransformer", kwargs, known)


def _complete_attention(
    config: str | Mapping[str, Any], dim: int, *, is_local: bool = False
) -> dict[str, Any]:
    kind, arguments = split_type(config, "sliding_window" if is_local else "group_query")
    defaults: dict[str, Any] = {"num_heads": max(1, dim // _HEAD_DIM)}
    if is_local:
        defaults["window"] = DEFAULT_WINDOW
    return {"type": kind, **defaults, **arguments}


def _complete_cross_attention(
    config: Mapping[str, Any] | None, local_attention: Mapping[str, Any]
) -> dict[str, Any]:
    config = dict(config or {})
    check_keys("cross_attention_config", config, _CROSS_ATTENTION_DEFAULTS)
    config = {**_CROSS_ATTENTION_DEFAULTS, **config}
    if (config["encoder_layers"] == "none") != (config["decoder_layers"] == "none"):
        raise ConfigError(
            "cross_attention_config: encoder_layers and decoder_layers must be 'none' together."
        )
    config["num_heads"] = config["num_heads"] or local_attention["num_heads"]
    config["decoder_num_heads"] = config["decoder_num_heads"] or config["num_heads"]
    return config


def _num_slices(
    given: int | None, local_dim: int, global_dim: int, cross_attention: Mapping[str, Any]
) -> int:
    if cross_attention["encoder_layers"] == "none":
        return 1
    return given or math.ceil(global_dim / local_dim)


def _until_padding(tokens: Any) -> Any:
    """[batch, num_tokens] int32: 1 up to the last token that is not PAD, 0 after it."""
    from_here = ops.flip(ops.cumsum(ops.flip(ops.cast(tokens != PAD_ID, "int32"), 1), axis=1), 1)
    return ops.cast(from_here > 0, "int32")


def create_blt(preset: str, **changes: Any) -> ByteLatentTransformer:
    """Makes an untrained BLT.

    Args:
      preset: a key of `BLT_PRESETS`.
      **changes: arguments of `ByteLatentTransformer` that differ from the preset.

    Raises:
      UserError: there is no such preset.
    """
    check_preset(preset, BLT_PRESETS)
    return ByteLatentTransformer(**{**BLT_PRESETS[preset], **changes})


def load_blt(place: PlaceLike) -> ByteLatentTransformer:
    """Reads a BLT; raises UserError as `load_model_file` does."""
    return load_model_file(place, ByteLatentTransformer)
