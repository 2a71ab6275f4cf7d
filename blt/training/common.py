"""What both trainers share: the loss, figures in bits per byte, history and progress.

The loss is the cross-entropy of the next token in nats, averaged over real targets (bytes and
EOS; never PAD). Bits per byte counts the bytes alone, as scores do.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from blt.dataset.storage import Place, PlaceLike, StorePlace, as_place, delete, replace
from blt.errors import UserError, WorkError
from blt.model.serialization import save_model
from blt.tokenizer import BYTE_OFFSET, PAD_ID

Report = Callable[[str], None]  # takes a line of progress
SECONDS_BETWEEN_REPORTS = 5.0
LN2 = math.log(2.0)


def token_nats(logits: Any, targets: Any) -> Any:
    """Returns -ln p(target), [batch, num_tokens] float32, for logits [batch, num_tokens, vocab]."""
    # As a sum over one-hot targets: its gradient is dense arithmetic that compilers fuse.
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    hot = ops.one_hot(targets, logits.shape[-1], dtype="float32")
    return -ops.sum(log_probabilities * hot, axis=-1)


def diverged(step: int, what: str) -> WorkError:
    """Returns the error of a training that cannot come back; `what` was seen at `step`."""
    return WorkError(
        f"step {step}: {what}. The training diverged; no model was written. Train again with a "
        "lower --learning-rate."
    )


class NextTokenTrainer(keras.Model):
    """Wraps a language model for `fit`: masked loss, and nats and bits per byte as metrics.

    The metrics are sums over all targets of the batches over the number of those targets (bytes
    alone, for bits), never means of batches' means: the last batch may hold few of them.

    Data: pairs (inputs, targets). `inputs` is a dict with `tokens` and the keyword arguments of the
    model's call; `targets` is [batch, num_tokens] int32, PAD where nothing is to be predicted.
    Optimizer and metrics are the wrapper's: the model inside stays free of them.
    """

    def __init__(self, language_model: keras.Model) -> None:
        super().__init__(name="next_token_trainer")
        self.language_model = language_model
        self.bits_metric = keras.metrics.Mean(name="bits_per_byte")
        self.nats_metric = keras.metrics.Mean(name="nats")

    def build(self, *_: Any) -> None:
        """Nothing: the model inside is built."""

    def call(self, inputs: Mapping[str, Any]) -> Any:
        arguments = {name: value for name, value in inputs.items() if name != "tokens"}
        return self.language_model(inputs["tokens"], **arguments)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        targets = ops.cast(y, "int32")
        nats = token_nats(y_pred, targets)
        is_target = ops.cast(targets != PAD_ID, "float32")
        is_byte = ops.cast(targets >= BYTE_OFFSET, "float32")
        num_bytes = ops.sum(is_byte)
        bits = ops.sum(nats * is_byte) / ops.maximum(num_bytes, 1.0) / LN2
        self.bits_metric.update_state(bits, sample_weight=num_bytes)
        num_targets = ops.sum(is_target)
        mean_nats = ops.sum(nats * is_target) / ops.maximum(num_targets, 1.0)
        self.nats_metric.update_state(mean_nats, sample_weight=num_targets)
        losses = [mean_nats, *self.losses]
        return sum(losses[1:], losses[0])


class HeldBatches(keras.utils.PyDataset):
    """A few batches that lie in memory, for `fit` to go through as often as it likes."""

    def __init__(self, batches: Sequence[Any]) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


def record_every(steps: int, num_records: int) -> int:
    """Returns the steps between records: a divisor of `steps`, for `num_records` or more of them.

    >>> record_every(300, 50), record_every(7, 50)
    (6, 1)
    """
    most = max(1, steps // num_records)
    return next(stretch for stretch in range(most, 0, -1) if steps % stretch == 0)


class HistoryWriter:
    """Writes the course of a training as JSON lines; no times in it, so that runs compare.

    Each record is at once in a file that ends with `.part`, so that a training that was stopped has
    a history too, and what lies at `place` stays with the model that it is of. In a store, where
    nothing can be appended to, that file is written anew whenever the model was judged.

    Args:
      place: of the history.
      report: is told if a store does not take the `.part` file, without which training goes on.

    Raises:
      UserError: nothing can be written there.
    """

    def __init__(self, place: PlaceLike, report: Report = lambda line: None) -> None:
        self._place = as_place(place)
        self._part = self._place.with_name(self._place.name + ".part")
        self._report = report
        self._lines: list[str] = []  # of one in a store
        if not isinstance(self._part, StorePlace):
            self._part.write_text("", encoding="utf-8")
            return
        try:  # not only once the model is trained
            replace(self._part, b"")
        except OSError as error:
            raise UserError(f"{self._part}: cannot be written ({error.strerror}).") from error

    def write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, sort_keys=True, allow_nan=False) + "\n"
        if not isinstance(self._part, StorePlace):
            with open(self._part, "a", encoding="utf-8") as file:
                file.write(line)
            return
        self._lines.append(line)
        if "held_out_nats" in record:
            try:
                replace(self._part, self._bytes())
            except OSError as error:
                self._report(
                    f"{self._part}: cannot be written ({error.strerror}); training goes on"
                )

    def _bytes(self) -> bytes:
        return "".join(self._lines).encode("utf-8")

    def finish(self) -> None:
        """Puts the history in its place, once its model is.

        Raises:
          WorkError: it cannot be written.
        """
        if not isinstance(self._part, StorePlace):
            self._part.replace(self._place)
            return
        try:
            replace(self._place, self._bytes())
            delete(self._part)
        except OSError as error:
            raise WorkError(f"{self._place}: cannot be written ({error.strerror}).") from error


def save_trained(model: keras.Model, place: Place) -> None:
    """Writes a model that was trained; what a store does not take is kept on this machine.

    Raises:
      WorkError: it cannot be written; says where it is kept.
    """
    try:
        save_model(model, place)
    except WorkError as error:
        if not isinstance(place, StorePlace):
            raise
        kept = Path(tempfile.mkdtemp(prefix="blt-trained-")) / place.name
        save_model(model, kept)
        raise WorkError(f"{error} The trained model is kept in {kept}; copy it there.") from error


class TrainingReporter(keras.callbacks.Callback):
    """Writes history and lines of progress while `fit` runs.

    An epoch of `fit` is the stretch between two records: its figures are means over that stretch.
    A loss that is no finite number ends the training with a WorkError.

    Args:
      history: where the records go, one an epoch.
      report: where lines for people go, about one in five seconds.
      num_steps: in the whole training.
      tokens_per_step: targets of a step, for the speed shown and the kilobytes recorded.
    """

    def __init__(
        self,
        *,
        history: HistoryWriter,
        report: Report,
        num_steps: int,
        tokens_per_step: int,
    ) -> None:
        super().__init__()
        self._history = history
        self._report = report
        self._num_steps = num_steps
        self._tokens_per_step = tokens_per_step
        self.step = 0
        self.last_record: dict[str, Any] = {}
        # The first step is the compiler's: speed is counted from its end.
        self._timed_from = 1
        self._start = self._reported = time.monotonic()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._report("compiling the training step")

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.step += 1
        now = time.monotonic()
        if self.step == self._timed_from:
            self._start = now
        elif now - self._reported > SECONDS_BETWEEN_REPORTS:
            self._reported = now
            steps_per_second = (self.step - self._timed_from) / (now - self._start)
            speed = steps_per_second * self._tokens_per_step / 1000
            left = (self._num_steps - self.step) / steps_per_second
            bits = float((logs or {})["bits_per_byte"])
            self._report(
                f"step {self.step}/{self._num_steps}, {bits:.3f} bits a byte, "
                f"{speed:.0f} KB/s, {left:.0f} s left"
            )

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        logs = logs or {}
        for name in ("loss", "val_loss"):
            if not math.isfinite(value := float(logs.get(name, 0.0))):
                words = "the loss" if name == "loss" else "the loss of held-out text"
                raise diverged(self.step, f"{words} is {value}")
        rate = self.model.optimizer.learning_rate
        record = {
            "step": self.step,
            "nats": float(logs["nats"]),
            "bits_per_byte": float(logs["bits_per_byte"]),
            "learning_rate": float(ops.convert_to_numpy(rate)),
            "kilobytes": self.step * self._tokens_per_step / 1000,
        }
        if "val_bits_per_byte" in logs:
            record["held_out_nats"] = float(logs["val_nats"])
            record["held_out_bits_per_byte"] = float(logs["val_bits_per_byte"])
            self._report(
                f"step {self.step}/{self._num_steps}, "
                f"held out: {record['held_out_bits_per_byte']:.3f} bits a byte"
            )
        self.last_record = record
        self._history.write(record)
