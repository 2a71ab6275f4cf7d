import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.dataset.joining import PatchedDocument
from blt.dataset.splits import is_held_out
from blt.dataset.storage import sha256_file
from blt.errors import UserError
from blt.formats.training_shard import read_training_shard
from blt.tokenizer import frame_tokens
from blt.training_data.packing import (
    PackConfig,
    bucket_of,
    pack_documents,
    shuffle_key,
    write_bucket,
)


def document(doc_id, lengths, index=0):
    tokens = np.arange(sum(lengths), dtype=np.uint16) % 256 + 4
    return PatchedDocument(index, doc_id, tokens, np.array(lengths, np.int32))


def as_lists(sequence):
    return (
        sequence.tokens.tolist(),
        sequence.patch_lengths.tolist(),
        sequence.segment_ids.tolist(),
        sequence.doc_ids,
    )


def test_documents_are_laid_end_to_end_and_go_on_in_the_next_sequence():
    documents = [document("a", [1, 3, 2]), document("b", [1, 2, 4])]
    first, second = pack_documents(documents, seq_len=8, max_patches=4)
    assert as_lists(first) == (
        [4, 5, 6, 7, 8, 9, 4],
        [1, 3, 2, 1],
        [1, 1, 1, 1, 1, 1, 2],
        ("a", "b"),
    )
    assert as_lists(second) == ([5, 6, 7, 8, 9, 10], [2, 4], [1] * 6, ("b",))


def test_only_a_patch_longer_than_a_sequence_is_cut():
    sequences = list(pack_documents([document("a", [1, 9, 2])], seq_len=4, max_patches=9))
    assert [s.patch_lengths.tolist() for s in sequences] == [[1], [4], [4], [1, 2]]


DOCUMENTS = st.lists(
    st.tuples(st.text(max_size=3), st.lists(st.integers(1, 12), max_size=12)), max_size=8
)


@settings(deadline=None)
@given(DOCUMENTS, st.integers(2, 20), st.integers(2, 9))
def test_nothing_is_lost_and_no_budget_is_passed(documents, seq_len, max_patches):
    documents = [document(doc_id, lengths) for doc_id, lengths in documents]
    sequences = list(pack_documents(documents, seq_len=seq_len, max_patches=max_patches))

    pieces = []  # (doc_id, token) in order, as the sequences have them
    for sequence in sequences:
        assert 0 < len(sequence.tokens) <= seq_len
        assert 0 < len(sequence.patch_lengths) <= max_patches
        assert sequence.patch_lengths.min() > 0
        assert sequence.patch_lengths.sum() == len(sequence.tokens) == len(sequence.segment_ids)
        assert sorted(set(sequence.segment_ids)) == list(range(1, len(sequence.doc_ids) + 1))
        owners = [sequence.doc_ids[segment - 1] for segment in sequence.segment_ids]
        pieces += zip(owners, sequence.tokens.tolist(), strict=True)
        # No patch lies in two documents.
        starts = np.cumsum(sequence.patch_lengths) - sequence.patch_lengths
        ends = starts + sequence.patch_lengths - 1
        assert (sequence.segment_ids[starts] == sequence.segment_ids[ends]).all()
    assert pieces == [(d.doc_id, token) for d in documents for token in d.tokens.tolist()]

    if all(d.patch_lengths.max(initial=0) <= seq_len for d in documents):
        found = [length for s in sequences for length in s.patch_lengths.tolist()]
        assert found == [length for d in documents for length in d.patch_lengths.tolist()]


def test_a_bucket_becomes_two_shards_whose_documents_are_those_of_the_split(tmp_path):
    documents = [
        PatchedDocument(i, f"doc-{i}", frame_tokens(b"x" * i), np.ones(i + 2, np.int32))
        for i in range(60)
    ]
    config = PackConfig(seq_len=32, max_patches=32)
    result = write_bucket(documents, tmp_path, bucket=7, config=config)
    assert [shard.name for shard in result.shards] == [
        "train-00007.tfrecord",
        "valid-00007.tfrecord",
    ]
    held_out = {d.doc_id for d in documents if is_held_out(d.doc_id)}
    assert 0 < len(held_out) == result.counts["held_out_documents"] == result.shards[1].documents
    for shard in result.shards:
        found = {i for s in read_training_shard(tmp_path / shard.name) for i in s.doc_ids}
        assert found == ({d.doc_id for d in documents} ^ held_out, held_out)["valid" in shard.name]
        assert shard.sha256 == sha256_file(tmp_path / shard.name)
    assert result.counts["documents"] == 60
    assert result.counts["bytes"] == sum(range(60))
    assert result.counts["tokens"] == result.counts["patches"] == sum(range(60)) + 120


def test_a_bucket_is_the_same_bytes_each_time(tmp_path):
    documents = [document("a", [3, 4]), document("b", [1, 1])]
    config = PackConfig(seq_len=8, max_patches=8, valid_fraction=0.0)
    results = [
        write_bucket(documents, tmp_path / f"{i}", bucket=0, config=config) for i in range(2)
    ]
    assert results[0] == results[1]


def test_the_order_depends_on_seed_shard_and_record():
    keys = {shuffle_key(seed, name, i) for seed in (0, 1) for name in "ab" for i in (0, 1)}
    assert len(keys) == 8
    assert shuffle_key(0, "bytes-00000-000.tfrecord", 5) == 10447078643379846168
    assert bucket_of(23, 10) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 1}, "--seq-len 1: must be at least 2"),
        ({"max_patches": 0}, "--max-patches 0: must be at least 2"),
        ({"valid_fraction": 1.5}, r"--valid-fraction 1.5: must be in \[0, 1\)"),
    ],
)
def test_impossible_budgets_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        PackConfig(**{"seq_len": 8, "max_patches": 8, **changes})
