"""Batches of one shape from training shards, read by TensorFlow's own readers."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from blt.tokenizer import PAD_ID

_INT64_LIST = tf.io.RaggedFeature(tf.int64)
_FEATURES = dict.fromkeys(("tokens", "patch_lengths", "segment_ids"), _INT64_LIST)
_READ_BYTES = 1 << 20


def training_dataset(
    paths: Sequence[Path],
    *,
    batch_size: int,
    seq_len: int,
    max_patches: int,
    shuffle_seed: int | None = None,
    shuffle_sequences: int = 8192,
    repeat: bool = False,
) -> tf.data.Dataset:
    """Makes the input of a BLT's training.

    Args:
      paths: training shards.
      batch_size: sequences in a batch.
      seq_len, max_patches: the budgets that the shards were packed with, or larger ones.
      shuffle_seed: shuffles shards, and sequences in a buffer, anew in each epoch; the order is
        that of the seed. None: as they lie there.
      shuffle_sequences: in the buffer.
      repeat: go on without end, epochs running into each other; else the last batch is filled with
        empty sequences, so that nothing is left out.

    Returns:
      Pairs (inputs, targets): inputs `tokens` and `segment_ids` [batch, seq_len] and
      `patch_lengths` [batch, max_patches], targets [batch, seq_len], all int32. A target is the
      next token of the same document, or PAD where there is none and nothing is to be learned: at
      the end of a sequence or of a document, and in padding. EOS is a target, BOS never is.
    """
    names = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    if shuffle_seed is not None:
        names = names.shuffle(len(paths), seed=shuffle_seed)
    dataset = names.flat_map(lambda name: tf.data.TFRecordDataset(name, buffer_size=_READ_BYTES))
    if shuffle_seed is not None:
        dataset = dataset.shuffle(shuffle_sequences, seed=shuffle_seed + 1)
    if repeat:
        dataset = dataset.repeat()
    dataset = dataset.batch(batch_size, drop_remainder=repeat)
    return dataset.map(
        lambda records: _parse(records, batch_size, seq_len, max_patches),
        num_parallel_calls=1,
        deterministic=True,
    ).prefetch(2)


def _parse(records: tf.Tensor, batch_size: int, seq_len: int, max_patches: int) -> tuple:
    """Records of a batch -> padded inputs and targets, of one shape."""
    features = tf.io.parse_example(records, _FEATURES)

    def padded(name: str, size: int) -> tf.Tensor:
        longest = tf.cast(features[name].bounding_shape(axis=1), tf.int64)
        tf.debugging.assert_less_equal(
            longest, tf.cast(size, tf.int64), f"{name}: longer than it was said to be packed"
        )
        rows = features[name].to_tensor(0, shape=[None, size])
        rows = tf.pad(tf.cast(rows, tf.int32), [[0, batch_size - tf.shape(rows)[0]], [0, 0]])
        return tf.ensure_shape(rows, [batch_size, size])

    tokens, segment_ids = padded("tokens", seq_len), padded("segment_ids", seq_len)
    following = tf.pad(tokens[:, 1:], [[0, 0], [0, 1]])
    same = tf.pad(segment_ids[:, 1:], [[0, 0], [0, 1]]) == segment_ids
    targets = tf.where(same & (segment_ids > 0), following, PAD_ID)
    inputs = {
        "tokens": tokens,
        "patch_lengths": padded("patch_lengths", max_patches),
        "segment_ids": segment_ids,
    }
    return inputs, targets
