import collections
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.dataset.splits import is_held_out
from blt.formats.byte_shard import ByteRecord
from blt.ngram import counting
from blt.ngram.config import NgramConfig
from blt.ngram.counting import (
    chosen_parts,
    count_documents,
    count_parts,
    merge_counts,
)
from blt.tokenizer import BOS_ID, PAD_ID, frame_tokens

DOCUMENTS = st.lists(st.binary(max_size=30).map(frame_tokens), max_size=6)


def counted_plainly(documents, length):
    counts = collections.Counter()
    for tokens in documents:
        padded = [PAD_ID] * length + tokens.tolist()
        for end in range(length + 2, len(padded) + 1):
            counts[tuple(padded[end - length : end])] += 1
    return counts


def unpacked(counts, length):
    return {
        tuple(int(gram) >> 9 * back & 511 for back in reversed(range(length))): int(count)
        for gram, count in zip(counts.grams, counts.counts, strict=True)
    }


@given(documents=DOCUMENTS, length=st.integers(2, 7))
def test_every_token_but_bos_is_counted_with_what_is_before_it(documents, length):
    counts = count_documents(documents, length)
    assert unpacked(counts, length) == counted_plainly(documents, length)
    assert np.all(np.diff(counts.grams.astype(object)) > 0)
    assert all(int(gram) & 511 != BOS_ID for gram in counts.grams)
    assert counts.num_bytes == sum(len(tokens) - 2 for tokens in documents)


@given(documents=DOCUMENTS, cut=st.integers(1, 12), length=st.integers(2, 7))
def test_parts_of_a_document_count_as_the_whole(documents, cut, length):
    parts = [
        (tokens[i : i + cut], i > 0) for tokens in documents for i in range(0, len(tokens), cut)
    ]
    counts, whole = count_parts(parts, length), count_documents(documents, length)
    np.testing.assert_array_equal(counts.grams, whole.grams)
    np.testing.assert_array_equal(counts.counts, whole.counts)
    assert counts.num_documents == len(documents)


@settings(max_examples=30)
@given(documents=DOCUMENTS, seed=st.integers(0, 99))
def test_sums_do_not_show_their_order(documents, seed):
    parts = [count_documents([tokens], 4) for tokens in documents]
    random.Random(seed).shuffle(parts)
    half = len(parts) // 2
    summed = merge_counts([merge_counts(parts[half:]), merge_counts(parts[:half])])
    whole = count_documents(documents, 4)
    np.testing.assert_array_equal(summed.grams, whole.grams)
    np.testing.assert_array_equal(summed.counts, whole.counts)
    assert (summed.num_documents, summed.num_bytes) == (len(documents), whole.num_bytes)


def test_small_batches_count_the_same(documents, monkeypatch):
    whole = count_documents(documents[:40], 5)
    monkeypatch.setattr(counting, "_BATCH_TOKENS", 3000)
    batched = count_documents(documents[:40], 5)
    np.testing.assert_array_equal(batched.grams, whole.grams)
    np.testing.assert_array_equal(batched.counts, whole.counts)


def test_held_out_documents_and_more_than_the_sample_are_not_counted():
    records = [ByteRecord(f"d{i}", frame_tokens(b"%d" % i)) for i in range(400)]
    config = NgramConfig(sample_bytes=500, valid_fraction=0.2)
    chosen = list(chosen_parts(records, config, total_bytes=1000))
    taken = {bytes(tokens[1:-1].astype(np.uint8) - 4).decode() for tokens, _ in chosen}
    assert 100 < len(taken) < 220  # of 400: half of the 320 that are not held out
    assert not any(is_held_out(f"d{i}", fraction=0.2) for i in taken)
    everything = list(chosen_parts(records, NgramConfig(valid_fraction=0), total_bytes=1000))
    assert len(everything) == 400
