import numpy as np
from keras import ops

from blt.layers.patches import PatchLayout

# The example of the module: a0 | a1 a2 || b0 | b1 b2 || padding, and a place without a patch.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 0]], "int32")
LENGTHS = np.array([[1, 2, 1, 2, 0]], "int32")
BY_PATCH = np.array([[10.0, 20.0, 30.0, 40.0, 50.0]])[..., None]


def layout():
    return PatchLayout(LENGTHS, SEGMENTS)


def test_tokens_know_their_patch_and_the_one_they_may_read():
    own = layout().own_patch(BY_PATCH)
    readable = layout().readable_patch(BY_PATCH)
    assert ops.convert_to_numpy(own)[..., 0].tolist() == [[10, 20, 20, 30, 40, 40, 0]]
    assert ops.convert_to_numpy(readable)[0, :6, 0].tolist() == [10, 10, 20, 30, 30, 40]


def test_a_document_that_goes_on_reads_nothing_before_its_first_patch_ends():
    lengths, segments = np.array([[1, 3, 2]], "int32"), np.array([[1, 2, 2, 2, 2, 2]], "int32")
    found = PatchLayout(lengths, segments).readable_patch(BY_PATCH[:, :3])
    assert ops.convert_to_numpy(found)[..., 0].tolist() == [[10, 0, 0, 20, 20, 30]]


def test_patches_know_their_document():
    assert ops.convert_to_numpy(layout().patch_segment_ids).tolist() == [[1, 1, 2, 2, 0]]


def test_maxima_and_softmax_means_are_over_the_tokens_of_a_patch():
    x = np.array([[[-1.0], [-3.0], [-2.0], [5.0], [7.0], [6.0], [99.0]]], "float32")
    assert ops.convert_to_numpy(layout().max_by_patch(x))[..., 0].tolist() == [[-1, -2, 5, 7, 0]]
    scores = np.log(np.array([[[1.0], [1.0], [3.0], [2.0], [1.0], [1.0], [1.0]]], "float32"))
    means = layout().softmax_by_patch(scores + 80.0, x[:, :, None])  # exp(80) ** 2 overflows
    found = ops.convert_to_numpy(means)[0, :, 0, 0]
    np.testing.assert_allclose(found, [-1.0, -2.25, 5.0, 6.5, 0.0], rtol=1e-5)
