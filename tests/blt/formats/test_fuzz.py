"""Altered Examples, TFRecord files and byte shards: read as TensorFlow does, or refused by name.

`python -m tests.fuzz --reader codec` goes on for minutes.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import codec


@pytest.mark.parametrize("kind", codec.KINDS)
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_altered_bytes_parse_or_are_refused(kind, seed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / kind
    rng = random.Random(seed)
    data = codec.sample(kind)
    for _ in range(rng.randrange(3)):
        data = codec.alter(kind, data, rng)
    codec.check(kind, data, path)
