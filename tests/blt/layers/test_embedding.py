import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from blt.layers import ByteEmbedding
from blt.layers.embedding import HASH_PRIMES, hash_ngrams, previous_ids
from tests.shared import SHARED, needs_shared


def exact_row(ids, prime, table_size):
    """The hash in Python's own integers, wrapped to 64 bits and read as signed."""
    total = sum(number * prime**i for i, number in enumerate(ids)) % 2**64
    signed = total - 2**64 if total >= 2**63 else total
    return signed % table_size


@settings(max_examples=50, deadline=None)
@given(
    ids=st.lists(st.integers(0, 259), min_size=1, max_size=8),
    prime=st.sampled_from(HASH_PRIMES),
    table_size=st.integers(1, 2**22),
)
def test_hash_is_64_bit_arithmetic(ids, prime, table_size):
    tensors = [ops.convert_to_tensor([number], "int32") for number in ids]
    (row,) = ops.convert_to_numpy(hash_ngrams(tensors, prime, table_size))
    assert row == exact_row(ids, prime, table_size)


@needs_shared
def test_hash_gives_the_published_rows():
    vectors = json.loads((SHARED / "vectors" / "hash_ids.json").read_text())
    tokens = np.array(vectors["tokens"], np.int32)
    segment_ids = np.ones_like(tokens)
    before = [previous_ids(tokens, segment_ids, i) for i in range(8)]
    assert len(vectors["cases"]) == 88
    for case in vectors["cases"]:
        rows = hash_ngrams(before[: case["group_size"]][::-1], case["prime"], case["max_hash"])
        np.testing.assert_array_equal(ops.convert_to_numpy(rows), case["ids"])


def test_ngrams_see_zeros_before_their_document():
    tokens = np.array([[5, 6, 7, 8]], np.int32)
    segment_ids = np.array([[1, 1, 2, 2]], np.int32)
    assert ops.convert_to_numpy(previous_ids(tokens, segment_ids, 1)).tolist() == [[0, 5, 0, 7]]
    assert ops.convert_to_numpy(previous_ids(tokens, segment_ids, 2)).tolist() == [[0, 0, 0, 0]]


def test_embedding_is_the_sum_of_its_tables():
    layer = ByteEmbedding(260, 3, ngram_sizes=[2, 3], ngram_table_size=50, num_hash_functions=2)
    tokens = np.array([[10, 20, 30]], np.int32)
    got = ops.convert_to_numpy(layer(tokens, np.ones_like(tokens)))[0, 2]
    expected = layer.byte_table.numpy()[30].copy()
    table = layer.ngram_table.numpy()
    windows = {2: [20, 30], 3: [10, 20, 30]}
    number = 0
    for prime in HASH_PRIMES[:2]:
        for size in (2, 3):
            expected += table[number * 50 + exact_row(windows[size], prime, 50)]
            number += 1
    # Terms near 0.1 may cancel, so what is left is known to their rounding, not to its own.
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
