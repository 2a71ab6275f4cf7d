"""The number format of the layers of a model while it is run over text.

bfloat16 moves some boundaries (`docs/engine.md` says how many), so it has to be worth it: it is
taken on accelerators, and on CPUs whose matrix units multiply it at least twice as fast.
"""

import logging
import math
import statistics
import time

import keras
import numpy as np
from keras import ops

from blt.engine.accelerator import has_accelerator
from blt.engine.options import AUTO, BFLOAT16, FLOAT32
from blt.model.compiled import compile_function

WORTH_IT = 2.0  # times as fast
_ROWS = 512
_TIMINGS = 9

_logger = logging.getLogger("blt.engine")


def choose_precision(precision: str, model: keras.Model) -> str:
    """Returns what "auto" stands for on this machine with this model; else what it is given.

    Says in the log what was chosen and why.
    """
    if precision != AUTO:
        return precision
    if has_accelerator():
        _logger.info("precision bfloat16: the device is an accelerator")
        return BFLOAT16
    ratio = measure_speedup(*_largest_matrix(model))
    chosen = BFLOAT16 if ratio >= WORTH_IT else FLOAT32
    _logger.info(
        "precision %s: matrices of this model multiply %.2f times as fast in bfloat16 as in "
        "float32, and %g times would be worth the boundaries that it moves",
        chosen,
        ratio,
        WORTH_IT,
    )
    return chosen


def _largest_matrix(model: keras.Model) -> tuple[int, int]:
    """Returns the shape of the largest matrix that the model multiplies by."""
    shapes = [weight.shape for weight in model.weights if weight.name == "kernel"]
    return max((shape for shape in shapes if len(shape) == 2), key=math.prod)


def measure_speedup(depth: int, width: int) -> float:
    """Returns how much faster [512, depth] x [depth, width] is in bfloat16 than in float32."""
    empty = keras.Sequential()
    program = compile_function(
        empty, lambda x, y: ops.cast(ops.matmul(x, y), FLOAT32)[0], jit_compile=False
    )
    rng = np.random.default_rng(0)
    shapes = ((_ROWS, depth), (depth, width))
    factors = [rng.standard_normal(shape, np.float32) for shape in shapes]
    seconds: dict[str, list[float]] = {FLOAT32: [], BFLOAT16: []}
    for number in range(_TIMINGS + 1):
        for dtype, found in seconds.items():
            x, y = (ops.convert_to_tensor(factor, dtype) for factor in factors)
            start = time.perf_counter()
            ops.convert_to_numpy(program(x, y))
            if number:  # the first one compiles
                found.append(time.perf_counter() - start)
    return statistics.median(seconds[FLOAT32]) / statistics.median(seconds[BFLOAT16])


def in_precision(model: keras.Model, precision: str) -> keras.Model:
    """Returns the model with layers and weights of the precision: itself if that is what it has."""
    if model.dtype_policy.name == precision:
        return model
    converted = type(model).from_config({**model.get_config(), "dtype": precision})
    converted.set_weights(model.get_weights())
    return converted
