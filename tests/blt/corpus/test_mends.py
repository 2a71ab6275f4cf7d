"""Mends do not depend on where the blocks are cut, and are those of the whole."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blt.corpus.mends import Mender, is_utf8

PIECES = [b"\xef\xbb\xbf", b"\xef\xbb", b"\r\n", b"\r", b"\n", b"a", "é".encode(), b"\xff"]
PIECES += ["\U0001f600".encode(), b"\xf0\x9f", b"\xed\xa0\x80"]
raws = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=12).map(b"".join)


def mend(raw, cuts=(), **options):
    mender = Mender(**options)
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    blocks = [raw[start:end] for start, end in itertools.pairwise(bounds)]
    out = b"".join(mender.mend(block) for block in blocks) + mender.mend(b"", final=True)
    return out, mender.is_utf8


@given(raw=raws, cuts=st.lists(st.integers(0, 40), max_size=6), data=st.data())
def test_cuts_do_not_show(raw, cuts, data):
    options = {
        name: data.draw(st.booleans()) for name in ("strip_bom", "lf", "ended_by_lf", "replace")
    }
    assert mend(raw, cuts, **options) == mend(raw, **options)


@given(raw=raws, cuts=st.lists(st.integers(0, 40), max_size=6))
def test_each_mend_is_what_python_does_with_the_whole(raw, cuts):
    assert mend(raw, cuts) == (raw, is_utf8(raw))
    assert mend(raw, cuts, replace=True)[0] == raw.decode("utf-8", "replace").encode()
    assert mend(raw, cuts, lf=True)[0] == raw.replace(b"\r\n", b"\n")
    assert mend(raw, cuts, strip_bom=True)[0] == raw.removeprefix(b"\xef\xbb\xbf")
    assert is_utf8(mend(raw, cuts, replace=True)[0])


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        (b"", b""),
        (b"\xef\xbb\xbf", b""),
        (b"\xef\xbb", b"\xef\xbb"),
        (b"\xef\xbb\xbf\xef\xbb\xbfa", b"\xef\xbb\xbfa"),
        (b"a\r", b"a\r"),
        (b"\r\r\n\n\r", b"\r\n\n\r"),
    ],
)
def test_edges(raw, mended):
    for cut in range(len(raw) + 1):
        assert mend(raw, [cut], strip_bom=True, lf=True)[0] == mended
