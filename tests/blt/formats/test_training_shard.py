import numpy as np
import pytest

from blt.dataset.storage import sha256_file
from blt.errors import WorkError
from blt.formats.example import encode_example
from blt.formats.tfrecord import TFRecordWriter
from blt.formats.training_shard import (
    PackedSequence,
    TrainingShardWriter,
    read_training_shard,
    training_shard_name,
)


def test_sequences_come_back_and_are_counted(tmp_path):
    path = tmp_path / "temporary"
    sequence = PackedSequence(
        tokens=np.array([1, 259, 2, 1, 4], np.uint16),
        patch_lengths=np.array([1, 2, 2], np.int32),
        segment_ids=np.array([1, 1, 1, 2, 2], np.int32),
        doc_ids=("a/ü", ""),
    )
    writer = TrainingShardWriter(path, name=training_shard_name("valid", 12))
    writer.write(sequence)
    info = writer.close(num_documents=2)
    assert (info.name, info.documents, info.bytes, info.tokens, info.sha256) == (
        "valid-00012.tfrecord",
        2,
        2,
        5,
        sha256_file(path),
    )
    (back,) = read_training_shard(path)
    assert back.doc_ids == sequence.doc_ids
    for name in ("tokens", "patch_lengths", "segment_ids"):
        ours, theirs = getattr(sequence, name), getattr(back, name)
        assert ours.tolist() == theirs.tolist()
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize(
    "features", [{"tokens": np.array([1])}, {"tokens": [b"x"], "patch_lengths": [b""]}]
)
def test_other_records_are_refused_by_name(tmp_path, features):
    path = tmp_path / "other.tfrecord"
    writer = TFRecordWriter(path)
    writer.write(encode_example(features))
    writer.close()
    with pytest.raises(WorkError, match=r"other.tfrecord: record 0 is not a training sequence"):
        list(read_training_shard(path))
