"""The functions of `blt/layers/slots.py` for accelerators under JAX: no scattering in any gradient.

A sum by slot is a product with the matrix [slots, places] that has 1 where a place belongs to a
slot. Products of bfloat16 with ones are exact and summed in float32; float32 is multiplied as such.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def take_by_slot(x: Any, slots: Any) -> Any:
    return jax.vmap(lambda row, places: row.at[places].get(mode="promise_in_bounds"))(
        jnp.asarray(x), jnp.asarray(slots)
    )


def _take_forward(x: Any, slots: Any) -> tuple[Any, tuple[Any, int]]:
    return take_by_slot(x, slots), (slots, x.shape[1])


def _take_backward(kept: tuple[Any, int], gradient: Any) -> tuple[Any, None]:
    return sum_by_slot(gradient, *kept), None


take_by_slot.defvjp(_take_forward, _take_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def sum_by_slot(x: Any, slots: Any, num_slots: int) -> Any:
    belongs = slots[:, None, :] == jnp.arange(num_slots, dtype=slots.dtype)[None, :, None]
    flat = x.reshape(*x.shape[:2], -1)
    summed = jnp.matmul(belongs.astype(x.dtype), flat, precision=_exact(x))
    return summed.reshape(x.shape[0], num_slots, *x.shape[2:])


def _sum_forward(x: Any, slots: Any, num_slots: int) -> tuple[Any, Any]:
    return sum_by_slot(x, slots, num_slots), slots


def _sum_backward(num_slots: int, slots: Any, gradient: Any) -> tuple[Any, None]:
    return take_by_slot(gradient, slots), None


sum_by_slot.defvjp(_sum_forward, _sum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def max_by_slot(x: Any, slots: Any, num_slots: int) -> Any:
    """Places of a slot are contiguous; a place's running maximum reaches back 1, 3, 7, … places."""
    reach = 1
    while reach < x.shape[1]:
        before = jnp.pad(slots[:, :-reach], [[0, 0], [reach, 0]], constant_values=-1)
        same = (before == slots).reshape(*slots.shape, *[1] * (x.ndim - 2))
        padding = [[0, 0], [reach, 0], *([0, 0] for _ in x.shape[2:])]
        x = jnp.where(same, jnp.maximum(x, jnp.pad(x[:, :-reach], padding)), x)
        reach *= 2
    # The last place of a slot: the slots of a row rise from place to place.
    number = jnp.arange(num_slots, dtype=slots.dtype)[None, :, None]
    ends = jnp.sum(slots[:, None, :] <= number, axis=2, dtype=jnp.int32)
    return take_by_slot(x, jnp.maximum(ends - 1, 0))


def _max_forward(x: Any, slots: Any, num_slots: int) -> tuple[Any, tuple[Any, Any, Any]]:
    largest = max_by_slot(x, slots, num_slots)
    return largest, (x, slots, largest)


def _max_backward(num_slots: int, kept: tuple[Any, Any, Any], gradient: Any) -> tuple[Any, None]:
    """Places that hold the maximum share its gradient alike."""
    x, slots, largest = kept
    holds = (x == take_by_slot(largest, slots)).astype(x.dtype)
    count = jnp.maximum(sum_by_slot(holds, slots, num_slots), 1)
    return holds * take_by_slot(gradient / count, slots), None


max_by_slot.defvjp(_max_forward, _max_backward)


@jax.custom_vjp
def take_rows(table: Any, ids: Any) -> Any:
    return jnp.asarray(table).at[jnp.asarray(ids)].get(mode="promise_in_bounds")


def _rows_forward(table: Any, ids: Any) -> tuple[Any, tuple[Any, int]]:
    return take_rows(table, ids), (ids, table.shape[0])


def _rows_backward(kept: tuple[Any, int], gradient: Any) -> tuple[Any, None]:
    ids, num_rows = kept
    summed = sum_by_slot(gradient.reshape(1, -1, gradient.shape[-1]), ids.reshape(1, -1), num_rows)
    return summed[0], None


take_rows.defvjp(_rows_forward, _rows_backward)


def _exact(x: Any) -> jax.lax.Precision | None:
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
