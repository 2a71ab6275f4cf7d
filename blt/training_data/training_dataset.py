"""Batches of one shape from training shards, read by TensorFlow's own readers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from blt.dataset.shard_feed import NUM_AHEAD, ShardFeed
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
    return _dataset(
        [str(path) for path in paths],
        _read_files,
        batch_size=batch_size,
        seq_len=seq_len,
        max_patches=max_patches,
        shuffle_seed=shuffle_seed,
        shuffle_sequences=shuffle_sequences,
        repeat=repeat,
    )


def dataset_of_feed(feed: ShardFeed, names: Sequence[str], **options: Any) -> tf.data.Dataset:
    """Makes what `training_dataset` makes of shards that may lie in a store, in the same order.

    Args:
      feed: of the dataset; must not be closed while it is read. An error of it is raised when it
        is closed.
      names: of the shards.
      **options: as those of `training_dataset`.
    """
    if feed.is_local:
        return training_dataset([feed.path(name) for name in names], **options)

    def request(name: bytes) -> bytes:
        feed.request(name.decode())
        return name

    def path(name: bytes) -> bytes:
        return str(feed.path(name.decode())).encode()

    def read(names: tf.data.Dataset) -> tf.data.Dataset:
        # TensorFlow shuffles the names, so that their order is known here as it goes on alone.
        asked_for = names.map(lambda name: _call(request, name)).prefetch(NUM_AHEAD)
        return asked_for.flat_map(lambda name: _read_records(_call(path, name)))

    return _dataset(list(names), read, **options)


def _call(function: Callable[[bytes], bytes], name: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.numpy_function(function, [name], tf.string), [])


def _read_files(names: tf.data.Dataset) -> tf.data.Dataset:
    return names.flat_map(_read_records)


def _read_records(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES)


def _dataset(
    files: Sequence[str],
    read: Callable[[tf.data.Dataset], tf.data.Dataset],
    *,
    batch_size: int,
    seq_len: int,
    max_patches: int,
    shuffle_seed: int | None = None,
    shuffle_sequences: int = 8192,
    repeat: bool = False,
) -> tf.data.Dataset:
    """Makes the dataset of `training_dataset`, whose files `read` turns into records."""
    names = tf.data.Dataset.from_tensor_slices(files)
    if shuffle_seed is not None:
        names = names.shuffle(len(files), seed=shuffle_seed)
    dataset = read(names)
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
