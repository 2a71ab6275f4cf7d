"""Reading and writing checkpoints: layouts of files, types of weights, and all that is refused."""

import json
import sys
import types

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from blt.conversion import checkpoint as module
from blt.conversion.checkpoint import read_checkpoint, write_checkpoint
from blt.errors import UserError

A = np.float32([[1, 2, 3], [4, 5, 6]])
B = np.float32([7, 8])


def put_config(folder, name="config.json", config=None):
    (folder / name).write_text(json.dumps({"dim": 4} if config is None else config))


def loaded(path, **options):
    weights = read_checkpoint(path, **options).weights
    return {name: weight.load() for name, weight in weights.items()}


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), array)


def test_a_folder_of_one_file_or_of_several_is_read(tmp_path):
    put_config(tmp_path)
    save_file({"a": A}, tmp_path / "one.safetensors")
    equal(loaded(tmp_path), {"a": A})
    save_file({"b": B}, tmp_path / "two.safetensors")
    equal(loaded(tmp_path), {"a": A, "b": B})


def test_an_index_says_which_files_are_read(tmp_path):
    put_config(tmp_path, "params.json", {"dim": 5})
    save_file({"a": A}, tmp_path / "one.safetensors")
    save_file({"a": A}, tmp_path / "the-same-again.safetensors")
    index = {"weight_map": {"a": "one.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    equal(loaded(tmp_path), {"a": A})
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.config == {"dim": 5}
    assert checkpoint.config_path == tmp_path / "params.json"


@pytest.mark.parametrize("config_name", ["x.json", "config.json", "params.json"])
def test_a_file_finds_its_config_beside_it(config_name, tmp_path):
    put_config(tmp_path, config_name)
    save_file({"a": A}, tmp_path / "x.safetensors")
    assert read_checkpoint(tmp_path / "x.safetensors").config_path.name == config_name


def test_of_an_npz_only_what_is_marked_as_weights_is_read_if_anything_is(tmp_path):
    put_config(tmp_path)
    np.savez(tmp_path / "x.npz", a=A, b=B)
    equal(loaded(tmp_path), {"a": A, "b": B})
    np.savez(tmp_path / "x.npz", **{"w/a": A, "tokens/one": np.arange(3)})
    equal(loaded(tmp_path / "x.npz"), {"a": A})


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_weights_of_other_widths_are_read(dtype, tmp_path):
    put_config(tmp_path)
    save_file({"a": A.astype(dtype)}, tmp_path / "x.safetensors")
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.weights["a"].shape == (2, 3)
    equal(loaded(tmp_path), {"a": A})


def test_what_is_written_is_read_and_the_same_weights_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, {"dim": 6}, {"a": A, "b": B})
    checkpoint = read_checkpoint(tmp_path / "one")
    assert checkpoint.config == {"dim": 6}
    equal(loaded(tmp_path / "one"), {"a": A, "b": B})
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_mode == one.with_name("config.json").stat().st_mode


def refuses(path, text, **options):
    with pytest.raises(UserError, match=text):
        read_checkpoint(path, **options)


def test_what_is_not_there_or_is_something_else_is_refused(tmp_path):
    refuses(tmp_path / "no", "no such file or folder; a checkpoint is needed")
    refuses(tmp_path, "holds no weights")
    save_file({"a": A}, tmp_path / "x.safetensors")
    refuses(tmp_path, "has no config; put its config.json or params.json beside")
    refuses(tmp_path / "x.safetensors", "put its x.json or config.json or params.json beside")
    put_config(tmp_path)
    (tmp_path / "x.txt").write_text("a")
    refuses(tmp_path / "x.txt", "not a checkpoint; its name must end with .safetensors or .npz")


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"no such thing", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_refused(name, content, tmp_path):
    put_config(tmp_path)
    (tmp_path / name).write_bytes(content)
    refuses(tmp_path, "damaged, or not a .*Fetch it again")


def test_a_damaged_config_is_refused(tmp_path, monkeypatch):
    save_file({"a": A}, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text("{")
    refuses(tmp_path, "not a JSON file")
    put_config(tmp_path, config=[1])
    refuses(tmp_path, "must hold a JSON object")
    monkeypatch.setattr(module, "MAX_CONFIG_BYTES", 1)
    refuses(tmp_path, "a config over 1 bytes is not read")


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "x.npz", "..", "c:x.safetensors"]
)
def test_an_index_names_files_of_its_folder_alone(name, tmp_path):
    put_config(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    refuses(tmp_path, "only names of .safetensors files in the same folder")


def test_an_index_without_its_files_is_refused(tmp_path):
    put_config(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    refuses(tmp_path, "names x.safetensors, which is not beside it")
    index.write_text("{}")
    refuses(tmp_path, "weight_map is missing")


def test_a_weight_that_two_files_hold_is_refused(tmp_path):
    put_config(tmp_path)
    save_file({"a": A}, tmp_path / "one.safetensors")
    save_file({"a": A}, tmp_path / "two.safetensors")
    refuses(tmp_path, "holds the weight 'a', which another file")


def test_weights_that_are_no_floats_are_refused(tmp_path):
    put_config(tmp_path)
    np.savez(tmp_path / "x.npz", a=np.arange(3))
    refuses(tmp_path, "'a' is of type int64")
    save_file({"a": np.arange(3, dtype=np.int8)}, tmp_path / "x.safetensors")
    refuses(tmp_path, "'a' is of type I8.*not quantized")
    np.savez(tmp_path / "x.npz", a=np.array([{}]))
    refuses(tmp_path / "x.npz", "damaged, or not a .npz file .*allow_pickle")


def test_what_is_too_large_is_refused(tmp_path, monkeypatch):
    put_config(tmp_path)
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(9999, np.float32), b=B)
    monkeypatch.setattr(module, "MAX_WEIGHTS", 1)
    refuses(tmp_path, "2 weights; over 1 are not read")
    monkeypatch.setattr(module, "MAX_WEIGHT_BYTES", 9999)
    refuses(tmp_path, "bytes unpacked; over 9999 are not read")
    monkeypatch.setattr(module, "MAX_WEIGHT_BYTES", 99)
    refuses(tmp_path, "bytes; over 99 are not read")


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin"])
def test_a_pickle_is_refused_unless_it_is_trusted(name, tmp_path, monkeypatch):
    put_config(tmp_path)
    (tmp_path / name).write_bytes(b"")
    refuses(tmp_path, "a pickle, which can run code.*--trust-pickle")
    monkeypatch.setitem(sys.modules, "torch", None)
    refuses(tmp_path / name, "needs PyTorch; pip install torch", trust_pickle=True)


class _Tensor:
    """Has of a tensor of PyTorch's what is used."""

    def __init__(self, array):
        self.shape = array.shape
        self._array = array

    def detach(self):
        return self

    float = detach

    def numpy(self):
        return self._array


def _stand_in_for_torch(monkeypatch, content):
    def load(path, *, weights_only, map_location):
        assert weights_only
        assert map_location == "cpu"
        if isinstance(content, Exception):
            raise content
        return content

    torch = types.SimpleNamespace(load=load, is_tensor=lambda value: isinstance(value, _Tensor))
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_of_a_trusted_pickle_tensors_are_read_and_nothing_else(tmp_path, monkeypatch):
    put_config(tmp_path)
    (tmp_path / "x.pth").write_bytes(b"")
    for content in ({"a": _Tensor(A)}, {"model": {"a": _Tensor(A)}}):
        _stand_in_for_torch(monkeypatch, content)
        equal(loaded(tmp_path, trust_pickle=True), {"a": A})
    _stand_in_for_torch(monkeypatch, {"a": _Tensor(A), "step": 3})
    refuses(tmp_path, "must hold a dict of tensors", trust_pickle=True)
    _stand_in_for_torch(monkeypatch, RuntimeError("cut short"))
    refuses(tmp_path, "damaged, or holds more than tensors", trust_pickle=True)


def test_a_real_pickle_of_pytorch_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    put_config(tmp_path)
    torch.save({"model": {"a": torch.tensor(A, dtype=torch.bfloat16)}}, tmp_path / "x.pth")
    equal(loaded(tmp_path, trust_pickle=True), {"a": A})


def put_shards(folder):
    """A checkpoint of two files and their index."""
    put_config(folder)
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, weights in zip(names, ({"a": A}, {"b": B}), strict=True):
        save_file(weights, folder / name)
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_checkpoint_that_is_written_over_shards_is_the_one_that_is_read(tmp_path):
    put_shards(tmp_path)
    write_checkpoint(tmp_path, {"dim": 5}, {"a": 2 * A, "b": 2 * B})
    equal(loaded(tmp_path), {"a": 2 * A, "b": 2 * B})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_two_sets_of_weights_are_refused(tmp_path):
    put_shards(tmp_path)
    save_file({"a": 2 * A, "b": 2 * B}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"holds two sets of weights, model.safetensors and those"):
        read_checkpoint(tmp_path)
