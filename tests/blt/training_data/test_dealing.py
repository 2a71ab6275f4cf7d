"""Documents dealt into buckets and read from them: none lost, in order, however memory is cut."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blt.dataset.joining import PatchedDocument
from blt.dataset.several import NumberedShard
from blt.dataset.units import ShardInfo
from blt.errors import WorkError
from blt.tokenizer import frame_tokens
from blt.training_data import dealing
from blt.training_data.dealing import Bucket, make_groups
from blt.training_data.packing import bucket_of

SIZES = st.lists(st.sampled_from([1, 3, 255, 256, 65535, 65536]), min_size=1, max_size=3)
DOCUMENTS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.text(max_size=5), SIZES), max_size=12)


def make_document(index, doc_id, sizes):
    tokens = frame_tokens(bytes(i % 251 for i in range(max(0, sum(sizes) - 2))))
    lengths = np.array(sizes, np.int32)
    lengths[-1] += len(tokens) - sum(sizes)
    return PatchedDocument(index, doc_id, tokens, lengths)


def deal(folder, documents, num_buckets, number=0):
    """Deals (key, document) into a file; returns it."""
    runs = dealing._Runs(io.BytesIO(), num_buckets)
    for key, document in documents:
        runs.add(bucket_of(key, num_buckets), key, number, document)
    runs.end_run()
    path = folder / f"{number}.documents"
    with open(path, "wb") as file:
        runs.write(file)
    return path


@pytest.mark.parametrize("run_bytes", [1, 70_000, 1 << 30])
@given(groups=st.lists(DOCUMENTS, min_size=1, max_size=3), num_buckets=st.integers(1, 4))
def test_each_document_comes_once_in_its_bucket_in_the_order_of_keys(
    run_bytes, groups, num_buckets, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("dealt")
    expected = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dealing, "_RUN_BYTES", run_bytes)
        files = []
        for number, group in enumerate(groups):
            documents = [(key, make_document(i, *of)) for i, (key, *of) in enumerate(group)]
            files.append(deal(folder, documents, num_buckets, number))
            expected += [(key, number, document) for key, document in documents]
    expected.sort(key=lambda one: (*one[:2], one[2].index))
    for bucket in range(num_buckets):
        wanted = [one[2] for one in expected if bucket_of(one[0], num_buckets) == bucket]
        found = Bucket(files, bucket)
        assert len(found) == len(wanted)
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours.index, ours.doc_id) == (theirs.index, theirs.doc_id)
            np.testing.assert_array_equal(ours.tokens, theirs.tokens)
            np.testing.assert_array_equal(ours.patch_lengths, theirs.patch_lengths)
            assert ours.patch_lengths.dtype == np.int32


@given(sizes=st.lists(st.integers(0, 100), max_size=30), target=st.integers(1, 200))
def test_groups_are_all_shards_in_order_and_no_more_than_buckets(sizes, target):
    num_buckets = max(1, -(-sum(sizes) // target))
    infos = [ShardInfo(name="s", documents=1, bytes=n, tokens=n, sha256="") for n in sizes]
    shards = [NumberedShard(info, 0, "s") for info in infos]
    groups = make_groups([(shard, shard) for shard in shards], num_buckets)
    assert [number for group in groups for number in group] == list(range(len(sizes)))
    assert len(groups) <= num_buckets
    assert all(groups)


@pytest.mark.parametrize("damage", ["cut", "altered", "altered text"])
def test_a_damaged_file_is_named(tmp_path, damage):
    documents = [(0, make_document(0, "a", [3, 4])), (0, make_document(1, "b", [5]))]
    file = deal(tmp_path, documents, 1)
    data = bytearray(file.read_bytes())
    first = len(dealing._MAGIC) + 16
    if damage == "cut":
        del data[-3:]
    else:
        data[first + 16 if damage == "altered" else -1] ^= 1  # the size of the first id
    file.write_bytes(data)
    with pytest.raises(WorkError, match=r"0\.documents: is damaged"):
        list(Bucket([file], 0))


def test_scratch_without_room_is_named_with_what_to_do():
    with open("/dev/full", "wb", buffering=0) as full:
        runs = dealing._Runs(full, 1)
        runs.add(0, 0, 0, make_document(0, "a", [3]))
        with pytest.raises(WorkError, match=r"/dev/full: .*No space left.*TMPDIR"):
            runs.end_run()
