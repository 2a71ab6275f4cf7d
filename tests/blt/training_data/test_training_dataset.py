import itertools

import numpy as np
import pytest

from blt.dataset import storage
from blt.dataset.manifest import write_manifest
from blt.dataset.shard_feed import ShardFeed
from blt.dataset.storage import as_place, sha256_file
from blt.dataset.units import ShardInfo
from blt.errors import UserError
from blt.formats.training_shard import PackedSequence, TrainingShardWriter
from blt.training_data.training_dataset import dataset_of_feed, training_dataset


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


def test_shards_of_a_store_give_the_same_batches_epoch_after_epoch(bucket, tmp_path):
    shards = []
    for number in range(11):  # more than are kept here
        path = tmp_path / f"train-{number:05d}.tfrecord"
        write(path, [([1, 70 + number, 80 + i, 2], [1, 3], [1] * 4) for i in range(5)])
        counts = {"documents": 5, "bytes": 10, "tokens": 20}
        shards.append(ShardInfo(name=path.name, sha256=sha256_file(path), **counts))
        storage.replace(f"{bucket.url}/train/{path.name}", path.read_bytes())
    described = {"kind": "training_shards", "config": {}, "fingerprints": {}, "parents": {}}
    folder = as_place(f"{bucket.url}/train")
    data = write_manifest(folder, totals={}, shards=shards, **described)
    options = {"batch_size": 2, "seq_len": 8, "max_patches": 4}
    shuffled = {"shuffle_seed": 3, "shuffle_sequences": 9, "repeat": True}
    for given, num_batches in (({}, 28), (shuffled, 150)):  # 28 are an epoch
        with ShardFeed(data) as feed:
            here = training_dataset([tmp_path / shard.name for shard in shards], **options, **given)
            there = dataset_of_feed(feed, feed.names, **options, **given)
            pairs = zip(here.as_numpy_iterator(), there.as_numpy_iterator(), strict=False)
            count = 0
            for expected, found in itertools.islice(pairs, num_batches):
                count += 1
                for name in expected[0]:
                    np.testing.assert_array_equal(found[0][name], expected[0][name])
                np.testing.assert_array_equal(found[1], expected[1])
            assert count == num_batches
            assert feed.num_fetched >= len(shards)


def test_a_shard_that_was_changed_in_a_store_ends_the_training_by_its_name(gcs_bucket, tmp_path):
    path = write(tmp_path / "train-00000.tfrecord", [([1, 70, 2], [1, 2], [1] * 3)])
    counts = {"documents": 1, "bytes": 1, "tokens": 3}
    shard = ShardInfo(name=path.name, sha256=sha256_file(path), **counts)
    folder = as_place(f"{gcs_bucket.url}/train")
    storage.replace(folder / shard.name, path.read_bytes() + b"x")
    described = {"kind": "training_shards", "config": {}, "fingerprints": {}, "parents": {}}
    data = write_manifest(folder, totals={}, shards=[shard], **described)

    def read():
        with ShardFeed(data) as feed:
            list(dataset_of_feed(feed, feed.names, batch_size=2, seq_len=8, max_patches=4))

    with pytest.raises(UserError, match="its sha256 is not the manifest's") as error:
        read()
    assert str(error.value).startswith(f"{folder / shard.name}: ")
