import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from blt.corpus.readers.lines import split_lines

CONTENT = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\n\n", b"\x00"])).map(b"".join)


def lines_of(data, cuts=()):
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    blocks = [data[a:b] for a, b in itertools.pairwise(bounds)]
    return [(line.offset, line.raw, line.has_newline) for line in split_lines(blocks)]


def test_only_lf_ends_a_line():
    assert lines_of(b"a\nb\r\nc\rd\n\n\x0b\xe2\x80\xa8e") == [
        (0, b"a", True),
        (2, b"b\r", True),
        (5, b"c\rd", True),
        (9, b"", True),
        (10, b"\x0b\xe2\x80\xa8e", False),
    ]
    assert lines_of(b"") == []
    assert lines_of(b"\n") == [(0, b"", True)]


@given(CONTENT, st.lists(st.integers(0, 60), max_size=5))
def test_where_blocks_are_cut_does_not_show(data, cuts):
    lines = lines_of(data, cuts)
    assert lines == lines_of(data)
    assert b"".join(raw + b"\n" * ended for _, raw, ended in lines) == data


def test_a_line_over_the_limit_leaves_a_sample_and_its_length():
    blocks = [b"ok\n" + b"x" * 500, b"y" * 500, b"z\nnext\n", b"w" * 300]
    lines = list(split_lines(blocks, max_line_bytes=250))
    assert [(line.offset, line.num_bytes, line.too_long) for line in lines] == [
        (0, 2, False),
        (3, 1001, True),
        (1005, 4, False),
        (1010, 300, True),
    ]
    assert lines[1].raw == b"x" * 200
    assert lines[2].raw == b"next"


def test_a_line_of_40_mb_takes_linear_time():
    block = bytes(1 << 20)
    start = time.monotonic()
    (line,) = split_lines([block] * 40)
    assert line.num_bytes == 40 << 20
    assert time.monotonic() - start < 2  # seconds; measured at 0.02, quadratic code needs 70
