"""Training of the entropy model, from byte shards.

Documents are laid end to end as (token, next token) pairs and cut into rows; a document longer than
a row goes on in the next. Rows are shuffled in a seeded buffer. Held-out documents (by the hash of
their id, as everywhere) are never trained on; some of them are what the model is judged by.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from blt.dataset.several import Datasets, read_datasets
from blt.dataset.shard_feed import ShardFeed
from blt.dataset.splits import DEFAULT_SEED, DEFAULT_VALID_FRACTION, is_held_out
from blt.dataset.storage import Place, PlaceLike, as_place, prepare_output_file
from blt.errors import UserError
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.model.presets import ENTROPY_PRESETS, check_preset, create_entropy_model
from blt.model.serialization import check_model_name, fingerprint
from blt.tokenizer import BYTE_OFFSET
from blt.training.common import HistoryWriter, Report, TrainingReporter, save_trained
from blt.training.fitting import check_learning_rate, fit_language_model

Row = tuple[np.ndarray, np.ndarray, np.ndarray]  # tokens, targets, segment_ids: [seq_len] int32

# How each preset is trained unless the config says otherwise. `tiny` was
# tuned on 1.7 MB of English text, which its steps go through once; the others are guesses between
# it and the published run, whose learning rate and steps `100m` has.
TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 300, "batch_size": 8, "seq_len": 512, "learning_rate": 8e-3},
    "1m": {"steps": 2000, "batch_size": 16, "seq_len": 1024, "learning_rate": 2e-3},
    "10m": {"steps": 10_000, "batch_size": 32, "seq_len": 2048, "learning_rate": 1e-3},
    "50m": {"steps": 50_000, "batch_size": 32, "seq_len": 4096, "learning_rate": 4e-4},
    "100m": {"steps": 100_000, "batch_size": 32, "seq_len": 8192, "learning_rate": 4e-4},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyTrainingConfig:
    """How to train an entropy model. What is None is the preset's.

    Attributes:
      preset: a key of `ENTROPY_PRESETS`.
      model: arguments of `EntropyModel` that differ from the preset.
      steps: optimizer steps; they alone end the training.
      batch_size: rows in a step.
      seq_len: tokens in a row.
      learning_rate: the peak; a tenth of the steps (500 at most) warm up, a cosine follows.
      weight_decay: of matrices; norms and embeddings have none.
      gradient_clipping_by_norm: of all gradients together.
      valid_fraction: part of the documents that is held out.
      split_seed: of the hash that holds documents out.
      seed: of the weights and of the order of the data.
      shuffle_rows: rows in the shuffle buffer.
      max_valid_rows: rows of held-out text that the model is judged by.
      history_records: records in the history.
      evaluations: times at which the model is judged by held-out text, the end included.
    """

    preset: str = "tiny"
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.01
    gradient_clipping_by_norm: float = 1.0
    valid_fraction: float = DEFAULT_VALID_FRACTION
    split_seed: int = DEFAULT_SEED
    seed: int = 0
    shuffle_rows: int = 8192
    max_valid_rows: int = 512
    history_records: int = 50
    evaluations: int = 2

    def __post_init__(self) -> None:
        check_preset(self.preset, ENTROPY_PRESETS)
        for name, value in TRAINING_PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("steps", "batch_size", "seq_len", "shuffle_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        check_learning_rate(self.learning_rate)
        if not 0 <= self.valid_fraction < 1:
            raise UserError(f"valid_fraction must be in [0, 1), got {self.valid_fraction}.")


def make_rows(records: Iterable[ByteRecord], seq_len: int) -> Iterator[Row]:
    """Lays documents end to end and cuts rows.

    Targets are the next tokens. With seq_len 4 and documents AB and C:

        tokens      BOS A B BOS | C
        targets       A B EOS C | EOS
        segment_ids   1 1 1   2 | 1

    Every token but BOS is a target once; the last row is filled with PAD (segment 0).
    """
    row = np.zeros((3, seq_len), np.int32)
    filled, segment = 0, 0
    last = np.empty(0, np.uint16)  # the last token of the part before, of the same document
    for record in records:
        if record.part == 0:
            last = last[:0]
            segment += 1
        tokens = np.concatenate([last, record.tokens])
        last = tokens[-1:]
        start = 0
        while start < len(tokens) - 1:
            taken = min(seq_len - filled, len(tokens) - 1 - start)
            row[0, filled : filled + taken] = tokens[start : start + taken]
            row[1, filled : filled + taken] = tokens[start + 1 : start + taken + 1]
            row[2, filled : filled + taken] = segment
            filled += taken
            start += taken
            if filled == seq_len:
                yield row[0], row[1], row[2]
                row, filled, segment = np.zeros((3, seq_len), np.int32), 0, 1
    if filled:
        yield row[0], row[1], row[2]


def shuffle_rows(rows: Iterable[Row], buffer_size: int, rng: np.random.Generator) -> Iterator[Row]:
    """Yields the rows in a random order, each drawn from a buffer of `buffer_size` rows."""
    buffer: list[Row] = []
    for row in rows:
        if len(buffer) < buffer_size:
            buffer.append(row)
            continue
        index = int(rng.integers(buffer_size))
        yield buffer[index]
        buffer[index] = row
    for index in rng.permutation(len(buffer)):
        yield buffer[index]


class _Corpus:
    """The documents of byte datasets, as batches of rows."""

    def __init__(self, feed: ShardFeed, config: EntropyTrainingConfig) -> None:
        self._names = feed.names
        self._feed = feed
        self._config = config

    def _records(
        self, names: Sequence[str], *, held_out: bool, then: Sequence[str] = ()
    ) -> Iterator[ByteRecord]:
        config = self._config
        for record in self._feed.read(names, read_byte_shard, then=then):
            if held_out == is_held_out(
                record.doc_id, fraction=config.valid_fraction, seed=config.split_seed
            ):
                yield record

    def _batches(self, rows: Iterator[Row]) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        size = self._config.batch_size
        while batch := list(itertools.islice(rows, size)):
            tokens, targets, segment_ids = (np.stack(part) for part in zip(*batch, strict=True))
            if len(batch) < size:  # one shape, so that one program is compiled
                missing = [[0, size - len(batch)], [0, 0]]
                tokens, targets, segment_ids = (
                    np.pad(part, missing) for part in (tokens, targets, segment_ids)
                )
            yield {"tokens": tokens, "segment_ids": segment_ids}, targets

    def training_batches(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Yields batches without end; each epoch has its own order of shards and rows."""
        yield from self._batches(self._training_rows())  # Keras takes generators only

    def _training_rows(self) -> Iterator[Row]:
        config = self._config
        for epoch in itertools.count():
            rng = self._rng(epoch)
            names, then = self._order(rng), self._order(self._rng(epoch + 1))
            rows = make_rows(self._records(names, held_out=False, then=then), config.seq_len)
            yield from shuffle_rows(rows, config.shuffle_rows, rng)

    def _rng(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self._config.seed, epoch])

    def _order(self, rng: np.random.Generator) -> list[str]:
        return [self._names[index] for index in rng.permutation(len(self._names))]

    def valid_batches(self) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        rows = itertools.chain.from_iterable(
            itertools.islice(
                make_rows(self._records(names, held_out=True), self._config.seq_len), num_rows
            )
            for names, num_rows in self._feed.shared(self._config.max_valid_rows)
        )
        return list(self._batches(rows))

    def has_training_text(self) -> bool:
        records = self._records(self._names, held_out=False)
        return any((record.tokens >= BYTE_OFFSET).any() for record in records)


def train_entropy_model(
    data: PlaceLike | Sequence[PlaceLike],
    output: PlaceLike,
    config: EntropyTrainingConfig,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Trains an entropy model and writes it.

    Args:
      data: a dataset of byte shards, or several. Shards of a store are fetched ahead of the steps.
      output: the model file to make; its history goes to `<output>.history.jsonl` beside it.
      config: how.
      report: takes lines of progress.

    Returns:
      A summary: `parameters`, `steps`, `bits_per_byte` (training, at the end),
      `held_out_bits_per_byte` (of rows of held-out documents; None if there are none), `seconds`,
      `fingerprint`, `output`.

    Raises:
      UserError: there is nothing to train on, `output` is not a model file's name, or it cannot be
        written to.
      WorkError: the training diverged, or the model cannot be written.
    """
    output = as_place(output)
    check_model_name(output)
    datasets = read_datasets(data, "byte_shards")
    with ShardFeed(datasets) as feed:
        return _train(_Corpus(feed, config), datasets, output, config, report)


def _train(
    corpus: _Corpus,
    data: Datasets,
    output: Place,
    config: EntropyTrainingConfig,
    report: Report,
) -> dict[str, Any]:
    start = time.monotonic()
    if not corpus.has_training_text():
        raise UserError(
            f"{data.where}: no documents to train on, once those held out are left out "
            f"(valid_fraction {config.valid_fraction}). Encode more text."
        )
    prepare_output_file(output)
    keras.utils.set_random_seed(config.seed)
    model = create_entropy_model(config.preset, **config.model)
    report(f"entropy model {config.preset}: {model.count_params():,} parameters")
    history = HistoryWriter(output.with_name(output.name + ".history.jsonl"), report)
    reporter = TrainingReporter(
        history=history,
        report=report,
        num_steps=config.steps,
        tokens_per_step=config.batch_size * config.seq_len,
    )
    fit_language_model(model, corpus.training_batches(), corpus.valid_batches(), config, reporter)
    save_trained(model, output)
    history.finish()
    return {
        "parameters": model.count_params(),
        "steps": config.steps,
        "bits_per_byte": reporter.last_record["bits_per_byte"],
        "held_out_bits_per_byte": reporter.last_record.get("held_out_bits_per_byte"),
        "seconds": round(time.monotonic() - start, 1),
        "fingerprint": fingerprint(model),
        "output": str(output),
    }
