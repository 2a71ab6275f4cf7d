"""Trains a Byte Latent Transformer on training shards."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from blt.cli.command import Summary
from blt.cli.console import Console, count
from blt.cli.quiet import import_keras
from blt.commands.arguments import (
    add_data_argument,
    add_output_arguments,
    number,
    place,
    positive_int,
    whole_number,
)
from blt.commands.read_together import with_read
from blt.commands.sidecar import find_finished, note_finished
from blt.commands.train_entropy import training_words
from blt.dataset.manifest import MANIFEST_NAME, read_manifest
from blt.dataset.several import read_datasets
from blt.dataset.storage import Place, place_errors

if TYPE_CHECKING:
    from blt.training.blt import BltTrainingConfig

NAME = "train"
HELP = "a Byte Latent Transformer, from training shards"
IF_INTERRUPTED = "A training that is not finished leaves no model; the same command begins anew."
DESCRIPTION = """\
Trains a BLT on packed sequences, whose patches were made beforehand. The folder gets the model
(model.keras), its history and a manifest. Training ends after a number of steps, so that the same
command gives the same model; the figure at the end, in bits per byte, is of held-out sequences."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser, metavar="TRAIN", help="From blt pack.")
    parser.add_argument(
        "--entropy-model",
        type=place,
        metavar="FILE.keras",
        help="The model that made the patches. It is kept, frozen, in the BLT's file, which can "
        "then score text alone. Any other model is refused.",
    )
    add_output_arguments(parser, "the run")
    group = parser.add_argument_group("model and training")
    group.add_argument(
        "--preset",
        default="tiny",
        help="Size of the model: tiny (for a CPU and a minute), micro (15 M parameters), small "
        "(125 M), base (350 M) or large (1.3 B).",
    )
    group.add_argument(
        "--steps", type=positive_int, help="Optimizer steps; the preset's if not given."
    )
    group.add_argument(
        "--batch-size", type=positive_int, help="Sequences in a step; the preset's if not given."
    )
    group.add_argument(
        "--learning-rate",
        type=number,
        help="Peak of the schedule (warm-up, then cosine decay); the preset's if not given.",
    )
    group.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        metavar="N",
        help="Of the weights and the order of the data.",
    )


def check(args: argparse.Namespace) -> "BltTrainingConfig":
    """Returns the config that the flags ask for; raises UserError if it will not do."""
    import_keras()
    from blt.training.blt import BltTrainingConfig

    return BltTrainingConfig(
        preset=args.preset,
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Trains; see `DESCRIPTION`."""
    data = read_datasets(args.data, "training_shards")
    import_keras(verbose=console.verbose)
    from blt.engine.accelerator import unused_gpu_note
    from blt.model.serialization import fingerprint, load_entropy_model
    from blt.training.blt import MODEL_NAME, train_blt

    config = check(args)
    kept = None
    if args.entropy_model is not None:
        kept = fingerprint(load_entropy_model(args.entropy_model))
    identity = {
        "command": NAME,
        "config": dataclasses.asdict(config),
        "fingerprints": {"entropy_model": kept},
        "parents": {"training_shards": data.sha256},
    }
    model = args.output / MODEL_NAME
    _check_folder(args.output)
    how = "already done"
    result = find_finished(model, identity, overwrite=args.overwrite)
    if not (args.output / MANIFEST_NAME).is_file():
        result = None  # stopped before the run was whole
    if args.dry_run:
        lines = [f"train would train {args.preset} for {count(config.steps, 'step')} (dry run)."]
        return with_read(Summary({"dry_run": True, "outputs": [str(model)]}, lines), data=data)
    if result is None:
        how = "done"
        if note := unused_gpu_note():
            console.say(note)
        result = train_blt(
            args.data, args.output, config, entropy_model=args.entropy_model, report=console.show
        )
        console.end_progress()
        note_finished(model, identity, result)
    words = training_words(result, "sequences")
    summary = Summary({"stage": NAME, "how": how, **result}, [f"train: {how}. {words} -> {model}"])
    return with_read(summary, data=data)


def _check_folder(output: Place) -> None:
    """Refuses a folder that holds the result of another command, or cannot be asked."""
    with place_errors(output):
        is_there = (output / MANIFEST_NAME).is_file()
    if is_there:
        read_manifest(output, "blt_run")
