"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the form of two halves.

Component j of a head is paired with component j + head_dim / 2. Checkpoints that pair neighbours
hold the same function under a permutation of the rows of their query and key matrices.
"""

from typing import Any

import numpy as np
from keras import ops


def rotary_tables(num_positions: int, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines and sines of `position * theta ** (-2 j / head_dim)`.

    Returns:
      Two [num_positions, head_dim / 2] float32 arrays.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.arange(num_positions, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def apply_rotary(x: Any, cos: np.ndarray, sin: np.ndarray) -> Any:
    """Rotates each pair of components of x [batch, num_positions, heads, head_dim].

    In float32 whatever x is: bfloat16 cannot tell the angles of far positions apart.
    """
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    cos, sin = (ops.convert_to_tensor(table[:, None, :], "float32") for table in (cos, sin))
    rotated = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(rotated, x.dtype)
