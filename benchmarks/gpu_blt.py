"""The stages of `benchmarks/gpu.py` that run a BLT: scoring, training, and a run resumed once.

Rows are packed from the documents of `benchmarks/engine.py`, cut by the rule `space`, under budgets
of tokens and of patches that are nearly full both. Operations are those that the text needs: two
for every weight of a matrix and every byte, patch or slice it is applied to, four for every width
and key in reach; training takes three times as many. Padding, masks and work done again count as
nothing.
"""

import itertools
import math
import statistics
import time
import types
from collections.abc import Iterator
from typing import Any

import jax
import keras
import numpy as np
from gpu_engine import documents_of
from gpu_timing import ROUNDS, kernel_times, seconds_of, tried

from blt.dataset.joining import PatchedDocument
from blt.formats.training_shard import PackedSequence
from blt.model.blt import ByteLatentTransformer, create_blt
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.tokenizer import PAD_ID, frame_tokens
from blt.training_data.packing import pack_documents

RULE = PatchRule(rule="space")
# Tokens in a row, and rows in a batch, by variant.
SEQ_LEN = 2048
ROWS = {"micro": 64, "small": 64, "base": 48}


def packed_rows(arguments: Any, seq_len: int) -> tuple[list[PackedSequence], int]:
    """Returns sequences of packed documents, and the budget of patches that fits them."""
    documents = []
    for index, text in enumerate(documents_of(arguments)):
        tokens = frame_tokens(text)
        lengths = find_patch_lengths(tokens, None, RULE)
        documents.append(PatchedDocument(index, str(index), tokens, lengths))
    mean = sum(len(d.tokens) for d in documents) / sum(len(d.patch_lengths) for d in documents)
    max_patches = math.ceil(seq_len / mean / 64) * 64
    sequences = list(pack_documents(documents, seq_len=seq_len, max_patches=max_patches))
    return sequences, max_patches


def make_batch(rows: list[PackedSequence], seq_len: int, max_patches: int) -> dict[str, np.ndarray]:
    batch = {
        "tokens": np.full((len(rows), seq_len), PAD_ID, np.int32),
        "segment_ids": np.zeros((len(rows), seq_len), np.int32),
        "patch_lengths": np.zeros((len(rows), max_patches), np.int32),
    }
    for i, row in enumerate(rows):
        batch["tokens"][i, : len(row.tokens)] = row.tokens
        batch["segment_ids"][i, : len(row.tokens)] = row.segment_ids
        batch["patch_lengths"][i, : len(row.patch_lengths)] = row.patch_lengths
    return batch


def targets_of(batch: dict[str, np.ndarray]) -> np.ndarray:
    following = np.pad(batch["tokens"][:, 1:], [[0, 0], [0, 1]])
    segments = np.pad(batch["segment_ids"][:, 1:], [[0, 0], [0, 1]])
    same = (segments == batch["segment_ids"]) & (batch["segment_ids"] > 0)
    return np.where(same, following, PAD_ID)


def needed_operations(model: ByteLatentTransformer, batch: dict[str, np.ndarray]) -> float:
    """Returns the operations that one forward pass over the text of a batch takes."""
    encoder, large, decoder = (
        model.local_encoder,
        model.global_transformer,
        model.local_decoder,
    )
    num_bytes = float((batch["segment_ids"] > 0).sum())
    num_patches = float((batch["patch_lengths"] > 0).sum())
    num_slices = num_patches * encoder.num_slices

    def matrices(layer: Any) -> float:
        return float(sum(math.prod(w.shape) for w in layer.trainable_weights if len(w.shape) == 2))

    total = 0.0
    for part, window in ((encoder, model.encoder_window), (decoder, model.decoder_window)):
        for layer in part.transformer_layers:
            total += num_bytes * matrices(layer)
            total += 2 * keys_in_reach(batch["segment_ids"], window) * width_of(layer)
        total += num_patches * matrices(part.patch_projection)
    patch_segments = segments_of_patches(batch)
    for layer in large.transformer_layers:
        total += num_patches * matrices(layer)
        total += 2 * keys_in_reach(patch_segments, None) * width_of(layer)
    if large.projection is not None:
        total += num_patches * matrices(large.projection)
    for cross in encoder.cross_attention_layers:
        total += num_slices * (matrices(cross.query) + matrices(cross.out))
        total += num_bytes * matrices(cross.key_value)
    for cross in decoder.cross_attention_layers:
        total += num_bytes * (matrices(cross.query) + matrices(cross.out))
        total += num_slices * matrices(cross.key_value)
    total += num_bytes * matrices(decoder.output_layer)
    return 2 * total


def width_of(layer: Any) -> int:
    return layer.attention.num_heads * layer.attention._head_dim


def segments_of_patches(batch: dict[str, np.ndarray]) -> np.ndarray:
    lengths = batch["patch_lengths"]
    starts = np.cumsum(lengths, axis=1) - lengths
    rows = np.arange(len(lengths))[:, None]
    starts = np.minimum(starts, batch["segment_ids"].shape[1] - 1)
    return np.where(lengths > 0, batch["segment_ids"][rows, starts], 0)


def keys_in_reach(segment_ids: np.ndarray, window: int | None) -> float:
    """Returns the keys that all tokens (not padding) together see."""
    total = 0.0
    for row in segment_ids:
        _, lengths = np.unique(row[row > 0], return_counts=True)
        for length in lengths.tolist():
            short = min(length, window or length)
            total += short * (short + 1) / 2 + (length - short) * short
    return total


def make_blt(variant: str, seq_len: int, max_patches: int, dtype: str) -> ByteLatentTransformer:
    keras.utils.set_random_seed(0)
    return create_blt(
        variant,
        max_sequence_length=seq_len,
        max_patches=max_patches,
        entropy_model=None,
        patch_rule=RULE,
        dtype=dtype,
    )


def sizes_of(arguments: Any, variant: str) -> tuple[str, int, int]:
    """Returns the preset, tokens in a row and rows in a batch."""
    return ("tiny", 256, 2) if arguments.tiny else (variant, SEQ_LEN, ROWS[variant])


def scoring(arguments: Any, report: Any) -> dict[str, Any]:
    """The scorer's forward pass over packed rows: bytes a second, and share of the matrix rate."""
    from blt.model.compiled import compile_function
    from blt.scoring.blt_scorer import _token_nats

    found: dict[str, Any] = {}
    on_gpu = jax.devices()[0].platform == "gpu"
    for variant in arguments.variants:
        preset, seq_len, num_rows = sizes_of(arguments, variant)
        rows, max_patches = packed_rows(arguments, seq_len)
        batch = make_batch(rows[:num_rows], seq_len, max_patches)
        model = make_blt(preset, seq_len, max_patches, "bfloat16" if on_gpu else "float32")
        program = compile_function(model, lambda *arrays, m=model: _token_nats(m, *arrays))
        arrays = [jax.device_put(batch[n]) for n in ("tokens", "patch_lengths", "segment_ids")]
        start = time.perf_counter()
        jax.block_until_ready(program(*arrays))
        compiled = time.perf_counter() - start
        seconds = seconds_of(lambda p=program, a=arrays: p(*a), seconds=arguments.seconds)
        found[variant] = {
            **described(model, batch),
            "compile_seconds": compiled,
            **rates(needed_operations(model, batch), batch, seconds, report),
        }
        if "profile" in arguments.stages:
            found[variant]["kernels"] = kernel_times(
                lambda p=program, a=arrays: jax.block_until_ready(p(*a)), 2
            )
        print("scoring", variant, found[variant], flush=True)
    return found


def described(model: ByteLatentTransformer, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "parameters": model.count_params(),
        "rows": len(batch["tokens"]),
        "seq_len": batch["tokens"].shape[1],
        "max_patches": batch["patch_lengths"].shape[1],
        "padding_of_tokens": float((batch["segment_ids"] == 0).mean()),
        "padding_of_patches": float((batch["patch_lengths"] == 0).mean()),
    }


def rates(needed: float, batch: dict[str, np.ndarray], seconds: float, report: Any) -> dict:
    num_bytes = float((batch["tokens"] >= 4).sum())
    return {
        "step_seconds": seconds,
        "operations_per_byte": needed / num_bytes,
        "bytes_per_second": num_bytes / seconds,
        "share_of_matrix_rate": needed / seconds / report.matrix_rate(),
    }


class Steps(keras.callbacks.Callback):
    """The loss of each step of `fit`, and the seconds of one.

    The clock starts when the second step is done, so that what `fit` does before and the compiler
    are left out; from there on nothing waits for a step but the next one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Any] = []
        self._start = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])
        if len(self.losses) == 2:
            float(logs["loss"])
            self._start = time.perf_counter()

    def on_train_end(self, logs: Any = None) -> None:
        self.losses = [float(loss) for loss in self.losses]
        self.seconds = (time.perf_counter() - self._start) / max(1, len(self.losses) - 2)


def make_trainer(model: ByteLatentTransformer, steps: int) -> keras.Model:
    """The library's own trainer, as `blt train` makes it."""
    from blt.training.common import NextTokenTrainer
    from blt.training.fitting import _make_optimizer

    trainer = NextTokenTrainer(model)
    config = types.SimpleNamespace(
        steps=steps, learning_rate=6e-4, weight_decay=0.01, gradient_clipping_by_norm=1.0
    )
    trainer.compile(optimizer=_make_optimizer(config), jit_compile=True)
    return trainer


def fit(trainer: keras.Model, batches: Iterator[Any], steps: int) -> tuple[float, list[float]]:
    """Returns the seconds of a step, of 3 or more, and the loss of each."""
    taken = Steps()
    trainer.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[taken])
    return taken.seconds, taken.losses


def training_batches(
    rows: list[PackedSequence], num_rows: int, seq_len: int, max_patches: int, first: int = 0
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Batches without end, each of which follows from its number."""
    number = first
    while True:
        rng = np.random.default_rng([7, number])
        chosen = [rows[i] for i in rng.integers(0, len(rows), num_rows)]
        batch = make_batch(chosen, seq_len, max_patches)
        yield batch, targets_of(batch)
        number += 1


def training(arguments: Any, report: Any) -> dict[str, Any]:
    """`fit` for some steps: bytes a second, share of the matrix rate, memory."""
    found: dict[str, Any] = {}
    for variant in arguments.variants:
        preset, seq_len, num_rows = sizes_of(arguments, variant)
        found[variant] = tried(measure_training, arguments, report, preset, seq_len, num_rows)
        print("training", variant, found[variant], flush=True)
    return found


def measure_training(
    arguments: Any, report: Any, preset: str, seq_len: int, num_rows: int
) -> dict[str, Any]:
    on_gpu = jax.devices()[0].platform == "gpu"
    rows, max_patches = packed_rows(arguments, seq_len)
    model = make_blt(preset, seq_len, max_patches, "mixed_bfloat16" if on_gpu else "float32")
    trainer = make_trainer(model, 1000)
    batch, targets = next(training_batches(rows, num_rows, seq_len, max_patches))
    repeated = (pair for pair in itertools.repeat((batch, targets)))
    start = time.perf_counter()
    fit(trainer, repeated, 2)
    compiled = time.perf_counter() - start
    once, _ = fit(trainer, repeated, 5)
    steps = max(6, round(arguments.seconds / ROUNDS / once))
    rounds = [fit(trainer, repeated, steps) for _ in range(ROUNDS)]
    seconds = statistics.median(seconds for seconds, _ in rounds)
    stats = jax.devices()[0].memory_stats() or {}
    found = {
        **described(model, batch),
        "compile_seconds": compiled,
        **rates(3 * needed_operations(model, batch), batch, seconds, report),
        # Of the process: meaningful for the first variant that is trained in it.
        "peak_bytes_in_use": stats.get("peak_bytes_in_use"),
        "losses": [losses[-1] for _, losses in rounds],
    }
    if "profile" in arguments.stages:
        found["kernels"] = kernel_times(lambda: fit(trainer, repeated, 2), 1)
    return found


def run(arguments: Any, report: Any) -> dict[str, Any]:
    """A training of `small`, stopped and gone on with from what was saved; beside one that was not.

    Model, optimizer and the number of the step are saved; batches follow from their numbers.
    """
    preset, seq_len, num_rows = sizes_of(arguments, "small")
    rows, max_patches = packed_rows(arguments, seq_len)
    dtype = "mixed_bfloat16" if jax.devices()[0].platform == "gpu" else "float32"

    def trainer_and_batches(first: int) -> tuple[keras.Model, Iterator[Any]]:
        trainer = make_trainer(make_blt(preset, seq_len, max_patches, dtype), 100_000)
        return trainer, training_batches(rows, num_rows, seq_len, max_patches, first)

    trainer, batches = trainer_and_batches(0)
    start = time.perf_counter()
    losses: list[float] = []
    while not losses or time.perf_counter() - start < 10 * arguments.seconds:
        losses += fit(trainer, batches, 20 if len(losses) else 5)[1]
    seconds = time.perf_counter() - start
    saved = [np.asarray(v.value) for v in (*trainer.variables, *trainer.optimizer.variables)]
    undisturbed = fit(trainer, batches, 5)[1]
    resumed, batches = trainer_and_batches(len(losses))
    resumed.optimizer.build(resumed.trainable_variables)
    variables = [*resumed.variables, *resumed.optimizer.variables]
    for variable, value in zip(variables, saved, strict=True):
        variable.assign(value)
    again = fit(resumed, batches, 5)[1]
    return {
        "steps": len(losses),
        "seconds": seconds,
        "first_losses": losses[:3],
        "last_losses": losses[-3:],
        "undisturbed": undisturbed,
        "resumed": again,
        "differ_max": float(np.abs(np.subtract(undisturbed, again)).max()),
    }
