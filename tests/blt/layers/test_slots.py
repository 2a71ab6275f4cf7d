"""The ways of `blt/layers/slots.py` agree, in what they give and in their gradients."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from blt.layers import slots as slots_module
from blt.layers.slots import max_by_slot, sum_by_slot, take_by_slot, take_rows

needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the dense way is of JAX alone"
)
NUM_SLOTS = 6


SHAPES = [(1, 1, (1,)), (3, 17, (2, 2)), (2, 8, (3,))]  # batch, places, inner


@st.composite
def rows(draw):
    """(x of places, rising slots, x of slots), small integers, so that sums are exact."""
    batch, places, inner = draw(st.sampled_from(SHAPES))  # a few: each is compiled for
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    slots = np.sort(rng.integers(0, NUM_SLOTS, (batch, places)), axis=1).astype("int32")
    of_places = rng.integers(-4, 5, (batch, places, *inner)).astype("float32")
    of_slots = rng.integers(-4, 5, (batch, NUM_SLOTS, *inner)).astype("float32")
    return of_places, slots, of_slots


def by_definition(x, slots, reduce):
    """A dict of (row, slot) -> what the slot's places give."""
    return {
        (b, s): reduce(x[b, slots[b] == s], axis=0)
        for b in range(len(x))
        for s in np.unique(slots[b])
    }


@given(rows())
@settings(max_examples=25, deadline=None)
def test_slots_get_what_their_places_hold_and_give_it_back(row):
    of_places, slots, of_slots = row
    taken = ops.convert_to_numpy(take_by_slot(ops.convert_to_tensor(of_slots), slots))
    assert all((taken[b] == of_slots[b, slots[b]]).all() for b in range(len(slots)))
    for found, reduce in (
        (sum_by_slot(ops.convert_to_tensor(of_places), slots, NUM_SLOTS), np.sum),
        (max_by_slot(ops.convert_to_tensor(of_places), slots, NUM_SLOTS), np.max),
    ):
        found = ops.convert_to_numpy(found)
        for place, expected in by_definition(of_places, slots, reduce).items():
            np.testing.assert_array_equal(found[place], expected)
    summed = ops.convert_to_numpy(sum_by_slot(ops.convert_to_tensor(of_places), slots, NUM_SLOTS))
    empty = [(b, s) for b in range(len(slots)) for s in set(range(NUM_SLOTS)) - set(slots[b])]
    assert all((summed[place] == 0).all() for place in empty)


@needs_jax
@given(rows())
@settings(max_examples=25, deadline=None)
def test_the_dense_way_and_its_gradients_equal_scattering(row):
    import jax
    import jax.numpy as jnp

    of_places, slots, of_slots = row
    table = of_slots[0].reshape(NUM_SLOTS, -1)
    occupied = np.stack([np.isin(np.arange(NUM_SLOTS), r) for r in slots])
    occupied = occupied.reshape(*occupied.shape, *[1] * (of_places.ndim - 2))

    def figures(of_places, of_slots, table):
        largest = max_by_slot(of_places, slots, NUM_SLOTS)
        found = (
            take_by_slot(of_slots, slots),
            sum_by_slot(of_places, slots, NUM_SLOTS),
            jnp.where(occupied, largest, 0.0),
            take_rows(table, slots),
        )
        weights = [jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in found]
        return sum(jnp.sum(x * w) for x, w in zip(found, weights, strict=True)), found

    def run():
        return jax.value_and_grad(figures, (0, 1, 2), has_aux=True)(of_places, of_slots, table)

    expected = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots_module, "_is_dense", lambda *_: True)
        found = run()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
