"""What bytes and patches give one another: rows of places, each of which belongs to a slot.

With places in slots 0 0 1 3 3 3: `take_by_slot` gives each place what its slot holds, and
`sum_by_slot` and `max_by_slot` give each slot the sum and the maximum of what its places hold.

Portable operations do that by scattering. On a GPU, many additions to few addresses wait for one
another: training a BLT spent two thirds of its time there. So on accelerators under JAX, sums and
gradients are products with a matrix of zeros and ones instead (`blt/layers/dense_slots.py`), which
are exact, in a fixed order, and next to nothing for the matrix units.
"""

from typing import Any

import keras
from keras import ops

# Entries of the matrix of a row, slots times places, up to which a product is the faster way.
_MOST_DENSE = 1 << 25


def take_by_slot(x: Any, slots: Any) -> Any:
    """x [batch, num_slots, ...], slots [batch, places] int32 -> [batch, places, ...]."""
    num_slots = x.shape[1]
    if _is_dense(num_slots, slots):
        from blt.layers import dense_slots

        return dense_slots.take_by_slot(x, slots)
    inner = tuple(x.shape[2:])
    taken = ops.take(ops.reshape(x, (-1, *inner)), _flat(slots, num_slots), axis=0)
    return ops.reshape(taken, (-1, slots.shape[1], *inner))


def sum_by_slot(x: Any, slots: Any, num_slots: int) -> Any:
    """x [batch, places, ...], slots [batch, places] int32 -> [batch, num_slots, ...].

    0 in slots without a place.
    """
    if _is_dense(num_slots, slots):
        from blt.layers import dense_slots

        return dense_slots.sum_by_slot(x, slots, num_slots)
    return _reduce(ops.segment_sum, x, slots, num_slots)


def max_by_slot(x: Any, slots: Any, num_slots: int, *, contiguous: bool = True) -> Any:
    """x [batch, places, ...], slots [batch, places] int32 -> [batch, num_slots, ...].

    What slots without a place get means nothing.

    Args:
      x: of the places.
      slots: of the places.
      num_slots: slots of a row.
      contiguous: the places of a slot follow one another.
    """
    if contiguous and _is_dense(num_slots, slots):
        from blt.layers import dense_slots

        return dense_slots.max_by_slot(x, slots, num_slots)
    return _reduce(ops.segment_max, x, slots, num_slots)


def take_rows(table: Any, ids: Any) -> Any:
    """Returns the rows of a small table [rows, dim] for ids of any shape: [*ids, dim]."""
    if _is_dense(table.shape[0], None):
        from blt.layers import dense_slots

        return dense_slots.take_rows(ops.convert_to_tensor(table), ids)
    return ops.take(table, ids, axis=0)


def _is_dense(num_slots: int, slots: Any) -> bool:
    if keras.backend.backend() != "jax":
        return False
    import jax

    few = slots is None or num_slots * slots.shape[1] <= _MOST_DENSE
    return few and jax.default_backend() != "cpu"


def _flat(slots: Any, num_slots: int) -> Any:
    """[batch, places] -> [batch * places], in one axis over the slots of all rows."""
    slots = ops.convert_to_tensor(slots)  # PyTorch adds no tensor to an array
    rows = ops.arange(ops.shape(slots)[0], dtype="int32")
    return ops.reshape(slots + ops.expand_dims(rows, 1) * num_slots, (-1,))


def _reduce(reduce: Any, x: Any, slots: Any, num_slots: int) -> Any:
    inner = tuple(x.shape[2:])
    num_segments = ops.shape(slots)[0] * num_slots
    flat = ops.reshape(x, (-1, *inner))
    found = reduce(flat, _flat(slots, num_slots), num_segments=num_segments)
    return ops.reshape(found, (-1, num_slots, *inner))
