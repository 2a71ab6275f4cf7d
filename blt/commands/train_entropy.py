"""Trains an entropy model on byte shards."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from blt.cli.command import Summary
from blt.cli.console import Console, count
from blt.cli.quiet import import_keras
from blt.commands.arguments import (
    add_data_argument,
    add_output_arguments,
    add_split_arguments,
    number,
    positive_int,
)
from blt.commands.read_together import with_read
from blt.commands.sidecar import find_finished, note_finished
from blt.dataset.several import read_datasets
from blt.dataset.storage import prepare_output_file

if TYPE_CHECKING:
    from blt.training.entropy import EntropyTrainingConfig

NAME = "train-entropy"
HELP = "an entropy model, from byte shards"
IF_INTERRUPTED = "A training that is not finished leaves no model; the same command begins anew."
DESCRIPTION = """\
Trains a small byte language model. Its uncertainty about the next byte is what patch boundaries
are made from. Held-out documents are never trained on; the figure at the end, in bits per byte, is
of those. Training ends after a number of steps, so that the same command gives the same model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_output_arguments(parser, "the model", metavar="FILE.keras")
    add_split_arguments(parser)
    group = parser.add_argument_group("model and training")
    group.add_argument(
        "--preset",
        default="tiny",
        help="Size of the model: tiny (for a CPU and a minute), 1m, 10m, 50m or 100m (for a GPU).",
    )
    group.add_argument(
        "--steps", type=positive_int, help="Optimizer steps; the preset's if not given."
    )
    group.add_argument(
        "--batch-size", type=positive_int, help="Rows in a step; the preset's if not given."
    )
    group.add_argument(
        "--seq-len", type=positive_int, help="Tokens in a row; the preset's if not given."
    )
    group.add_argument(
        "--learning-rate",
        type=number,
        help="Peak of the schedule (warm-up, then cosine decay); the preset's if not given.",
    )


def check(args: argparse.Namespace) -> "EntropyTrainingConfig":
    """Returns the config that the flags ask for; raises UserError if it will not do."""
    import_keras()
    from blt.training.entropy import EntropyTrainingConfig

    return EntropyTrainingConfig(
        preset=args.preset,
        steps=args.steps,
        batch_size=args.batch_size,
        seq_len=args.seq_len,
        learning_rate=args.learning_rate,
        valid_fraction=args.valid_fraction,
        split_seed=args.seed,
        seed=args.seed,
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Trains; see `DESCRIPTION`."""
    data = read_datasets(args.data, "byte_shards")
    import_keras(verbose=console.verbose)
    from blt.engine.accelerator import unused_gpu_note
    from blt.training.entropy import train_entropy_model

    config = check(args)
    identity = {
        "command": NAME,
        "config": dataclasses.asdict(config),
        "parents": {"byte_shards": data.sha256},
    }
    how = "already done"
    result = find_finished(args.output, identity, overwrite=args.overwrite)
    if args.dry_run:
        lines = [
            f"train-entropy would train {args.preset} for {count(config.steps, 'step')} (dry run)."
        ]
        plan = Summary({"dry_run": True, "outputs": [str(args.output)]}, lines)
        return with_read(plan, data=data)
    if result is None:
        prepare_output_file(args.output)
        how = "done"
        if note := unused_gpu_note():
            console.say(note)
        result = train_entropy_model(args.data, args.output, config, console.show)
        console.end_progress()
        note_finished(args.output, identity, result)
    summary = Summary(
        {"stage": NAME, "how": how, "output": str(args.output), **result},
        [f"train-entropy: {how}. {training_words(result, 'rows')} -> {args.output}"],
    )
    return with_read(summary, data=data)


def training_words(result: dict[str, Any], what: str) -> str:
    """Says what a training gave; `what` its held-out figure is of, "rows" or "sequences"."""
    held_out = result["held_out_bits_per_byte"]
    figure = "none to judge it by" if held_out is None else f"{held_out:.3f} bits/byte"
    return (
        f"{result['parameters']:,} parameters, {count(result['steps'], 'step')} in "
        f"{result['seconds']:.0f} s; held-out {what}: {figure}"
    )
