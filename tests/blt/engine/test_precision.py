import keras
import numpy as np
import pytest

from blt.engine import EntropyEngine, get_entropy_engine, precision
from blt.model import EntropyModel
from blt.model.serialization import save_model
from blt.tokenizer import frame_tokens


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return EntropyModel(dim=16, num_layers=1, num_heads=2, window=16)


@pytest.mark.parametrize(("speedup", "chosen"), [(1.9, "float32"), (2.0, "bfloat16")])
def test_bfloat16_must_be_worth_it(model, monkeypatch, caplog, speedup, chosen):
    monkeypatch.setattr(precision, "measure_speedup", lambda *_: speedup)
    with caplog.at_level("INFO", "blt.engine"):
        assert precision.choose_precision("auto", model) == chosen
    assert f"precision {chosen}" in caplog.text
    assert f"{speedup:.2f} times" in caplog.text


def test_accelerators_take_bfloat16_and_a_choice_is_a_choice(model, monkeypatch):
    assert precision.choose_precision("bfloat16", model) == "bfloat16"
    monkeypatch.setattr(precision, "has_accelerator", lambda: True)
    assert precision.choose_precision("auto", model) == "bfloat16"
    assert precision.choose_precision("float32", model) == "float32"


def test_the_speedup_is_a_ratio_of_times():
    assert 0.01 < precision.measure_speedup(32, 64) < 100


def test_bfloat16_is_near_float32_and_keeps_the_fingerprint(model, tmp_path):
    path = tmp_path / "entropy.keras"
    save_model(model, path)
    exact = get_entropy_engine(path)
    quick = get_entropy_engine(path, precision="bfloat16")
    assert (exact.precision, quick.precision) == ("float32", "bfloat16")
    assert exact.fingerprint == quick.fingerprint
    assert {w.dtype for layer in quick.model.transformer_layers for w in layer.weights} == {
        "bfloat16"
    }
    document = frame_tokens(b"what is near is not the same " * 9)
    (wanted,) = exact.run([(0, document)])
    (found,) = quick.run([(0, document)])
    assert found.entropies.dtype == np.float32
    difference = np.abs(found.entropies - wanted.entropies).max()
    assert 0 < difference < 0.1


def test_a_model_of_another_precision_is_run_in_the_one_asked_for():
    keras.utils.set_random_seed(0)
    mixed = EntropyModel(dim=16, num_layers=1, num_heads=2, window=16, dtype="mixed_bfloat16")
    engine = EntropyEngine(mixed)
    assert engine.model.dtype_policy.name == engine.precision == "float32"
