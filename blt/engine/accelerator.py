"""What accelerator the backend has, and how much work it takes at a time."""

import glob
import os

import keras

from blt.engine.options import FLOAT32
from blt.layers.attention_kernel import choose_attention_kernel
from blt.model.entropy_model import EntropyModel
from blt.tokenizer import VOCAB_SIZE

# Tokens of a step from which on no model measured got faster: docs/gpu.md.
FULL_ROW_LENGTH = 65536
_UNKNOWN_MEMORY = 8 << 30
_SHARE_OF_MEMORY = 0.25  # for what a step makes; two are under way, and others may use the device


def has_accelerator() -> bool:
    """Returns whether the backend has a device that is no CPU."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def device_memory_bytes() -> int | None:
    """Returns the memory that the backend may use of its first accelerator; None if not known."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if backend == "torch":
        import torch

        return torch.cuda.mem_get_info()[1]
    return None


def choose_row_length(model: EntropyModel, precision: str) -> int:
    """Returns how many tokens a step of the engine takes on an accelerator; whole blocks."""
    head_dim = model.head_dim or model.dim // model.num_heads
    width = model.num_heads * head_dim
    tokens = tokens_that_fit(
        widths=8 * model.dim + 6 * width + 3 * model.hidden_dim,
        num_heads=model.num_heads,
        head_dim=head_dim,
        num_keys=model.num_past + model.block_size,
        precision=precision,
    )
    return max(1, min(FULL_ROW_LENGTH, tokens) // model.block_size) * model.block_size


def tokens_that_fit(
    *, widths: int, num_heads: int, head_dim: int, num_keys: int, precision: str
) -> int:
    """Returns how many tokens a step can take in a quarter of the accelerator's memory.

    Args:
      widths: numbers that the step holds of a token at its fullest, in the precision.
      num_heads, head_dim: of attention.
      num_keys: keys of a query, which count where attention holds its scores.
      precision: "float32" or "bfloat16".
    """
    size = 4 if precision == FLOAT32 else 2
    bytes_per_token = size * widths + 4 * 4 * VOCAB_SIZE  # and logits, and what becomes of them
    if choose_attention_kernel(precision, head_dim, FULL_ROW_LENGTH) == "blocks":
        # Scores in float32, what the softmax makes of them, and weights in the precision.
        bytes_per_token += num_heads * num_keys * (8 + size)
    memory = device_memory_bytes() or _UNKNOWN_MEMORY
    return int(memory * _SHARE_OF_MEMORY / bytes_per_token)


def unused_gpu_note() -> str | None:
    """Returns what to tell a user whose machine has an NVIDIA GPU that the backend does not see.

    None if there is no such GPU, if the backend has an accelerator, or if the environment says that
    none is to be used (`JAX_PLATFORMS`, `CUDA_VISIBLE_DEVICES`).
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if hidden or os.environ.get("JAX_PLATFORMS") or not _nvidia_gpus() or has_accelerator():
        return None
    backend = keras.backend.backend()
    fix = "install JAX for CUDA (pip install 'blt[gpu]')"
    if backend != "jax":
        fix += " and set KERAS_BACKEND=jax"
    return (
        f"note: this machine has an NVIDIA GPU, but the installed {_BACKEND_NAMES[backend]} has no "
        f"CUDA build or cannot use it: the model runs on the CPU. To use the GPU, {fix}."
    )


_BACKEND_NAMES = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}


def _nvidia_gpus() -> list[str]:
    """The device files of NVIDIA GPUs, as the kernel's driver makes them."""
    return glob.glob("/dev/nvidia[0-9]*")
