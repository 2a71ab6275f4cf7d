import numpy as np
import pytest
from keras import ops

from blt.layers.patches import PatchLayout

# The example of the module: a0 | a1 a2 || b0 | b1 b2 || padding, and a place without a patch.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 0]], "int32")
LENGTHS = np.array([[1, 2, 1, 2, 0]], "int32")
BY_PATCH = np.array([[10.0, 20.0, 30.0, 40.0, 50.0]])[..., None]

X = np.array([[[-1.0], [-3.0], [-2.0], [5.0], [7.0], [6.0], [99.0]]], "float32")


def layout():
    return PatchLayout(LENGTHS, SEGMENTS)


def test_tokens_know_their_patch_and_the_one_they_may_read():
    own = layout().take_by_patch(BY_PATCH, layout().patch_slots())
    readable, exists = layout().readable_patches(BY_PATCH)
    assert ops.convert_to_numpy(own)[0, :, 0].tolist() == [10, 20, 20, 30, 40, 40, 0]
    assert ops.convert_to_numpy(readable)[0, :6, 0, 0].tolist() == [10, 10, 20, 30, 30, 40]
    assert ops.convert_to_numpy(exists)[0, :6, 0].all()


def test_a_document_that_goes_on_reads_nothing_before_its_first_patch_ends():
    lengths, segments = np.array([[1, 3, 2]], "int32"), np.array([[1, 2, 2, 2, 2, 2]], "int32")
    found, exists = PatchLayout(lengths, segments).readable_patches(BY_PATCH[:, :3])
    assert ops.convert_to_numpy(found)[..., 0, 0].tolist() == [[10, 0, 0, 20, 20, 30]]
    assert ops.convert_to_numpy(exists)[0, :, 0].tolist() == [1, 0, 0, 1, 1, 1]
    across = PatchLayout(lengths, segments, across_documents=True)
    found, _ = across.readable_patches(BY_PATCH[:, :3])
    assert ops.convert_to_numpy(found)[..., 0, 0].tolist() == [[10, 10, 10, 20, 20, 30]]


def test_a_patch_that_goes_on_after_the_row_is_not_complete_in_it():
    segments = np.array([[1, 1, 1]], "int32")
    for lengths, expected in [([1, 2], [10, 10, 20]), ([1, 3], [10, 10, 10])]:
        found, _ = PatchLayout([lengths], segments).readable_patches(BY_PATCH[:, :2])
        assert ops.convert_to_numpy(found)[0, :, 0, 0].tolist() == expected
    # The next token opens a patch: it holds no token of the row, and is none.
    next_opens = PatchLayout([[1, 2, 1]], segments)
    found, _ = next_opens.readable_patches(BY_PATCH[:, :3])
    assert ops.convert_to_numpy(found)[0, :, 0, 0].tolist() == [10, 10, 20]
    assert ops.convert_to_numpy(next_opens.is_patch).tolist() == [[True, True, False]]


def test_a_window_of_patches_stays_inside_the_document():
    found, exists = layout().readable_patches(BY_PATCH, window=2)
    assert ops.convert_to_numpy(found)[0, :6, :, 0].tolist() == [
        [10, 0], [10, 0], [20, 10], [30, 0], [30, 0], [40, 30],
    ]  # fmt: skip
    assert (ops.convert_to_numpy(exists) == (ops.convert_to_numpy(found)[..., 0] > 0)).all()
    # Tokens seen from the patch after theirs: those of patch 0 from 1, and of 2 from 3.
    after = ops.convert_to_numpy(layout().take_by_patch(BY_PATCH, layout().patch_slots(1)))
    assert after[0, :, 0].tolist() == [20, 0, 0, 40, 0, 0, 0]


def test_patches_know_their_document():
    assert ops.convert_to_numpy(layout().patch_segment_ids).tolist() == [[1, 1, 2, 2, 0]]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("max", [-1, -2, 5, 7, 0]),
        ("min", [-1, -3, 5, 6, 0]),
        ("avg", [-1, -2.5, 5, 6.5, 0]),
    ],
)
def test_pooling_is_over_the_tokens_of_a_patch(how, expected):
    found = ops.convert_to_numpy(layout().reduce_by_patch(X, how))
    assert found[0, :, 0].tolist() == expected


def test_softmax_means_are_over_the_tokens_of_a_patch():
    scores = np.log(np.array([[[1.0], [1.0], [3.0], [2.0], [1.0], [1.0], [1.0]]], "float32"))
    # exp(80) ** 2 overflows
    scores, values = (ops.convert_to_tensor(x) for x in (scores + 80.0, X[:, :, None]))
    means = layout().softmax_by_patch(scores, values, layout().patch_slots())
    found = ops.convert_to_numpy(means)[0, :, 0, 0]
    np.testing.assert_allclose(found, [-1.0, -2.25, 5.0, 6.5, 0.0], rtol=1e-5)
