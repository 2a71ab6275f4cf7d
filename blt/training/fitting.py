"""How both language models are fitted: the schedule, the optimizer, and when to look."""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import keras

from blt.errors import UserError
from blt.model.serialization import find_non_finite_weight
from blt.optimization import learning_rate_schedule_builder, optimizer_builder
from blt.tokenizer import BYTE_OFFSET
from blt.training.common import (
    HeldBatches,
    NextTokenTrainer,
    TrainingReporter,
    diverged,
    record_every,
)

_MOST_WARMUP_STEPS = 500
_LAST_LEARNING_RATE = 0.02  # of the peak


class FitConfig(Protocol):
    """What the configs of both trainers say about fitting; see either for the meanings."""

    steps: int
    learning_rate: float
    weight_decay: float
    gradient_clipping_by_norm: float
    history_records: int
    evaluations: int


def check_learning_rate(learning_rate: float) -> None:
    """Raises UserError unless a model can learn at this rate."""
    if not 0 < learning_rate < math.inf:
        raise UserError(f"--learning-rate {learning_rate:g}: must be a number above 0.")


def fit_language_model(
    model: keras.Model,
    training: Any,
    held_out: Iterable[Any],
    config: FitConfig,
    reporter: TrainingReporter,
) -> None:
    """Fits a model to batches for `config.steps` steps.

    Args:
      model: a language model, as `NextTokenTrainer` takes it.
      training: batches without end, already shuffled, in a form that `fit` takes.
      held_out: batches that the model is judged by; may be empty.
      config: how.
      reporter: writes history and progress.

    Raises:
      WorkError: the training diverged: the loss, or a weight at the end, is no finite number.
    """
    trainer = NextTokenTrainer(model)
    trainer.compile(optimizer=_make_optimizer(config), jit_compile=True)
    stretch = record_every(config.steps, config.history_records)
    num_stretches = config.steps // stretch
    evaluate_after = {
        math.ceil(num_stretches * (i + 1) / config.evaluations) for i in range(config.evaluations)
    }
    held_out = list(held_out)
    if not any((targets >= BYTE_OFFSET).any() for _, targets in held_out):
        held_out = []  # empty documents: there is no byte to judge it by
    trainer.fit(
        training,
        epochs=num_stretches,
        steps_per_epoch=stretch,
        shuffle=False,
        validation_data=HeldBatches(held_out) if held_out else None,
        validation_freq=sorted(evaluate_after),
        callbacks=[reporter],
        verbose=0,
    )
    if name := find_non_finite_weight(model):
        raise diverged(config.steps, f"the weight {name} holds NaN or an infinity")


def _make_optimizer(config: FitConfig) -> keras.optimizers.Optimizer:
    """AdamW; a tenth of the steps warm up, a cosine follows."""
    warmup_steps = min(_MOST_WARMUP_STEPS, config.steps // 10)
    schedule = learning_rate_schedule_builder(
        {
            "type": "cosine_decay",
            "learning_rate": config.learning_rate,
            "warmup_steps": warmup_steps,
            "warmup_start_lr": config.learning_rate / 100,
            "decay_steps": config.steps - warmup_steps,
            "alpha": _LAST_LEARNING_RATE,
        }
    )
    return optimizer_builder(
        {
            "type": "adamw",
            "weight_decay": config.weight_decay,
            "gradient_clipping_by_norm": config.gradient_clipping_by_norm,
        },
        schedule,
    )
