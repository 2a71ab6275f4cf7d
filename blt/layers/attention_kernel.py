"""Which kernel computes attention. It shows in the speed and in the rounding, never in a config.

- `blocks`: Keras operations on blocks of queries (`blt/layers/attention.py`), on every backend.
- `fused`: one Pallas kernel (`blt/layers/fused_attention.py`), for JAX on an NVIDIA GPU.
- `cudnn`: the blocks, each by cuDNN's kernel through JAX's public function.

docs/gpu.md has the measurements behind the choice.
"""

import functools
import os

import keras

from blt.errors import ConfigError

ENVIRONMENT_NAME = "BLT_ATTENTION"
KERNELS = ("auto", "blocks", "fused", "cudnn")
_FUSED_HEAD_DIMS = (16, 32, 64, 128)
_LEAST_CAPABILITY = 8.0  # bfloat16 in the matrix units
_LEAST_TOKENS = 64  # below, a tile of the fused kernel would be nearly empty


def choose_attention_kernel(dtype: str, head_dim: int, num_tokens: int) -> str:
    """Returns "blocks", "fused" or "cudnn" for attention over rows of these sizes.

    The environment variable `BLT_ATTENTION` names one; without it, or with "auto", `fused` is
    taken for 16-bit numbers under JAX on an NVIDIA GPU that can run it, and `blocks` elsewhere.
    What a kernel cannot do (float32 on a GPU, odd head_dims, single tokens) goes to `blocks`.

    Args:
      dtype: of queries, keys and values.
      head_dim: width of a head.
      num_tokens: queries in a row.

    Raises:
      ConfigError: the variable names no kernel, or one that this backend does not have.
    """
    asked = os.environ.get(ENVIRONMENT_NAME, "auto")
    if asked not in KERNELS:
        raise ConfigError(f"{ENVIRONMENT_NAME}={asked}: not one of {', '.join(KERNELS)}.")
    if asked == "blocks":
        return "blocks"
    if keras.backend.backend() != "jax":
        if asked == "auto":
            return "blocks"
        raise ConfigError(f"{ENVIRONMENT_NAME}={asked}: needs KERAS_BACKEND=jax.")
    if asked == "cudnn":
        return "cudnn" if is_half_precision(dtype) and num_tokens >= _LEAST_TOKENS else "blocks"
    can_run = head_dim in _FUSED_HEAD_DIMS and num_tokens >= _LEAST_TOKENS
    on_gpu = gpu_capability() is not None
    if asked == "fused" and not on_gpu:
        return "fused" if can_run else "blocks"  # interpreted: for tests
    suits = (gpu_capability() or 0.0) >= _LEAST_CAPABILITY and is_half_precision(dtype)
    # A kernel of ours is opaque to the compiler's partitioning over several devices.
    alone = asked == "fused" or keras.distribution.distribution() is None
    return "fused" if can_run and suits and alone else "blocks"


def is_half_precision(dtype: str) -> bool:
    """Returns whether a number format has 16 bits."""
    return dtype in ("bfloat16", "float16")


@functools.cache
def gpu_capability() -> float | None:
    """Returns the compute capability of JAX's NVIDIA GPU, as 9.0; None if it has none."""
    import jax

    device = jax.devices()[0]
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind.upper():
        return None
    return float(device.compute_capability)
