import keras
import numpy as np
import pytest

from blt.engine import EntropyEngine
from blt.model import EntropyModel
from tests.blt.datasets import write_byte_dataset


@pytest.fixture(scope="session")
def engine():
    keras.utils.set_random_seed(0)
    model = EntropyModel(dim=16, num_layers=1, num_heads=2, window=16)
    # Weights that make entropies differ from byte to byte, as a trained model's do.
    model.embedding.byte_table.assign(model.embedding.byte_table.numpy() * 50)
    model.output_layer.kernel.assign(model.output_layer.kernel.numpy() * 30)
    return EntropyEngine(model, lanes=4, row_length=64)


@pytest.fixture(scope="session")
def documents():
    rng = np.random.default_rng(0)
    texts = {
        f"doc-{i}": rng.choice(np.frombuffer(b"aaabcdeee  \n", np.uint8), 20 + 7 * i).tobytes()
        for i in range(60)
    }
    return {**texts, "empty": b"", "binary": bytes(range(256))}


@pytest.fixture(scope="session")
def data(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("data") / "bytes"
    return write_byte_dataset(folder, documents, part_bytes=200)
