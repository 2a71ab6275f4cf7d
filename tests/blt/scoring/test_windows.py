import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.errors import UserError
from blt.scoring.windows import WindowShape, make_windows


def windows_of(lengths, *, cuts=(), **shape):
    """Windows of a document whose token i is i; `cuts` are patches at which a new part begins."""
    lengths = np.array(lengths, np.int32)
    starts = np.cumsum(lengths) - lengths
    tokens = np.split(np.arange(lengths.sum()), starts[list(cuts)])
    return list(
        make_windows(zip(tokens, np.split(lengths, list(cuts)), strict=True), WindowShape(**shape))
    )


def as_lists(window):
    return window.tokens.tolist(), window.patch_lengths.tolist(), window.first_scored


def test_windows_start_and_end_with_patches_and_score_each_token_once():
    windows = windows_of([1, 3, 2, 2, 4, 2], seq_len=8, max_patches=8, min_context=3)
    assert [as_lists(window) for window in windows] == [
        ([0, 1, 2, 3, 4, 5, 6, 7], [1, 3, 2, 2], 1),
        ([4, 5, 6, 7, 8, 9, 10, 11], [2, 2, 4], 4),
        ([8, 9, 10, 11, 12, 13], [4, 2], 4),
    ]
    assert [window.is_last for window in windows] == [False, False, True]


def test_a_document_that_fits_is_one_window():
    (window,) = windows_of([1, 3, 4], seq_len=8, max_patches=3, min_context=7)
    assert as_lists(window) == (list(range(8)), [1, 3, 4], 1)


def test_a_patch_too_long_for_its_context_is_cut():
    windows = windows_of([1, 12], seq_len=8, max_patches=4, min_context=2)
    assert [as_lists(window) for window in windows] == [
        (list(range(8)), [1, 7], 1),
        ([6, 7, 8, 9, 10, 11, 12], [7], 2),
    ]


def test_many_short_patches_leave_half_of_the_patches_to_the_context():
    windows = windows_of([1] * 9, seq_len=8, max_patches=4, min_context=6)
    assert [as_lists(window)[::2] for window in windows] == [
        ([0, 1, 2, 3], 1),
        ([2, 3, 4, 5], 2),
        ([4, 5, 6, 7], 2),
        ([6, 7, 8], 2),
    ]


DOCUMENT = st.lists(st.integers(1, 20), min_size=1, max_size=60).map(lambda rest: [1, *rest])


@settings(deadline=None, max_examples=300)
@given(DOCUMENT, st.integers(2, 24), st.integers(3, 12), st.data())
def test_every_token_but_bos_is_scored_once_with_its_context(lengths, seq_len, max_patches, data):
    min_context = data.draw(st.integers(1, seq_len - 1))
    shape = {"seq_len": seq_len, "max_patches": max_patches, "min_context": min_context}
    windows = windows_of(lengths, **shape)
    scored = []
    for window in windows:
        assert 0 < len(window.tokens) <= seq_len
        assert 0 < len(window.patch_lengths) <= max_patches
        assert window.patch_lengths.min() > 0
        assert window.patch_lengths.sum() == len(window.tokens)
        assert (np.diff(window.tokens) == 1).all()
        context = window.first_scored
        assert (
            context >= min(min_context, window.tokens[context])  # all there is before it
            or len(window.patch_lengths) > max_patches // 2
        )
        scored += window.tokens[context:].tolist()
        boundaries = set(np.cumsum([0, *lengths]))
        inner = window.tokens[0] + np.cumsum(window.patch_lengths)[:-1]
        assert boundaries >= set(inner.tolist())
    assert scored == list(range(1, sum(lengths)))
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]

    cuts = sorted(data.draw(st.sets(st.integers(1, len(lengths) - 1), max_size=4)))
    in_parts = windows_of(lengths, cuts=cuts, **shape)
    assert [as_lists(w) for w in in_parts] == [as_lists(w) for w in windows]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_context": 8}, "--min-context 8: must be at least 1 and below the window"),
        ({"max_patches": 2}, "max_patches 2: windows need 3 patches at least"),
    ],
)
def test_impossible_windows_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        WindowShape(**{"seq_len": 8, "max_patches": 8, "min_context": 4, **changes})
