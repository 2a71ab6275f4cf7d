"""What the user's surroundings may not change: `keras.json`, and the backend that is asked for."""

import json
import os
import subprocess
import sys

import pytest

SCORE = """
import sys
from blt.cli import command
from pipelines import score
status = command.main(score, sys.argv[1:])
print("tensorflow" in sys.modules)
sys.exit(status)
"""


def score(output, data, model, **environment):
    argv = [sys.executable, "-c", SCORE, "--data", data, "--model", model, "--output", output]
    argv = [*map(str, argv), "--split", "all"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), **environment}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Byte shards, and an entropy model of random weights."""
    from blt.model.entropy_model import EntropyModel
    from blt.model.serialization import save_model
    from tests.blt.datasets import write_byte_dataset

    folder = tmp_path_factory.mktemp("surroundings")
    write_byte_dataset(folder / "bytes", {"a": b"some text", "b": b"more"})
    save_model(EntropyModel(dim=16, num_layers=1, num_heads=2, window=8), folder / "e.keras")
    return folder / "bytes", folder / "e.keras"


def test_floatx_of_keras_json_changes_nothing(files, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": "float16", "epsilon": 1e-4}))
    assert score(tmp_path / "a", *files, KERAS_HOME=str(tmp_path)).returncode == 0
    assert score(tmp_path / "b", *files).returncode == 0
    names = sorted(path.name for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert any(name.startswith("scores-") for name in names)
    for path in (tmp_path / "a").glob("scores-*"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"KERAS_BACKEND": "foo"}, "KERAS_BACKEND foo: no backend that blt runs on"),
        ({"KERAS_BACKEND": "openvino"}, "set KERAS_BACKEND to one of tensorflow, jax, torch"),
    ],
)
def test_a_backend_that_is_none_is_wrong_use(environment, words, files, tmp_path):
    done = score(tmp_path / "out", *files, **environment)
    assert done.returncode == 2
    assert words in done.stderr
    assert "bug" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["[]", '{"floatx": "float8"}', '{"epsilon": "x"}'])
def test_a_keras_json_that_keras_cannot_use_is_named(text, files, tmp_path):
    """Was: "stopped by AttributeError. This looks like a bug"."""
    (tmp_path / "keras.json").write_text(text)
    done = score(tmp_path / "out", *files, KERAS_HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"{tmp_path / 'keras.json'}: Keras cannot use it" in done.stderr
    assert "Fix it, or delete it." in done.stderr


def test_a_backend_that_is_not_installed_is_wrong_use(monkeypatch):
    from blt.cli import quiet
    from blt.errors import UserError

    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(quiet, "_BACKENDS", {"torch": "torch_that_is_not_here", "jax": "json"})
    with pytest.raises(UserError, match=r"torch: the package torch_that.* is not installed.*jax"):
        quiet._check_backend()


def test_on_jax_nothing_imports_tensorflow_nor_lets_its_lines_through(files, tmp_path):
    done = score(tmp_path / "out", *files, KERAS_BACKEND="jax")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False")
    assert done.stderr == ""
