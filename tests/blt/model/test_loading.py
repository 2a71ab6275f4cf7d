import keras
import numpy as np
import pytest

import blt
from blt.errors import UserError
from blt.model.serialization import save_model
from tests.blt.model.test_keras_methods import TARGETS, TOKENS, logits_of, make_blt
from tests.blt.model.test_keras_methods import make_entropy_model as make_entropy


@pytest.mark.parametrize("make", [make_entropy, make_blt])
def test_either_model_is_read_from_its_file_or_the_folder_of_its_training(make, tmp_path):
    model = make()
    save_model(model, tmp_path / "model.keras")
    for place in (tmp_path / "model.keras", str(tmp_path / "model.keras"), tmp_path):
        again = blt.load_model(place)
        assert type(again) is type(model)
        np.testing.assert_array_equal(logits_of(again), logits_of(model))


def test_a_compiled_model_comes_compiled_unless_told_otherwise(tmp_path):
    model = make_entropy()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(TOKENS, TARGETS, verbose=0)
    model.save(tmp_path / "trained.keras")
    again = blt.load_model(tmp_path / "trained.keras")
    assert int(again.optimizer.iterations) == 1
    assert again.evaluate(TOKENS, TARGETS, verbose=0) == pytest.approx(
        model.evaluate(TOKENS, TARGETS, verbose=0)
    )
    assert not blt.load_model(tmp_path / "trained.keras", compile=False).compiled


def test_what_is_no_model_of_ours_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.keras").write_text("hello")
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    for name, words in (
        ("none.keras", "no such file"),
        ("empty", "is a folder"),
        ("text.keras", "damaged"),
        ("other.keras", "holds a model of class 'Sequential', not a BLT or an entropy model"),
        ("counts.ngram", r"an n-gram model is no Keras model. `blt.ngram.model.load_ngram`"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            blt.load_model(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_model_of_nan_is_refused(tmp_path):
    model = make_entropy()
    model.output_layer.kernel.assign(np.full((16, 260), np.nan, np.float32))
    save_model(model, tmp_path / "nan.keras")
    with pytest.raises(UserError, match="holds NaN"):
        blt.load_model(tmp_path / "nan.keras")
