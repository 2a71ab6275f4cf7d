"""Weights: their order, and what is said of those that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from blt.conversion.checkpoint import Checkpoint, Weight
from blt.conversion.weights import (
    Binding,
    Source,
    check_weights,
    load_weights,
    rotary_to_halves,
    rotary_to_neighbours,
)
from blt.errors import UserError


def test_pairs_of_neighbours_become_halves_of_each_head():
    rows = np.array(
        [[0, 100], [1, 101], [2, 102], [3, 103], [4, 104], [5, 105], [6, 106], [7, 107]]
    )
    halves = rotary_to_halves(rows, 4)
    assert halves.tolist() == rows[[0, 2, 1, 3, 4, 6, 5, 7]].tolist()
    assert rotary_to_neighbours(halves, 4).tolist() == rows.tolist()
    assert rotary_to_halves(rows, 8).tolist() == rows[[0, 2, 4, 6, 1, 3, 5, 7]].tolist()
    assert rotary_to_halves(rows, None) is rows


def test_a_kernel_is_made_of_matrices_one_below_the_other_and_back():
    q, v = np.arange(8.0).reshape(4, 2), 10 + np.arange(4.0).reshape(2, 2)
    binding = Binding("attention.qkv.kernel", (Source("q", (4, 2), 4), Source("v", (2, 2))))
    kernel = binding.pack([q, v])
    assert kernel.tolist() == [[0, 4, 2, 6, 10, 12], [1, 5, 3, 7, 11, 13]]
    assert kernel.dtype == np.float32
    for back, source in zip(binding.unpack(kernel), (q, v), strict=True):
        np.testing.assert_array_equal(back, source)
        assert back.flags.c_contiguous


def test_tables_are_not_transposed():
    one, two = np.float16([[1, 2]]), np.float16([[3, 4], [5, 6]])
    binding = Binding("embedding.ngram_table", (Source("a", (1, 2)), Source("b", (2, 2))))
    assert binding.pack([one, two]).tolist() == [[1, 2], [3, 4], [5, 6]]


def checkpoint_of(**shapes):
    weights = {name: Weight(shape, lambda: None) for name, shape in shapes.items()}
    return Checkpoint(Path("folder"), Path("folder/config.json"), {}, weights)


NEEDED = [Binding("a", (Source("a", (1,)), Source("b", (2, 3))))]


def test_weights_that_fit_are_accepted_and_unused_ones_named():
    unused = {"rope.freqs_cis": (1,), "local_encoder.token_embedding_projection.weight": (1,)}
    assert check_weights(checkpoint_of(a=(1,), b=(2, 3), **unused), NEEDED) == list(unused)


def test_missing_weights_are_named():
    with pytest.raises(
        UserError, match="1 weight is missing of the model .*config.json.*: b. Fetch"
    ):
        check_weights(checkpoint_of(a=(1,)), NEEDED)


def test_left_over_weights_are_named_up_to_five():
    with pytest.raises(UserError, match="7 weights are left over.*: n0, n1, n2, n3, n4 and 2 more"):
        surplus = {f"n{i}": (1,) for i in range(7)}
        check_weights(checkpoint_of(a=(1,), b=(2, 3), **surplus), NEEDED)


def test_weights_of_a_wrong_shape_are_named_with_both_shapes():
    with pytest.raises(
        UserError, match=r"1 weight is not of the shape.*b is \[3, 2\] and not \[2, 3\]"
    ):
        check_weights(checkpoint_of(a=(1,), b=(3, 2)), NEEDED)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_weights_that_are_no_numbers_are_refused(bad):
    array = np.array([1.0, bad])
    weights = {"theirs": Weight((2,), lambda: array)}
    checkpoint = Checkpoint(Path("folder"), Path("folder/config.json"), {}, weights)
    with pytest.raises(
        UserError, match="folder: theirs: holds NaN or an infinity, or a number bey"
    ):
        load_weights(None, [Binding("ours", (Source("theirs", (2,)),))], checkpoint)
