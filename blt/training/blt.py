"""Training of a BLT, from training shards.

Patches are those of the shards, so no entropy model runs here. One may be given to be kept in the
model's file, frozen, so that the file alone can score text; it must be the one that made them.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from blt.dataset.joining import check_entropy_fingerprint
from blt.dataset.manifest import MANIFEST_NAME, check_shard, write_manifest
from blt.dataset.several import Datasets, read_datasets
from blt.dataset.shard_feed import ShardFeed
from blt.dataset.storage import (
    Place,
    PlaceLike,
    as_place,
    local_copy,
    local_folder,
    prepare_output_folder,
    sha256_file,
)
from blt.dataset.units import ShardInfo
from blt.errors import UserError
from blt.model.blt import ByteLatentTransformer, create_blt
from blt.model.presets import BLT_PRESETS, check_preset
from blt.model.serialization import fingerprint, load_entropy_model
from blt.patching.rules import PatchRule
from blt.training.common import HistoryWriter, Report, TrainingReporter, save_trained
from blt.training.fitting import check_learning_rate, fit_language_model
from blt.training_data.training_dataset import dataset_of_feed

MODEL_NAME = "model.keras"
HISTORY_NAME = "history.jsonl"

# How each preset is trained unless the config says otherwise; for `tiny` measured, see
# docs/benchmarks.md.
TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 300, "batch_size": 8, "learning_rate": 8e-3},
    # Not measured: what is common at these sizes, to be set by whoever has the budget.
    "micro": {"steps": 10_000, "batch_size": 32, "learning_rate": 1e-3},
    "small": {"steps": 100_000, "batch_size": 64, "learning_rate": 6e-4},
    "base": {"steps": 200_000, "batch_size": 128, "learning_rate": 4e-4},
    "large": {"steps": 200_000, "batch_size": 256, "learning_rate": 4e-4},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BltTrainingConfig:
    """How to train a BLT. What is None is the preset's.

    Attributes:
      preset: a key of `blt.model.presets.BLT_PRESETS`.
      model: arguments of `ByteLatentTransformer` that differ from the preset.
      steps: optimizer steps; they alone end the training.
      batch_size: sequences in a step.
      learning_rate: the peak; a tenth of the steps (500 at most) warm up, a cosine follows.
      weight_decay: of matrices; norms and embeddings have none.
      gradient_clipping_by_norm: of all gradients together.
      seed: of the weights and of the order of the data.
      shuffle_sequences: sequences in the shuffle buffer.
      max_valid_sequences: held-out sequences that the model is judged by.
      history_records: records in the history.
      evaluations: times at which the model is judged by held-out text, the end included.
    """

    preset: str = "tiny"
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.01
    gradient_clipping_by_norm: float = 1.0
    seed: int = 0
    shuffle_sequences: int = 8192
    max_valid_sequences: int = 512
    history_records: int = 50
    evaluations: int = 2

    def __post_init__(self) -> None:
        check_preset(self.preset, BLT_PRESETS)
        for name, value in TRAINING_PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("steps", "batch_size", "shuffle_sequences", "evaluations"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        check_learning_rate(self.learning_rate)


def train_blt(
    data: PlaceLike | Sequence[PlaceLike],
    output: PlaceLike,
    config: BltTrainingConfig,
    *,
    entropy_model: PlaceLike | None = None,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Trains a BLT and writes a run: `model.keras`, `history.jsonl` and `_manifest.json`.

    Args:
      data: a dataset of training shards, or several that were packed in the same way. Shards of a
        store are fetched ahead of the steps.
      output: the folder to make.
      config: how.
      entropy_model: the model that made the shards' boundaries, to be kept in the model's file.
      report: takes lines of progress.

    Returns:
      A summary: `parameters`, `steps`, `bits_per_byte` (training, at the end),
      `held_out_bits_per_byte` (of held-out sequences; None if there are none), `seconds`,
      `fingerprint`, `output` (the model's file).

    Raises:
      UserError: there is nothing to train on, the entropy model is another one, or the folder
        cannot be written to.
      WorkError: the training diverged, or the model cannot be written.
    """
    datasets = read_datasets(data, "training_shards")
    with ShardFeed(datasets) as feed:
        for member in datasets.members:
            if local_folder(member.folder) is not None:  # others are checked as they are fetched
                for shard in member.shards:
                    check_shard(member.folder, shard)
        return _train(datasets, feed, as_place(output), config, entropy_model, report)


def _train(
    data: Datasets,
    feed: ShardFeed,
    output: Place,
    config: BltTrainingConfig,
    entropy_model: PlaceLike | None,
    report: Report,
) -> dict[str, Any]:
    start = time.monotonic()
    if not any(s.bytes for s in data.shards if s.name.startswith("train-")):
        raise UserError(
            f"{data.where}: no text to train on: all of it is held out, or all documents are "
            "empty. Encode more text."
        )
    kept = _load_matching_entropy_model(data, entropy_model)
    prepare_output_folder(output)
    keras.utils.set_random_seed(config.seed)
    model = create_blt(
        config.preset,
        **{
            **config.model,
            "max_sequence_length": data.config["seq_len"],
            "max_patches": data.config["max_patches"],
            "entropy_model": kept,
            "patch_rule": _patch_rule(data),
            "entropy_fingerprint": data.fingerprints.get("entropy_model"),
        },
    )
    report(f"BLT {config.preset}: {model.count_params():,} parameters")
    history = HistoryWriter(output / HISTORY_NAME, report)
    reporter = TrainingReporter(
        history=history,
        report=report,
        num_steps=config.steps,
        tokens_per_step=config.batch_size * model.max_sequence_length,
    )
    training, held_out = _datasets(feed, config, model)
    fit_language_model(model, training, held_out, config, reporter)
    (output / MANIFEST_NAME).unlink(missing_ok=True)  # until it is whole again
    save_trained(model, output / MODEL_NAME)
    history.finish()
    summary = {
        "parameters": model.count_params(),
        "steps": config.steps,
        "bits_per_byte": reporter.last_record["bits_per_byte"],
        "held_out_bits_per_byte": reporter.last_record.get("held_out_bits_per_byte"),
        "seconds": round(time.monotonic() - start, 1),
        "fingerprint": fingerprint(model),
        "output": str(output / MODEL_NAME),
    }
    _write_manifest(output, data, config, summary["fingerprint"])
    return summary


def _load_matching_entropy_model(data: Datasets, place: PlaceLike | None) -> keras.Model | None:
    if place is None:
        return None
    model = load_entropy_model(place)
    found = data.fingerprints.get("entropy_model")
    check_entropy_fingerprint(data.where, found, fingerprint(model))
    return model


def _patch_rule(data: Datasets) -> PatchRule | None:
    """Returns the rule that the shards' patches were made by, if their config tells it."""
    names = {field.name for field in dataclasses.fields(PatchRule)}
    rule = {k: v for k, v in (data.config.get("patch_rule") or {}).items() if k in names}
    return PatchRule(**rule) if rule else None


def _datasets(
    feed: ShardFeed,
    config: BltTrainingConfig,
    model: ByteLatentTransformer,
) -> tuple[Any, list[Any]]:
    """Returns training batches without end, and the held-out ones, of each dataset its share."""
    shape = {
        "batch_size": config.batch_size,
        "seq_len": model.max_sequence_length,
        "max_patches": model.max_patches,
    }
    training = dataset_of_feed(
        feed,
        [name for name in feed.names if name.startswith("train-")],
        shuffle_seed=config.seed,
        shuffle_sequences=config.shuffle_sequences,
        repeat=True,
        **shape,
    )
    held_out: list[Any] = []
    for names, num_sequences in feed.shared(config.max_valid_sequences):
        if valid_names := [name for name in names if name.startswith("valid-")]:
            batches = dataset_of_feed(feed, valid_names, **shape)
            batches = batches.take(math.ceil(num_sequences / config.batch_size))
            held_out += batches.as_numpy_iterator()
    return training, held_out


def _write_manifest(
    output: Place, data: Datasets, config: BltTrainingConfig, model_fingerprint: str
) -> None:
    """Lists the run's files; documents, bytes and tokens are those of the data."""
    totals = {name: data.totals[name] for name in ("documents", "bytes", "tokens")}
    files = [
        ShardInfo(name=name, **totals, sha256=sha256_file(local_copy(output / name)))
        for name in (MODEL_NAME, HISTORY_NAME)
    ]
    write_manifest(
        output,
        kind="blt_run",
        config={
            **dataclasses.asdict(config),
            "model": dict(config.model),
            # Which documents it was trained without, so that scores of them are called held out.
            "valid_fraction": data.config.get("valid_fraction"),
            "split_seed": data.config.get("seed"),
        },
        fingerprints={**data.fingerprints, "blt": model_fingerprint},
        parents={**_byte_shards_of(data), "training_shards": data.sha256},
        totals={**totals, "rejects": 0, "filtered": 0},
        shards=files,
    )


def _byte_shards_of(data: Datasets) -> dict[str, str]:
    """Returns which byte shards training shards were packed from, as parents; {} if unknown."""
    return {kind: sha for kind, sha in data.parents.items() if kind == "byte_shards"}
