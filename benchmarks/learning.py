"""Trains both models as nanoGPT trains its smallest, on the same text, and sets them beside it.

    python benchmarks/learning.py --text input.txt      (some 10 minutes on 2 CPU cores)

The text is tiny Shakespeare, https://github.com/karpathy/char-rnn (data/tinyshakespeare). nanoGPT
(https://github.com/karpathy/nanoGPT, README, "I only have a macbook") publishes a loss of 1.88 nats
a character, estimated on 20 batches, for 4 layers of width 128 after 2000 steps of 12 random crops
of 64 characters; we take it as the validation loss, which its commands report beside the training
loss. We take the same split (the first 90 % of the bytes train), as many steps of as many crops of
that size, and about as many parameters, all tables counted; the text is ASCII, so a byte is a
character. What differs is the models and how they are optimized: the settings below were
chosen on the last 5 % of the training bytes, not on the validation bytes, and the models here are
trained on all of the training bytes. The BLT has the same crops and steps as the entropy model.

Validation is the mean of -ln p over the targets of all disjoint blocks of 64 inputs, each of which
starts without context: the mean that nanoGPT estimates by random crops.
"""

# ruff: noqa: E402  (logs are silenced before TensorFlow is imported)

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from blt.cli.quiet import import_keras, silence

silence()
keras = import_keras()

from blt.model.blt import ByteLatentTransformer
from blt.model.entropy_model import EntropyModel
from blt.optimization import learning_rate_schedule_builder, optimizer_builder
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.tokenizer import BYTE_OFFSET
from blt.training.common import NextTokenTrainer

BLOCK = 64  # bytes that predict the 64 after each of them
BATCH = 12
STEPS = 2000
TRAIN_PART = 0.9
PUBLISHED_NATS = 1.88  # by nanoGPT's README; not measured here
PUBLISHED_PARAMETERS = "0.80 M"  # by its shape, without the table of positions, as it counts them

VALIDATION_BATCH = 16
MAX_PATCHES = BLOCK // 2 + 1  # by the rule below, all patches but a row's first have two bytes
PATCH_RULE = PatchRule(rule="space")

WARMUP_STEPS = 100
SCHEDULE = {
    "type": "cosine_decay",
    "learning_rate": 2e-3,
    "warmup_steps": WARMUP_STEPS,
    "decay_steps": STEPS - WARMUP_STEPS,
    "alpha": 0.02,
}
OPTIMIZER = {
    "type": "adamw",
    "weight_decay": 0.1,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "gradient_clipping_by_norm": 1.0,
}


def create_entropy() -> keras.Model:
    return EntropyModel(dim=128, num_layers=4, num_heads=8, hidden_dim=304, window=BLOCK)


def create_blt() -> keras.Model:
    """Without hashed n-grams, which would be most of so small a model."""
    return ByteLatentTransformer(
        local_dim=96,
        num_encoder_layers=1,
        num_decoder_layers=2,
        local_attention_config={"type": "sliding_window", "num_heads": 6, "window": BLOCK},
        local_ffn_config={"type": "swiglu", "hidden_dim": 256},
        global_dim=128,
        num_global_layers=1,
        global_attention_config={"type": "multi_head", "num_heads": 8},
        global_ffn_config={"type": "swiglu", "hidden_dim": 384},
        entropy_model=None,
        patch_rule=PATCH_RULE,
        max_sequence_length=BLOCK,
        max_patches=MAX_PATCHES,
    )


MODELS = {"entropy": create_entropy, "blt": create_blt}
LABELS = {"entropy": "entropy model", "blt": "BLT, patches by `space`"}


def main() -> None:
    arguments = parse_arguments()
    text = np.frombuffer(arguments.text.read_bytes(), np.uint8)
    split = int(TRAIN_PART * len(text))
    training, validation = (part.astype(np.int32) + BYTE_OFFSET for part in np.split(text, [split]))
    if min(len(training), len(validation)) <= BLOCK:
        sys.exit(f"{arguments.text}: too short, {len(text)} bytes.")
    results = []
    for name in arguments.models:
        for seed in arguments.seeds:
            result = {"model": name, "seed": seed, **train(name, seed, training, validation)}
            results.append(result)
            say(f"{name}, seed {seed}: {result['validation_nats']:.4f} nats a byte")
            if arguments.output:
                arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print_table(results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="the text, as input.txt holds it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    return parser.parse_args()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def train(name: str, seed: int, training: np.ndarray, validation: np.ndarray) -> dict:
    """Trains a model on random crops; returns its size, seconds, and nats a byte."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = MODELS[name]()
    crops = sample_crops(training, np.random.default_rng(seed))
    schedule = learning_rate_schedule_builder(SCHEDULE)
    trainer = NextTokenTrainer(model)
    trainer.compile(optimizer=optimizer_builder(OPTIMIZER, schedule), jit_compile=True)

    start = time.monotonic()
    trainer.fit(
        make_inputs(name, crops[:, :-1]),
        crops[:, 1:],
        batch_size=BATCH,
        shuffle=False,
        callbacks=[Progress(f"{name}, seed {seed}")],
        verbose=0,
    )
    seconds = time.monotonic() - start
    return {
        "parameters": model.count_params(),
        "training_bytes": STEPS * BATCH * BLOCK,
        "seconds": round(seconds, 1),
        **validate(name, trainer, validation),
    }


def sample_crops(tokens: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[STEPS * BATCH, BLOCK + 1], from places drawn evenly over the text."""
    starts = generator.integers(0, len(tokens) - BLOCK, STEPS * BATCH)
    return tokens[starts[:, None] + np.arange(BLOCK + 1)]


def make_inputs(name: str, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the model is called with; a row of the BLT is cut as if it were a document."""
    inputs = {"tokens": tokens}
    if name == "blt":
        inputs["patch_lengths"] = np.zeros((len(tokens), MAX_PATCHES), np.int32)
        for row, lengths in zip(tokens, inputs["patch_lengths"], strict=True):
            found = find_patch_lengths(row, None, PATCH_RULE)
            lengths[: len(found)] = found
    return inputs


def validate(name: str, trainer: keras.Model, tokens: np.ndarray) -> dict:
    """Returns the mean of -ln p over all disjoint blocks.

    The last blocks, too few for a batch, are a batch of their own: `evaluate` weighs batches by
    their rows, and all rows have as many targets.
    """
    num_blocks = (len(tokens) - 1) // BLOCK
    inputs = tokens[: num_blocks * BLOCK].reshape(num_blocks, BLOCK)
    targets = tokens[1 : num_blocks * BLOCK + 1].reshape(num_blocks, BLOCK)
    figures = trainer.evaluate(
        make_inputs(name, inputs),
        targets,
        batch_size=VALIDATION_BATCH,
        return_dict=True,
        verbose=0,
    )
    return {"validation_nats": figures["loss"], "validation_bytes": num_blocks * BLOCK}


class Progress(keras.callbacks.Callback):
    """Says a line every 500 steps."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if (batch + 1) % 500 == 0:
            nats = float((logs or {})["loss"])
            say(f"{self._label}: step {batch + 1}/{STEPS}, mean training loss so far {nats:.3f}")


def print_table(results: list[dict]) -> None:
    seeds = list(dict.fromkeys(result["seed"] for result in results))
    columns = ["parameters", "training bytes", "seconds a run", *(f"seed {i}" for i in seeds)]
    print(f"| validation nats a byte | {' | '.join(columns)} | mean |")
    print("|---" * (len(columns) + 2) + "|")
    for name in dict.fromkeys(result["model"] for result in results):
        rows = [result for result in results if result["model"] == name]
        nats = [row["validation_nats"] for row in rows]
        cells = [
            LABELS[name],
            f"{rows[0]['parameters']:,}",
            f"{rows[0]['training_bytes']:,}",
            f"{np.mean([row['seconds'] for row in rows]):.0f}",
            *(f"{figure:.3f}" for figure in nats),
            f"**{np.mean(nats):.3f}**",
        ]
        print(f"| {' | '.join(cells)} |")
    published = ["nanoGPT, published (not measured here)", PUBLISHED_PARAMETERS]
    published += [f"{STEPS * BATCH * BLOCK:,}", "", *("" for _ in seeds), f"{PUBLISHED_NATS:.2f}"]
    print(f"| {' | '.join(published)} |")


if __name__ == "__main__":
    main()
