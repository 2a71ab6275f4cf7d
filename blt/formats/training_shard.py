"""Training shards: packed sequences, `train-00003.tfrecord` and `valid-00003.tfrecord`.

One record is one `tf.train.Example`, a sequence that a BLT is trained on:

    tokens         int64  num_tokens    ids 0..259
    patch_lengths  int64  num_patches   sums to num_tokens
    segment_ids    int64  num_tokens    which of the documents below, from 1
    doc_ids        bytes  num_documents UTF-8

A document that does not fit goes on in the next record.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blt.dataset.storage import PlaceLike
from blt.dataset.units import ShardInfo
from blt.errors import WorkError
from blt.formats.example import ExampleError, encode_example, parse_example
from blt.formats.tfrecord import TFRecordWriter, read_tfrecords
from blt.tokenizer import BYTE_OFFSET

SPLITS = ("train", "valid")


@dataclasses.dataclass(frozen=True, slots=True)
class PackedSequence:
    """One training sequence.

    Attributes:
      tokens: [num_tokens] uint16, at most seq_len.
      patch_lengths: [num_patches] int32, at most max_patches; sums to num_tokens.
      segment_ids: [num_tokens] int32; which of the sequence's documents, from 1.
      doc_ids: of segments 1, 2, ….
    """

    tokens: np.ndarray
    patch_lengths: np.ndarray
    segment_ids: np.ndarray
    doc_ids: tuple[str, ...]


def training_shard_name(split: str, bucket: int) -> str:
    """Returns the name of a shard.

    >>> training_shard_name("train", 3)
    'train-00003.tfrecord'
    """
    return f"{split}-{bucket:05d}.tfrecord"


class TrainingShardWriter:
    """Writes one training shard; to be used inside `blt.dataset.storage.atomic_path`.

    Args:
      path: the file to make.
      name: the shard's name in its `ShardInfo`.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._name = name
        self._writer = TFRecordWriter(path)
        self.num_sequences = self.num_patches = self.num_tokens = self.num_bytes = 0

    def write(self, sequence: PackedSequence) -> None:
        features = {
            "tokens": sequence.tokens,
            "patch_lengths": sequence.patch_lengths,
            "segment_ids": sequence.segment_ids,
            "doc_ids": [doc_id.encode("utf-8") for doc_id in sequence.doc_ids],
        }
        self._writer.write(encode_example(features))
        self.num_sequences += 1
        self.num_patches += len(sequence.patch_lengths)
        self.num_tokens += len(sequence.tokens)
        self.num_bytes += int(np.count_nonzero(sequence.tokens >= BYTE_OFFSET))

    def close(self, num_documents: int) -> ShardInfo:
        """Ends the file; a document that goes on in another record is one document."""
        return ShardInfo(
            name=self._name,
            documents=num_documents,
            bytes=self.num_bytes,
            tokens=self.num_tokens,
            sha256=self._writer.close(),
        )


def read_training_shard(path: PlaceLike) -> Iterator[PackedSequence]:
    """Yields the sequences of a training shard.

    Raises:
      WorkError: the file is cut short, altered, or not a training shard; names file and record.
    """
    for index, data in enumerate(read_tfrecords(path)):
        try:
            features = parse_example(data)
            numbers = [features[name] for name in ("tokens", "patch_lengths", "segment_ids")]
            if not all(isinstance(values, np.ndarray) for values in numbers):
                raise ExampleError("a list of numbers is not one")
            yield PackedSequence(
                tokens=numbers[0].astype(np.uint16),
                patch_lengths=numbers[1].astype(np.int32),
                segment_ids=numbers[2].astype(np.int32),
                doc_ids=tuple(str(doc_id, "utf-8") for doc_id in features["doc_ids"]),
            )
        except (ExampleError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise WorkError(
                f"{path}: record {index} is not a training sequence ({error}). "
                "Give a shard that `blt pack` wrote."
            ) from error
