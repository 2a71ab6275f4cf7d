import json
import zipfile

import keras
import numpy as np
import pytest

from blt.errors import UserError
from blt.model import EntropyModel
from blt.model.blt import ByteLatentTransformer, load_blt
from blt.model.serialization import fingerprint, load_entropy_model, save_model


def make_model(seed=0, **changes):
    keras.utils.set_random_seed(seed)
    return EntropyModel(**{"dim": 8, "num_layers": 1, "num_heads": 2, "window": 8, **changes})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "entropy.keras"
    save_model(make_model(), path)
    return path


def test_a_loaded_model_is_the_saved_one(saved):
    model, loaded = make_model(), load_entropy_model(saved)
    tokens = np.arange(4, 20, dtype=np.int32)[None]
    expected, found = (keras.ops.convert_to_numpy(each(tokens)) for each in (model, loaded))
    np.testing.assert_array_equal(found, expected)
    assert fingerprint(loaded) == fingerprint(model)


def test_equal_models_give_equal_files(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *_: "another time")
    save_model(load_entropy_model(saved), tmp_path / "again.keras")
    assert (tmp_path / "again.keras").read_bytes() == saved.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.keras", "entropy.keras"]


def test_fingerprint_is_of_the_function_alone():
    model = make_model()
    known = fingerprint(model)
    assert fingerprint(make_model(name="entropy_model_7")) == known
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    assert fingerprint(model) == known
    assert fingerprint(make_model(seed=1)) != known
    assert fingerprint(make_model(window=9)) != known
    assert fingerprint(make_model(dtype="mixed_bfloat16")) != known
    kernel = model.output_layer.kernel
    kernel.assign(np.asarray(kernel) + np.float32(1e-3) * np.eye(8, 260, dtype=np.float32))
    assert fingerprint(model) != known


def rewrite(path, name, data, *, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as old:
        members = {member: old.read(member) for member in old.namelist()}
    members[name] = data
    with zipfile.ZipFile(path, "w", compression) as new:
        for member, content in members.items():
            new.writestr(member, content)


def test_wrong_files_are_refused_in_one_line(saved, tmp_path):
    cut = tmp_path / "cut.keras"
    cut.write_bytes(saved.read_bytes()[:2000])
    text = tmp_path / "text.keras"
    text.write_text("hello")
    broken = tmp_path / "broken.keras"
    broken.write_bytes(saved.read_bytes())
    rewrite(broken, "model.weights.h5", b"not HDF5")
    bomb = tmp_path / "bomb.keras"
    bomb.write_bytes(saved.read_bytes())
    rewrite(bomb, "extra", bytes(10_000_000), compression=zipfile.ZIP_DEFLATED)
    for path, words in [
        (tmp_path / "none.keras", "no such file"),
        (cut, "damaged"),
        (text, "damaged"),
        (broken, "cannot be read as an entropy model"),
        (bomb, "compressed"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            load_entropy_model(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_another_kind_of_model_is_named(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="'Sequential', but an entropy model is needed"):
        load_entropy_model(tmp_path / "other.keras")


@pytest.mark.parametrize(
    "foreign",
    [
        {"module": "subprocess", "class_name": "Popen", "config": {}, "registered_name": None},
        {"module": "keras.layers", "class_name": "Lambda", "config": {}, "registered_name": None},
        {"module": None, "class_name": "X", "config": {}, "registered_name": "evil>X"},
    ],
)
def test_foreign_classes_are_not_made(saved, foreign):
    with zipfile.ZipFile(saved) as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["dtype"] = foreign
    rewrite(saved, "config.json", json.dumps(config).encode())
    with pytest.raises(UserError, match="must not run foreign code"):
        load_entropy_model(saved)


def test_names_of_model_files_are_checked(tmp_path):
    with pytest.raises(UserError, match=r"ends with \.keras"):
        save_model(make_model(), tmp_path / "model.h5")


def test_equal_blts_give_equal_files_though_they_hold_another_model(tmp_path):
    for name in ("a.keras", "b.keras"):
        keras.utils.set_random_seed(0)
        entropy_model = make_model()
        model = ByteLatentTransformer(local_dim=16, global_dim=32, entropy_model=entropy_model)
        save_model(model, tmp_path / name)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    again = load_blt(tmp_path / "a.keras")
    assert fingerprint(again) == fingerprint(model)
    save_model(again, tmp_path / "again.keras")
    assert (tmp_path / "again.keras").read_bytes() == (tmp_path / "a.keras").read_bytes()


def test_a_model_of_nan_is_refused(tmp_path):
    model = make_model()
    model.output_layer.kernel.assign(np.full((8, 260), np.nan, np.float32))
    save_model(model, tmp_path / "nan.keras")
    with pytest.raises(UserError, match=r"nan.keras: its weight .*kernel holds NaN or an infinity"):
        load_entropy_model(tmp_path / "nan.keras")


def test_a_folder_in_place_of_a_model_is_called_one(saved, tmp_path):
    with pytest.raises(UserError, match=r"is a folder; the file of .* is needed. Give .*entropy.k"):
        load_entropy_model(saved.parent)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="is a folder; .* Make one with `blt train-entropy`"):
        load_entropy_model(tmp_path / "none")
