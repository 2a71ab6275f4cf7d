import keras
import pytest

from blt.engine import accelerator
from blt.engine.accelerator import choose_row_length, unused_gpu_note
from blt.model import EntropyModel
from blt.scoring import blt_scorer


@pytest.fixture
def idle_gpu(monkeypatch):
    """A machine with an NVIDIA GPU that the backend does not see."""
    monkeypatch.setattr(accelerator, "_nvidia_gpus", lambda: ["/dev/nvidia0"])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def test_a_gpu_that_lies_idle_is_said_with_the_fix(idle_gpu):
    note = unused_gpu_note()
    assert "NVIDIA GPU" in note
    assert "pip install 'blt[gpu]'" in note
    assert ("KERAS_BACKEND=jax" in note) == (keras.backend.backend() != "jax")


def test_nothing_is_said_without_a_gpu_or_where_none_is_wanted(idle_gpu):
    for name, value in (("CUDA_VISIBLE_DEVICES", ""), ("JAX_PLATFORMS", "cpu")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            assert unused_gpu_note() is None
    idle_gpu.setattr(accelerator, "has_accelerator", lambda: True)
    assert unused_gpu_note() is None
    idle_gpu.setattr(accelerator, "has_accelerator", lambda: False)
    idle_gpu.setattr(accelerator, "_nvidia_gpus", list)
    assert unused_gpu_note() is None


def test_rows_are_whole_blocks_that_fit_into_memory(monkeypatch):
    model = EntropyModel(dim=64, num_layers=1, num_heads=4, window=512)
    found = []
    for memory in (1 << 20, 1 << 30, 80 << 30):
        monkeypatch.setattr(accelerator, "device_memory_bytes", lambda memory=memory: memory)
        found.append(choose_row_length(model, "bfloat16"))
        assert found[-1] % model.block_size == 0
    assert found[0] == model.block_size
    assert found[0] < found[1] <= found[2] == accelerator.FULL_ROW_LENGTH
    # Float32 takes more of it.
    monkeypatch.setattr(accelerator, "device_memory_bytes", lambda: 1 << 30)
    assert choose_row_length(model, "float32") < found[1]


def test_an_accelerators_batches_of_the_scorer_fit_too(monkeypatch):
    from blt.model.blt import create_blt

    blt = create_blt("tiny", max_sequence_length=256, max_patches=64)
    assert blt_scorer._choose_batch_size(blt, "float32") == 8192 // 256
    monkeypatch.setattr(blt_scorer, "has_accelerator", lambda: True)
    sizes = []
    for memory in (1 << 20, 1 << 30, 80 << 30):
        monkeypatch.setattr(accelerator, "device_memory_bytes", lambda memory=memory: memory)
        sizes.append(blt_scorer._choose_batch_size(blt, "bfloat16"))
    assert sizes[0] == 1 < sizes[1] < sizes[2] == 131_072 // 256
