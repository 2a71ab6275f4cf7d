"""`import blt` alone lets Keras read our files, and imports neither Keras nor the models."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from blt import keras_names
from blt.layers import SwiGLU
from blt.model.serialization import save_model
from tests.blt.model.test_keras_methods import make_blt

REPO = Path(__file__).resolve().parents[2]


def run_python(program, *arguments):
    finished = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-800:]
    return finished.stdout.split()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A BLT, and a model of Keras that has one of our layers inside."""
    folder = tmp_path_factory.mktemp("models")
    save_model(make_blt(), folder / "blt.keras")
    x = keras.Input((8,))
    keras.Model(x, SwiGLU(16)(x)).save(folder / "layer.keras")
    return [folder / "blt.keras", folder / "layer.keras"]


@pytest.mark.parametrize("imports", ["import blt, keras", "import keras, blt"])
def test_a_fresh_process_reads_our_files(models, imports):
    """Was: TypeError, Could not locate class 'ByteLatentTransformer'."""
    program = f"""
{imports}
import sys
assert "blt.model" not in sys.modules and "blt.layers" not in sys.modules
for path in sys.argv[1:]:
    print(type(keras.models.load_model(path)).__name__)
"""
    assert run_python(program, *models) == ["ByteLatentTransformer", "Functional"]


def test_importing_blt_imports_no_keras():
    program = """
import sys, blt
print(*{"keras", "tensorflow", "jax", "torch", "numpy"} & set(sys.modules))
"""
    assert run_python(program) == []


def test_every_class_that_is_registered_is_listed():
    import blt.model

    assert blt.model
    registered = keras.saving.get_custom_objects()
    ours = {name: each for name, each in registered.items() if name.startswith("blt>")}
    assert sorted(ours) == [f"blt>{name}" for name in sorted(keras_names.CLASS_NAMES)]
    assert all(isinstance(each, type) for each in ours.values())


def test_a_keras_that_has_no_place_for_names_is_left_alone():
    assert keras_names._register(os) is None
