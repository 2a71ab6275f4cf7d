"""Functions of a model as one compiled program, in the way of each backend."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def compile_function(
    model: keras.Model,
    function: Callable[..., Any],
    *,
    jit_compile: bool = True,
    exact_float32: bool = False,
) -> Callable[..., Any]:
    """Compiles a function that runs a model, for inference.

    Args:
      model: the model whose weights the function reads; it may change none of them.
      function: of arrays, or of lists, tuples and dicts of them, to the like. It is compiled anew
        for every combination of shapes.
      jit_compile: on TensorFlow, whether XLA compiles it: slower to begin with, then faster where
        there is much to fuse. JAX always compiles, PyTorch never.
      exact_float32: on JAX, whether products of float32 matrices are float32 on accelerators too,
        where the default is fewer bits and several times the speed.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _compile_in_tensorflow(function, jit_compile)
    if backend == "jax":
        import jax

        @jax.jit
        def stateless(values: list, *arguments: Any) -> Any:
            mapping = list(zip(model.variables, values, strict=True))
            precision = "highest" if exact_float32 else None
            with (
                keras.StatelessScope(state_mapping=mapping),
                jax.default_matmul_precision(precision),
            ):
                return function(*arguments)

        def with_weights(*arguments: Any) -> Any:
            return stateless([variable.value for variable in model.variables], *arguments)

        return with_weights

    def eager(*arguments: Any) -> Any:
        import torch

        with torch.no_grad():
            return function(*keras.tree.map_structure(ops.convert_to_tensor, arguments))

    return eager


def _compile_in_tensorflow(function: Callable[..., Any], jit_compile: bool) -> Callable[..., Any]:
    """Compiles once for each combination of shapes, which TensorFlow would warn about."""
    import tensorflow as tf

    programs: dict[tuple, Callable[..., Any]] = {}

    def of_these_shapes(*arguments: Any) -> Any:
        arguments = keras.tree.map_structure(tf.convert_to_tensor, arguments)
        shapes = tuple(tuple(x.shape) for x in keras.tree.flatten(arguments))
        if shapes not in programs:
            programs[shapes] = tf.function(
                lambda *arguments: function(*arguments), autograph=False, jit_compile=jit_compile
            )
        return programs[shapes](*arguments)

    return of_these_shapes


def start_copy_to_host(x: Any) -> None:
    """Begins to copy what a compiled function will give to host memory, where the backend can."""
    if hasattr(x, "copy_to_host_async"):
        x.copy_to_host_async()
