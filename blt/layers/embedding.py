"""Byte embeddings with hashed n-grams (Byte Latent Transformer, section 3.2.1).

The vector of a byte is its own embedding plus, for each n, the embedding of the hash of the n ids
that end at it. Ids of other documents, and those before the row, count as 0.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from blt.errors import ConfigError
from blt.layers.slots import take_rows

# The ten-digit primes of the published checkpoints' hash functions, in their order.
HASH_PRIMES = (
    1000000007, 5915587277, 1500450271, 3267000013, 5754853343, 4093082899,
    9576890767, 3628273133, 2860486313, 5463458053, 3367900313,
)  # fmt: skip

# Names under which a checkpoint holds the one matrix of embedding and logits, where they are tied.
TIES = ("embedding", "output", "both")

_LIMB_BITS = 16
_NUM_LIMBS = 4


def hash_ngrams(shifted: Sequence[Any], prime: int, table_size: int) -> Any:
    """Hashes n ids to a row of a table, exactly as 64-bit two's complement arithmetic does.

    The hash is `sum_i ids[i] * prime ** i` modulo 2**64, read as a signed number, modulo the table
    size (never negative). Backends without 64-bit integers get the same rows: the sum is kept in
    four limbs of 16 bits.

    Args:
      shifted: n int32 tensors of one shape, oldest id first; ids are below 2**9.
      prime: of the hash function.
      table_size: rows in the table, at most 2**22.

    Returns:
      int32 tensor of the same shape, in [0, table_size).
    """
    limbs = [0] * _NUM_LIMBS
    for i, ids in enumerate(shifted):
        power = pow(prime, i, 2**64)
        for limb in range(_NUM_LIMBS):
            digit = (power >> (_LIMB_BITS * limb)) & 0xFFFF
            limbs[limb] = limbs[limb] + ids * digit  # below 2**9 * 2**16 * n: fits int32
    carry = 0
    for limb in range(_NUM_LIMBS):
        total = limbs[limb] + carry
        limbs[limb] = ops.bitwise_and(total, 0xFFFF)
        carry = ops.right_shift(total, _LIMB_BITS)
    negative = ops.right_shift(limbs[-1], _LIMB_BITS - 1)
    row = ops.zeros_like(limbs[0])
    for limb in reversed(limbs):  # Horner's rule, a byte at a time so that int32 holds it
        for byte in (ops.right_shift(limb, 8), ops.bitwise_and(limb, 0xFF)):
            row = ops.mod(row * 256 + byte, table_size)
    return ops.mod(row - negative * (2**64 % table_size), table_size)


def previous_ids(tokens: Any, segment_ids: Any, distance: int) -> Any:
    """Returns the id `distance` places before each token, 0 where that is another document.

    tokens and segment_ids are [batch, num_tokens] int32; so is the result.
    """
    if distance == 0:
        return tokens
    before = ops.pad(tokens, [[0, 0], [distance, 0]])[:, : tokens.shape[1]]
    segments = ops.pad(segment_ids, [[0, 0], [distance, 0]], constant_values=-1)
    return ops.where(ops.equal(segments[:, : tokens.shape[1]], segment_ids), before, 0)


@keras.saving.register_keras_serializable(package="blt")
class ByteEmbedding(keras.layers.Layer):
    """Embeds ids, with hashed n-grams if any are asked for.

    Call: tokens and segment_ids [batch, num_tokens] int32 -> [batch, num_tokens, dim].
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        ngram_sizes: Sequence[int] = (),
        ngram_table_size: int = 0,
        num_hash_functions: int = 1,
        initializer_stddev: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.dim = dim
        self.ngram_sizes = tuple(ngram_sizes)
        self.ngram_table_size = ngram_table_size
        self.num_hash_functions = num_hash_functions
        self.initializer_stddev = initializer_stddev
        if self.ngram_sizes and not 0 < ngram_table_size <= 2**22:
            raise ValueError(f"ngram_table_size must be in [1, 2**22], got {ngram_table_size}.")
        if not 1 <= num_hash_functions <= len(HASH_PRIMES):
            raise ValueError(f"num_hash_functions must be in [1, {len(HASH_PRIMES)}].")

    def _add_table(self, name: str, rows: int) -> Any:
        initializer = keras.initializers.RandomNormal(stddev=self.initializer_stddev)
        return self.add_weight(shape=(rows, self.dim), initializer=initializer, name=name)

    def build(self, input_shape: Any) -> None:
        self.byte_table = self._add_table("byte_table", self.vocab_size)
        # One table holds all n-grams: rows [i * size, (i + 1) * size) are those of table i, where
        # the hash function is the outer loop and the n-gram size the inner one.
        self.num_tables = self.num_hash_functions * len(self.ngram_sizes)
        if self.num_tables:
            self.ngram_table = self._add_table(
                "ngram_table", self.num_tables * self.ngram_table_size
            )

    def call(self, tokens: Any, segment_ids: Any) -> Any:
        x = take_rows(self.byte_table, tokens)
        if self.num_tables:
            rows = self.ngram_rows(tokens, segment_ids)
            x = x + ops.sum(ops.take(self.ngram_table, rows, axis=0), axis=-2)
        return ops.cast(x, self.compute_dtype)

    def ngram_rows(self, tokens: Any, segment_ids: Any) -> Any:
        """Returns the row of the one n-gram table for each token and table.

        [batch, num_tokens, num_tables] int32.
        """
        tokens, segment_ids = ops.cast(tokens, "int32"), ops.cast(segment_ids, "int32")
        before = [previous_ids(tokens, segment_ids, i) for i in range(max(self.ngram_sizes))]
        rows = []
        for prime in HASH_PRIMES[: self.num_hash_functions]:
            for size in self.ngram_sizes:
                row = hash_ngrams(before[:size][::-1], prime, self.ngram_table_size)
                rows.append(row + len(rows) * self.ngram_table_size)
        return ops.stack(rows, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape, self.dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "dim": self.dim,
            "ngram_sizes": list(self.ngram_sizes),
            "ngram_table_size": self.ngram_table_size,
            "num_hash_functions": self.num_hash_functions,
            "initializer_stddev": self.initializer_stddev,
        }


@keras.saving.register_keras_serializable(package="blt")
class TiedOutput(keras.layers.Layer):
    """Logits by the table of a `ByteEmbedding`; it has no weight of its own.

    Args:
      vocab_size: rows of that table.

    Call: x [..., dim], and the embedding -> [..., vocab_size], in the type of this layer.
    """

    def __init__(self, vocab_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size

    def call(self, x: Any, embedding: ByteEmbedding) -> Any:
        return ops.matmul(x, ops.transpose(embedding.byte_table))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.vocab_size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "vocab_size": self.vocab_size}


def create_output_layer(vocab_size: int, *, is_tied: bool) -> keras.layers.Layer:
    """Makes the layer of a model's float32 logits; without weights if they are the embedding's."""
    if is_tied:
        return TiedOutput(vocab_size, name="output", dtype="float32")
    return keras.layers.Dense(vocab_size, use_bias=False, name="output", dtype="float32")


def check_tie(tied_embeddings: str | None) -> None:
    """Raises ConfigError unless this says how a checkpoint calls one matrix, or is None."""
    if tied_embeddings not in (None, *TIES):
        raise ConfigError(
            f"tied_embeddings {tied_embeddings!r}: not one of None, {', '.join(map(repr, TIES))}."
        )
