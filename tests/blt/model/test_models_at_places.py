"""Models in stores: every way to load one, and messages that name the URL."""

import keras
import pytest

import blt
from blt.dataset import storage
from blt.dataset.storage import local_copy
from blt.engine import get_entropy_engine
from blt.errors import UserError
from blt.model.entropy_model import EntropyModel
from blt.model.serialization import fingerprint, load_entropy_model, save_model
from blt.ngram.model import load_ngram


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BLT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_model(seed=1):
    keras.utils.set_random_seed(seed)
    return EntropyModel(dim=16, num_layers=1, num_heads=2, window=8)


def test_a_model_is_saved_to_a_place_and_loaded_from_it(root, tmp_path):
    model = make_model()
    save_model(model, f"{root}/run/model.keras")
    save_model(model, tmp_path / "m.keras")
    place = storage.as_place(f"{root}/run/model.keras")
    assert place.read_bytes() == (tmp_path / "m.keras").read_bytes()
    for loaded in (
        load_entropy_model(str(place)),
        load_entropy_model(place),
        blt.load_model(str(place)),
        blt.load_model(f"{root}/run"),
    ):
        assert fingerprint(loaded) == fingerprint(model)


def test_a_model_of_a_store_comes_once(bucket, cache):
    url = f"{bucket.url}/model.keras"
    save_model(make_model(), url)
    for _ in range(2):
        load_entropy_model(url)
    assert [path.suffix for path in cache.iterdir()] == [".keras"]
    assert local_copy(url).parent == cache


def test_an_engine_is_of_the_file_as_it_is_now(root):
    place = f"{root}/model.keras"
    save_model(make_model(1), place)
    engine = get_entropy_engine(place)
    assert get_entropy_engine(place) is engine
    save_model(make_model(2), place)
    assert get_entropy_engine(place).fingerprint == fingerprint(make_model(2))


@pytest.mark.parametrize("load", [blt.load_model, load_entropy_model, get_entropy_engine])
def test_messages_name_what_was_given(load, root):
    url = f"{root}/entropy.keras"
    with pytest.raises(UserError, match="no such file; an? .*model is needed") as error:
        load(url)
    assert str(error.value).startswith(f"{url}: ")
    storage.replace(url, b"no model")
    with pytest.raises(UserError, match=r"not a \.keras model file, or damaged") as error:
        load(url)
    assert str(error.value).startswith(f"{url}: ")
    with pytest.raises(UserError, match="is a folder; the file of") as error:
        load(root)
    assert f"Give {url}." in str(error.value)


def test_ngram_messages_name_what_was_given(root):
    url = f"{root}/m.ngram"
    with pytest.raises(UserError, match="no such file; an n-gram model is needed") as error:
        load_ngram(url)
    storage.replace(url, b"no model")
    with pytest.raises(UserError, match="not an n-gram model, or damaged") as error:
        load_ngram(url)
    assert str(error.value).startswith(f"{url}: ")


def test_a_bucket_that_is_not_there_is_named(gcs_bucket):
    for load, name in ((blt.load_model, "m.keras"), (load_ngram, "m.ngram")):
        with pytest.raises(UserError, match="there is no bucket gs://no-such"):
            load(f"gs://no-such/{name}")
