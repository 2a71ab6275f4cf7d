"""Byte shards to an n-gram entropy model.

    Create(shards) -> Reshuffle -> count each -> add up -> write the sum

Counts are added up in whatever order they come; the model is the same to the byte.

    blt train-ngram --data bytes --output model.ngram
    python -m pipelines.train_ngram --data bytes --output model.ngram --direct_num_workers 2
"""

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
import time
import uuid

import numpy as np

from blt.cli import command
from blt.cli.command import Summary
from blt.cli.console import Console, count, format_bytes
from blt.commands.arguments import (
    add_data_argument,
    add_output_arguments,
    add_split_arguments,
    byte_size,
    number,
    positive_int,
)
from blt.commands.read_together import with_read
from blt.commands.sidecar import find_finished, note_finished
from blt.dataset.several import Datasets, read_datasets
from blt.dataset.storage import (
    TEMPORARY_PREFIX,
    Place,
    as_place,
    atomic_path,
    delete_all,
    fetched,
    local_folder,
    prepare_output_file,
    read_json,
    write_json,
)
from blt.errors import BltError, WorkError
from blt.formats.byte_shard import read_byte_shard
from blt.ngram.config import (
    DEFAULT_MAX_MEGABYTES,
    DEFAULT_MIN_COUNT,
    DEFAULT_ORDER,
    DEFAULT_SAMPLE_BYTES,
    NgramConfig,
)
from blt.ngram.counting import GramCounts, chosen_parts, count_parts
from blt.ngram.model import check_ngram_name
from blt.ngram.training import write_ngram_model
from pipelines.beam_flags import make_options, make_runner
from pipelines.beam_flags import split_beam_flags as split_extra_flags  # noqa: F401
from pipelines.run_units import quiet_workers, runner_failures_in_words
from pipelines.shard_units import read_payload, shard_payloads

NAME = "train-ngram"
HELP = "an n-gram entropy model, from byte shards: no GPU, seconds"
DESCRIPTION = """\
Counts the byte n-grams of documents and makes an entropy model of them that needs no GPU and no
neural network: it reads megabytes of text a second on one CPU core, wherever an --entropy-model is
asked for. Held-out documents are never counted; the figure at the end, in bits per byte, is of
those. It suits text that is like what was counted, and no other: see docs/ngram.md."""

_COUNTS_NAME = "counts.npz"
_FAILURES_NAME = "failures.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    add_output_arguments(parser, "the model", metavar="FILE.ngram")
    add_split_arguments(parser)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--order",
        type=positive_int,
        default=DEFAULT_ORDER,
        metavar="N",
        help="How many bytes it looks back at most, up to 6.",
    )
    group.add_argument(
        "--min-count",
        type=positive_int,
        default=DEFAULT_MIN_COUNT,
        metavar="N",
        help="N-grams of three bytes and more that were seen less often are left out.",
    )
    group.add_argument(
        "--max-megabytes",
        type=number,
        default=DEFAULT_MAX_MEGABYTES,
        metavar="MB",
        help="Size of the file at most; --min-count is raised until it fits.",
    )
    group.add_argument(
        "--sample-bytes",
        type=byte_size,
        default=DEFAULT_SAMPLE_BYTES,
        metavar="BYTES",
        help="About how much text to count, and so a bound on memory; documents are chosen by a "
        "hash of their id.",
    )


def check(args: argparse.Namespace) -> NgramConfig:
    """Returns the config that the flags ask for; raises UserError if it will not do."""
    check_ngram_name(args.output)
    return NgramConfig(
        order=args.order,
        min_count=args.min_count,
        max_megabytes=args.max_megabytes,
        sample_bytes=args.sample_bytes,
        valid_fraction=args.valid_fraction,
        seed=args.seed,
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Trains; see `DESCRIPTION`."""
    data = read_datasets(args.data, "byte_shards")
    config = check(args)
    identity = {
        "command": NAME,
        "config": dataclasses.asdict(config),
        "parents": {"byte_shards": data.sha256},
    }
    how = "already done"
    result = find_finished(args.output, identity, overwrite=args.overwrite)
    if args.dry_run:
        sample = min(config.sample_bytes, data.totals["bytes"])
        line = f"train-ngram would count about {format_bytes(sample)} of text (dry run)."
        plan = Summary({"dry_run": True, "outputs": [str(args.output)]}, [line])
        return with_read(plan, data=data)
    if result is None:
        prepare_output_file(args.output)
        how = "done"
        start = time.monotonic()
        console.show(f"counting {count(len(data.shards), 'shard')}")
        counts = _count(data, args.output, config, args.beam_flags, console)
        console.show("making the model")
        result = write_ngram_model(counts, data, args.output, config)
        console.end_progress()
        result["seconds"] = time.monotonic() - start
        note_finished(args.output, identity, result)
    summary = Summary(
        {"stage": NAME, "how": how, "output": str(args.output), **result},
        [f"train-ngram: {how}. {_words(result)} -> {args.output}"],
    )
    return with_read(summary, data=data)


def _words(result: dict) -> str:
    held_out = result["held_out_bits_per_byte"]
    figure = "none to judge it by" if held_out is None else f"{held_out:.3f} bits/byte"
    return (
        f"{result['grams']:,} n-grams (seen {result['min_count']} times or more) of "
        f"{format_bytes(result['bytes'])} in {result['seconds']:.0f} s, "
        f"{result['megabytes']:.1f} MB; held-out documents: {figure}"
    )


def _count(
    data: Datasets, output: Place, config: NgramConfig, beam_flags: list[str], console: Console
) -> GramCounts:
    """Returns the sum of the counts of all shards, which Beam finds.

    Raises:
      WorkError: a shard is damaged, or the runner failed.
    """
    import apache_beam as beam

    from pipelines.ngram_transform import AddUpCounts

    # Beside the output, where workers elsewhere see it too if that is in a store.
    folder = output.with_name(f"{TEMPORARY_PREFIX}counts-{uuid.uuid4().hex[:12]}").resolve()
    options = make_options(beam_flags, verbose=console.verbose)
    count_shard = CountShard(data.folders, config, data.totals["bytes"])
    try:
        with runner_failures_in_words(), quiet_workers(options, console):
            pipeline = beam.Pipeline(runner=make_runner(options), options=options)
            _ = (
                pipeline
                | "Plan" >> beam.Create([json.dumps(shard) for shard in shard_payloads(data)])
                | "SpreadShards" >> beam.Reshuffle()
                | "CountShard" >> beam.Map(count_shard)
                | "AddUp" >> AddUpCounts()
                | "WriteSum" >> beam.Map(_write_sum, str(folder))
            )
            pipeline.run().wait_until_finish()
        return _read_sum(folder)
    finally:
        with contextlib.suppress(OSError):  # what went wrong before says more
            delete_all(folder / name for name in (_COUNTS_NAME, _FAILURES_NAME))
        if (own := local_folder(folder)) is not None:
            shutil.rmtree(own, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class CountShard:
    """Counts one byte shard (JSON, as the manifest describes it); what failed, it says in words.

    Attributes:
      data: the datasets' folders.
      config: of the model.
      total_bytes: of all of them.
    """

    data: tuple[Place, ...]
    config: NgramConfig
    total_bytes: int

    def __call__(self, payload: str) -> tuple[GramCounts | None, str]:
        try:
            with read_payload(json.loads(payload)).fetched(self.data) as path:
                chosen = chosen_parts(read_byte_shard(path), self.config, self.total_bytes)
                return count_parts(chosen, self.config.order + 1), ""
        except BltError as error:
            return None, str(error)


def _write_sum(total: tuple[GramCounts, list[str]], folder: str) -> None:
    counts, failures = total
    if failures:
        write_json(as_place(folder) / _FAILURES_NAME, failures)
        return
    with atomic_path(as_place(folder) / _COUNTS_NAME) as temporary:
        np.savez(temporary, **dataclasses.asdict(counts))


def _read_sum(folder: Place) -> GramCounts:
    if (folder / _FAILURES_NAME).is_file():
        failures = read_json(folder / _FAILURES_NAME)
        more = f" (and {len(failures) - 1} more shards failed)" if len(failures) > 1 else ""
        raise WorkError(f"{failures[0]}{more}")
    with (
        fetched(folder / _COUNTS_NAME) as path,
        np.load(path, allow_pickle=False) as arrays,
    ):
        return GramCounts(
            arrays["grams"],
            arrays["counts"],
            int(arrays["num_documents"]),
            int(arrays["num_bytes"]),
        )


if __name__ == "__main__":
    from pipelines import train_ngram  # what workers unpickle must not come from __main__

    sys.exit(command.main(train_ngram))
