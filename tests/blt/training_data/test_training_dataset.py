import numpy as np
import pytest

from blt.formats.training_shard import PackedSequence, TrainingShardWriter
from blt.training_data.training_dataset import training_dataset


def write(path, sequences):
    writer = TrainingShardWriter(path, name=path.name)
    for tokens, patch_lengths, segment_ids in sequences:
        arrays = (np.array(values) for values in (tokens, patch_lengths, segment_ids))
        writer.write(PackedSequence(*arrays, doc_ids=("d",) * max(segment_ids)))
    writer.close(1)
    return path


def batches(path, **options):
    dataset = training_dataset([path], batch_size=2, seq_len=8, max_patches=4, **options)
    return dataset.as_numpy_iterator()


def test_rows_are_padded_and_targets_stay_inside_documents(tmp_path):
    path = write(
        tmp_path / "t",
        [
            ([1, 70, 71, 2, 1, 80, 2], [1, 3, 3], [1, 1, 1, 1, 2, 2, 2]),
            ([1, 90, 91], [1, 2], [1, 1, 1]),
            ([1, 2], [1, 1], [1, 1]),
        ],
    )
    (inputs, targets), (last_inputs, last_targets) = batches(path)
    assert inputs["tokens"].tolist() == [[1, 70, 71, 2, 1, 80, 2, 0], [1, 90, 91, 0, 0, 0, 0, 0]]
    assert inputs["patch_lengths"].tolist() == [[1, 3, 3, 0], [1, 2, 0, 0]]
    assert inputs["segment_ids"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    # EOS is a target; the BOS of the next document and padding are not.
    assert targets.tolist() == [[70, 71, 2, 0, 80, 2, 0, 0], [90, 91, 0, 0, 0, 0, 0, 0]]
    assert {values.dtype for values in [*inputs.values(), targets]} == {np.dtype("int32")}
    assert last_inputs["tokens"].tolist() == [[1, 2] + [0] * 6, [0] * 8]
    assert last_targets.tolist() == [[2] + [0] * 7, [0] * 8]


def test_shuffling_follows_the_seed_and_keeps_every_sequence(tmp_path):
    path = write(tmp_path / "t", [([1, 10 + i], [1, 1], [1, 1]) for i in range(50)])

    def order(seed):
        return [
            int(row[1])
            for inputs, _ in batches(path, shuffle_seed=seed)
            for row in inputs["tokens"]
        ]

    assert order(3) == order(3) != order(4)
    assert sorted(order(3)) == list(range(10, 60))


def test_repeated_data_runs_on_over_epochs(tmp_path):
    path = write(tmp_path / "t", [([1, 10 + i], [1, 1], [1, 1]) for i in range(3)])
    stream = batches(path, repeat=True)
    rows = [int(row[1]) for _ in range(3) for row in next(stream)[0]["tokens"]]
    assert rows == [10, 11, 12, 10, 11, 12]


def test_a_sequence_over_the_budget_is_an_error(tmp_path):
    path = write(tmp_path / "t", [([1] + [9] * 8, [1, 8], [1] * 9)])
    with pytest.raises(Exception, match="tokens: longer than it was said to be packed"):
        list(batches(path))
