"""The entropy model: a small byte language model that says how hard the next byte is to guess.

Embedding -> transformer layers with a sliding window -> norm -> 260 logits (Byte Latent
Transformer, arXiv 2412.09871, sections 2.3 and 4.2). We add hashed n-grams to the embedding, which
the paper gives to its BLT alone: they let a model that trains for a minute on a CPU learn words.

It runs in two ways that give the same numbers: over whole rows (`call`), and over rows that go on
where the last ones ended (`stream`), with the keys and values of the window carried along.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers import ByteEmbedding, create_normalization_layer, make_block_mask
from blt.layers.attention import choose_block_size, num_past_tokens
from blt.layers.embedding import check_tie, create_output_layer
from blt.layers.feed_forward import DEFAULT_EXPANSION, ffn_hidden_dim
from blt.layers.normalization import DEFAULT_NORMALIZATION
from blt.layers.transformer import create_transformer_layers
from blt.model.language_model import ByteLanguageModel
from blt.tokenizer import VOCAB_SIZE

_NO_SEGMENT = -1  # before a stream begins; no token has it


@keras.saving.register_keras_serializable(package="blt")
class EntropyModel(ByteLanguageModel):
    """A causal byte language model with a sliding window.

    Args:
      vocab_size: ids it knows.
      dim: width.
      num_layers: transformer layers.
      num_heads: query heads.
      num_kv_heads: key and value heads; None for as many as query heads.
      head_dim: width of a head; None for dim / num_heads.
      hidden_dim: width of the feed-forward network; None for 8/3 of `dim`, rounded up to 64.
      window: tokens that attention sees, the current one included.
      rope_theta: base of the rotary positions.
      normalization_type: see `create_normalization_layer`.
      ngram_sizes: sizes of the hashed n-grams; none by default.
      ngram_table_size: rows for each size of n-gram.
      tied_embeddings: None: the logits have a matrix of their own. "embedding", "output" or "both":
        they have that of the byte embedding, and a checkpoint holds it by that name, or by both.

    Call:
      tokens: [batch, num_tokens] integers; or these inputs together, as `fit` and `predict` pass
        them: a dict by name, or a list or tuple in order.
      segment_ids: [batch, num_tokens] integers, equal where tokens belong to one document;
        documents do not see one another. None: each row is one document.

    Returns:
      [batch, num_tokens, vocab_size] float32 logits. Entry i predicts token i + 1.
    """

    def __init__(
        self,
        *,
        vocab_size: int = VOCAB_SIZE,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        hidden_dim: int | None = None,
        window: int = 512,
        rope_theta: float = 10_000.0,
        normalization_type: str | Mapping[str, Any] = DEFAULT_NORMALIZATION,
        ngram_sizes: Sequence[int] = (),
        ngram_table_size: int = 0,
        tied_embeddings: str | None = None,
        **kwargs: Any,
    ) -> None:
        # A name of its own: Keras would count the models made in this process into it.
        kwargs.setdefault("name", "entropy_model")
        super().__init__(**kwargs)
        check_tie(tied_embeddings)
        if window < 1:
            raise ConfigError(f"window must be at least 1, got {window}.")
        self.vocab_size = vocab_size
        self.dim = dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.hidden_dim = hidden_dim or ffn_hidden_dim(dim, DEFAULT_EXPANSION)
        self.window = window
        self.rope_theta = rope_theta
        self.normalization_type = normalization_type
        self.ngram_sizes = tuple(ngram_sizes)
        self.ngram_table_size = ngram_table_size
        self.tied_embeddings = tied_embeddings
        self.block_size = choose_block_size(window)

        policy = self.dtype_policy
        self.embedding = ByteEmbedding(
            vocab_size,
            dim,
            ngram_sizes=self.ngram_sizes,
            ngram_table_size=ngram_table_size,
            name="embedding",
            dtype=policy,
        )
        self.transformer_layers = create_transformer_layers(
            num_layers,
            attention_config={
                "type": "sliding_window",
                "num_heads": num_heads,
                "num_kv_heads": num_kv_heads,
                "head_dim": head_dim,
                "window": window,
                "rope_theta": rope_theta,
            },
            ffn_config={"type": "swiglu", "hidden_dim": self.hidden_dim},
            normalization_type=normalization_type,
            dtype=policy,
        )
        self.norm = create_normalization_layer(normalization_type, name="norm", dtype=policy)
        self.output_layer = create_output_layer(vocab_size, is_tied=tied_embeddings is not None)
        self.build((None, self.block_size))

    def build(self, input_shape: Any) -> None:
        if self.built:  # by the constructor
            return
        hidden = (None, None, self.dim)
        self.embedding.build(input_shape)
        for layer in self.transformer_layers:
            layer.build(hidden)
        self.norm.build(hidden)
        self.output_layer.build(hidden)

    def call(self, tokens: Any, segment_ids: Any = None) -> Any:
        tokens, segment_ids = self.take_inputs(tokens, segment_ids)
        num_tokens = tokens.shape[1]
        tokens = ops.cast(tokens, "int32")
        segment_ids = ops.ones_like(tokens) if segment_ids is None else segment_ids
        segment_ids = ops.cast(segment_ids, "int32")
        padding = -num_tokens % self.block_size
        if padding:
            tokens = ops.pad(tokens, [[0, 0], [0, padding]])
            segment_ids = ops.pad(segment_ids, [[0, 0], [0, padding]])
        block_mask = make_block_mask(segment_ids, window=self.window, block_size=self.block_size)
        x = self.embedding(tokens, segment_ids)
        for layer in self.transformer_layers:
            x = layer(x, block_mask)
        return self._logits(x[:, :num_tokens])

    def _logits(self, x: Any) -> Any:
        tied = {} if self.tied_embeddings is None else {"embedding": self.embedding}
        return self.output_layer(self.norm(x), **tied)

    @property
    def num_past(self) -> int:
        """Tokens before a row whose keys and values `stream` carries: whole blocks."""
        return num_past_tokens(self.window, self.block_size)

    @property
    def _num_ngram_past(self) -> int:
        return max(self.ngram_sizes, default=1) - 1

    def initial_state(self, batch: int) -> dict[str, Any]:
        """Returns the state of `batch` streams in which nothing was seen yet.

        A dict of tensors: `tokens` and `segment_ids` [batch, num_kept] int32, the last ones seen,
        and `past`, a (keys, values) pair for each layer.
        """
        num_kept = max(self.num_past, self._num_ngram_past)
        return {
            "tokens": ops.zeros((batch, num_kept), "int32"),
            "segment_ids": ops.full((batch, num_kept), _NO_SEGMENT, "int32"),
            "past": [
                layer.attention.initial_past(batch, self.num_past)
                for layer in self.transformer_layers
            ],
        }

    def stream(self, tokens: Any, segment_ids: Any, state: dict[str, Any]) -> tuple[Any, Any]:
        """Goes on with rows where the rows before them ended.

        Cutting a row anywhere, at multiples of `block_size`, and streaming its pieces gives what
        `call` gives on the whole row.

        Args:
          tokens: [batch, num_tokens] int32, num_tokens a multiple of `block_size`, or 1.
          segment_ids: [batch, num_tokens] int32, not negative. A document keeps its id from row to
            row; another document within reach of the window has another.
          state: from `initial_state` or the call before.

        Returns:
          [batch, num_tokens, vocab_size] float32 logits, and the state for the rows that follow.
        """
        num_tokens = tokens.shape[1]
        all_tokens = ops.concatenate([state["tokens"], tokens], axis=1)
        all_segments = ops.concatenate([state["segment_ids"], segment_ids], axis=1)
        num_kept = all_tokens.shape[1] - num_tokens
        past_segment_ids = state["segment_ids"][:, num_kept - self.num_past :]
        block_mask = make_block_mask(
            segment_ids,
            window=self.window,
            block_size=min(num_tokens, self.block_size),
            past_segment_ids=past_segment_ids,
        )
        start = num_kept - self._num_ngram_past
        x = self.embedding(all_tokens[:, start:], all_segments[:, start:])
        x = x[:, self._num_ngram_past :]
        new_past = []
        for layer, past in zip(self.transformer_layers, state["past"], strict=True):
            x, past = layer(x, block_mask, past=past)
            new_past.append(past)
        new_state = {
            "tokens": all_tokens[:, num_tokens:],
            "segment_ids": all_segments[:, num_tokens:],
            "past": new_past,
        }
        return self._logits(x), new_state

    def compute_entropy(self, logits: Any) -> Any:
        """Returns the entropy of each prediction.

        Args:
          logits: [..., vocab_size], as `call` gives them.

        Returns:
          [...] float32, nats. Entry i is the uncertainty about token i + 1.

        Raises:
          ConfigError (a ValueError): these are no logits: integers, or their last axis is not the
            vocabulary.
        """
        if not hasattr(logits, "dtype"):
            logits = ops.convert_to_tensor(logits)
        shape, dtype = tuple(logits.shape), keras.backend.standardize_dtype(logits.dtype)
        if not dtype.startswith(("float", "bfloat")) or shape[-1:] != (self.vocab_size,):
            raise ConfigError(
                f"logits of shape [..., {self.vocab_size}] are needed, as the model's call gives "
                f"them; got {dtype} of shape {shape}. For ids: model.compute_entropy(model(ids))."
            )
        return entropy_nats(logits)

    def get_config(self) -> dict[str, Any]:
        # Only what is said, so that models from before the option keep their fingerprints.
        tied = {"tied_embeddings": self.tied_embeddings} if self.tied_embeddings else {}
        return {
            **super().get_config(),
            **tied,
            "vocab_size": self.vocab_size,
            "dim": self.dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_dim": self.hidden_dim,
            "window": self.window,
            "rope_theta": self.rope_theta,
            "normalization_type": self.normalization_type,
            "ngram_sizes": list(self.ngram_sizes),
            "ngram_table_size": self.ngram_table_size,
        }


def entropy_nats(logits: Any) -> Any:
    """Returns `-sum_v p(v) ln p(v)` over the last axis of logits, float32, never negative."""
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    entropy = -ops.sum(ops.exp(log_probabilities) * log_probabilities, axis=-1)
    return ops.maximum(entropy, 0.0)
