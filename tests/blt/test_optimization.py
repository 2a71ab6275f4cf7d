import keras
import numpy as np
import pytest

from blt.errors import UserError
from blt.model import EntropyModel
from blt.optimization import learning_rate_schedule_builder, optimizer_builder

COSINE = {"type": "cosine_decay", "learning_rate": 1.0, "decay_steps": 100}


def at(schedule, step):
    return float(np.asarray(schedule(step)))


def test_warm_up_then_cosine():
    schedule = learning_rate_schedule_builder(
        {**COSINE, "warmup_steps": 10, "warmup_start_lr": 0.1, "alpha": 0.2}
    )
    assert at(schedule, 0) == pytest.approx(0.1)
    assert at(schedule, 5) == pytest.approx(0.55)
    assert at(schedule, 10) == pytest.approx(1.0)
    assert at(schedule, 60) == pytest.approx(0.6)
    assert at(schedule, 110) == at(schedule, 1000) == pytest.approx(0.2)
    assert at(learning_rate_schedule_builder(COSINE), 0) == pytest.approx(1.0)
    assert learning_rate_schedule_builder({"type": "constant", "learning_rate": 3}) == 3.0


def test_adamw_spares_norms_and_tables():
    model = EntropyModel(
        dim=8, num_layers=1, num_heads=2, window=8, ngram_sizes=[2], ngram_table_size=3
    )
    config = {"type": "adamw", "weight_decay": 0.5, "gradient_clipping_by_norm": 1.0}
    optimizer = optimizer_builder({**config, "beta_1": 0.8, "beta_2": 0.9}, 0.1)
    optimizer.build(model.trainable_variables)
    decayed = {w.path for w in model.weights if optimizer._use_weight_decay(w)}
    assert {path.split("/")[-1] for path in decayed} == {"kernel"}
    assert len(decayed) == 5
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.global_clipnorm) == (0.8, 0.9, 1.0)
    assert isinstance(optimizer_builder({"type": "adam"}, 0.1), keras.optimizers.Adam)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: learning_rate_schedule_builder({}), "'type' is missing"),
        (lambda: learning_rate_schedule_builder({"type": "cosine"}), "'cosine_decay'"),
        (lambda: learning_rate_schedule_builder({**COSINE, "warmup": 1}), "'warmup_steps'"),
        (
            lambda: learning_rate_schedule_builder({"type": "cosine_decay", "learning_rate": 1}),
            "'decay_steps' is missing",
        ),
        (lambda: optimizer_builder({"type": "adamw", "weightdecay": 1}, 1.0), "'weight_decay'"),
        (lambda: optimizer_builder({"type": "sgdw"}, 1.0), "not one of"),
    ],
)
def test_misspelt_keys_are_refused_with_a_hint(build, words):
    with pytest.raises(UserError, match=words):
        build()
