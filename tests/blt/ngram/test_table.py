import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.ngram.table import build_table, max_table_bytes


@settings(max_examples=40, deadline=None)
@given(keys=st.sets(st.integers(0, 2**63 - 1), max_size=200), seed=st.integers(0, 99))
def test_every_key_is_found_with_its_values_and_no_other_is(keys, seed):
    keys = np.array(sorted(keys), np.uint64)
    values = np.random.default_rng(seed).random((len(keys), 3)).astype(np.float32)
    table = build_table(keys, values)
    records, found = table.find(keys)
    assert found.all()
    np.testing.assert_array_equal(records[:, 1:].view(np.float32), values)
    others = np.setdiff1d(keys ^ np.uint64(1), keys)
    assert not table.find(others)[1].any()


@pytest.mark.parametrize("step", [1, 512, 1 << 27, 1 << 40])
def test_a_large_table_of_regular_keys(step):
    keys = np.arange(100_000, dtype=np.uint64) * np.uint64(step)
    values = np.repeat(np.arange(100_000, dtype=np.float32)[:, None], 3, axis=1)
    table = build_table(keys, values)
    records, found = table.find(keys)
    assert found.all()
    np.testing.assert_array_equal(records[:, 2].view(np.float32), values[:, 0])
    assert table.records.nbytes + table.seeds.nbytes <= max_table_bytes(len(keys))
    assert not table.find(keys + np.uint64(step * 100_000 + 1))[1].any()


def test_an_empty_slot_holds_no_key():
    # Key 0 has the hash 0, and with one key of two slots an empty one is soon met.
    for key in range(1, 200):
        table = build_table(np.array([key], np.uint64), np.ones((1, 3), np.float32))
        assert not table.find(np.zeros(1, np.uint64))[1].any()
