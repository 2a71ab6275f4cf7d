"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the form of two halves.

Component j of a head is paired with component j + head_dim / 2. Checkpoints that pair neighbours
hold the same function under a permutation of the rows of their query and key matrices.
"""

from typing import Any

import numpy as np
from keras import ops

_LONG = 4096  # positions; tables of more would be a large constant in every layer's program
_STRIDE = 256


def rotary_tables(num_positions: int, head_dim: int, theta: float) -> tuple[Any, Any]:
    """Returns cosines and sines of `position * theta ** (-2 j / head_dim)`.

    Returns:
      Two [num_positions, head_dim / 2] float32 arrays or tensors, right to 2e-7 at any position.
    """
    if num_positions <= _LONG:
        return _tables(np.arange(num_positions), head_dim, theta)
    # Position = _STRIDE * i + j, and the angles add up: two short tables make a long one.
    num_strides = -(-num_positions // _STRIDE)
    near = _tables(np.arange(_STRIDE), head_dim, theta)
    far = _tables(_STRIDE * np.arange(num_strides), head_dim, theta)
    near_cos, near_sin = (ops.convert_to_tensor(table[None]) for table in near)
    far_cos, far_sin = (ops.convert_to_tensor(table[:, None]) for table in far)
    cos = far_cos * near_cos - far_sin * near_sin
    sin = far_sin * near_cos + far_cos * near_sin
    cos, sin = (ops.reshape(table, (-1, head_dim // 2))[:num_positions] for table in (cos, sin))
    return cos, sin


def _tables(positions: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = positions.astype(np.float64)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def apply_rotary(x: Any, cos: Any, sin: Any) -> Any:
    """Rotates each pair of components of x [batch, num_positions, heads, head_dim].

    In float32 whatever x is: bfloat16 cannot tell the angles of far positions apart.
    """
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    cos, sin = (ops.convert_to_tensor(table[:, None, :], "float32") for table in (cos, sin))
    rotated = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(rotated, x.dtype)
