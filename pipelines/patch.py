"""Byte shards to patch boundaries.

Reads byte shards and an entropy model; writes `patches-*.parquet`, in which row i is about record i
of the byte shard of the same number.

    blt patch --data bytes --entropy-model entropy.keras --threshold-nats 1.3 --output patches
    python -m pipelines.patch --data bytes --rule space --output patches --direct_num_workers 2
"""

import argparse
import dataclasses
import sys
from collections import Counter

from blt.cli import command
from blt.cli.command import Summary
from blt.cli.console import Console, count, format_bytes
from blt.cli.quiet import silence
from blt.commands.arguments import (
    add_data_argument,
    add_output_arguments,
    add_precision_argument,
    place,
)
from blt.commands.read_together import with_read
from blt.commands.rule_arguments import add_rule_arguments, read_rule
from blt.dataset.manifest import Manifest
from blt.dataset.several import read_datasets
from blt.dataset.stage import Stage, make_units
from blt.dataset.storage import Place
from blt.dataset.units import Progress, Unit, UnitResult
from blt.ngram.model import is_ngram_path
from blt.patching.rules import PatchRule
from blt.patching.words import inside_characters_words
from pipelines.beam_flags import add_resource_arguments, place_engines, read_resource_hints
from pipelines.beam_flags import split_beam_flags as split_extra_flags  # noqa: F401
from pipelines.model_step import MakeTransform, asked_precision, say_unused_gpu
from pipelines.run_units import describe_plan, run_stage
from pipelines.shard_units import read_payload, shard_payloads

NAME = "patch"
HELP = "patch boundaries of byte shards, by an entropy model or a rule"
DESCRIPTION = """\
Finds where the patches of every document begin and writes their lengths to Parquet, row i for
record i of the byte shard of the same number. The rules entropy, monotonic and combined need an
entropy model; static, space and byte do not. A document's boundaries do not depend on the documents
it shares a batch with."""

KEPT = ("f16", "u8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    parser.add_argument(
        "--entropy-model",
        type=place,
        metavar="FILE",
        help="From blt train-entropy (.keras) or blt train-ngram (.ngram).",
    )
    add_output_arguments(parser, "the boundaries", is_stage=True)
    add_rule_arguments(parser)
    parser.add_argument(
        "--keep-entropies",
        choices=KEPT,
        help="Also store the entropies, as float16 or in 256 steps over [0, ln 260] nats; "
        "boundaries are then made from the stored values.",
    )
    add_precision_argument(parser)
    add_resource_arguments(parser)


@dataclasses.dataclass(frozen=True)
class _PatchShard:
    data: tuple[Place, ...]  # the datasets
    entropy_model: Place | None
    rule: PatchRule
    keep_entropies: str | None
    precision: str | None
    num_threads: int | None  # of the engine; None for all cores
    owns_process: bool

    def __call__(self, unit: Unit, output: Place, progress: Progress) -> UnitResult:
        silence()
        from blt.engine import get_entropy_engine, import_engine_backend
        from blt.patching.shard import patch_shard

        import_engine_backend(self.entropy_model, owns_process=self.owns_process)
        engine = None
        if self.entropy_model:
            engine = get_entropy_engine(
                self.entropy_model, precision=self.precision, num_threads=self.num_threads
            )
        shard = read_payload(unit.payload)
        with shard.fetched(self.data) as byte_shard:
            return patch_shard(
                byte_shard,
                output,
                engine=engine,
                rule=self.rule,
                keep_entropies=self.keep_entropies,
                unit_index=shard.unit,
                roll=shard.roll,
                metadata={"byte_shard_sha256": shard.info.sha256},
                progress=progress,
            )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Finds boundaries; see `DESCRIPTION`."""
    data = read_datasets(args.data, "byte_shards")
    hints = read_resource_hints(args)
    from blt.engine import get_entropy_engine, import_engine_backend
    from blt.patching.shard import check_patch_options

    import_engine_backend(
        args.entropy_model, verbose=console.verbose, owns_process=args.owns_process
    )
    in_this_process, num_threads = place_engines(args.beam_flags)
    fingerprint = precision = None
    if args.entropy_model is not None:
        engine = get_entropy_engine(
            args.entropy_model, precision=asked_precision(args, hints), num_threads=num_threads
        )
        fingerprint, precision = engine.fingerprint, engine.precision
        if not is_ngram_path(args.entropy_model):
            say_unused_gpu(console, hints)
    rule = read_rule(args, fingerprint)
    check_patch_options(rule, args.keep_entropies, has_model=fingerprint is not None)
    stage = Stage(
        kind="boundaries",
        output=args.output,
        config={
            **dataclasses.asdict(rule),
            "keep_entropies": args.keep_entropies,
            "precision": precision,
        },
        fingerprints={"entropy_model": fingerprint} if fingerprint else {},
        parents={"byte_shards": data.sha256},
        run_unit=_PatchShard(
            data.folders,
            args.entropy_model and args.entropy_model.resolve(),
            rule,
            args.keep_entropies,
            precision,
            num_threads,
            owns_process=not in_this_process,
        ),
        shard_patterns=("patches-*.parquet",),
    )
    units = make_units(stage, shard_payloads(data), [shard.bytes for shard in data.shards])
    metrics: Counter[str] = Counter()
    manifest, how = run_stage(stage, units, args, console, MakeTransform(hints), metrics=metrics)
    if manifest is None:
        from blt.formats.boundaries import patches_name

        shards = [read_payload(unit.payload) for unit in units]
        outputs = [patches_name(shard.unit, shard.roll) for shard in shards]
        plan = describe_plan(stage, units, [*outputs, "_manifest.json"])
        return with_read(plan, data=data)
    return with_read(summarize(NAME, manifest, how, _describe_inference(metrics)), data=data)


def _describe_inference(metrics: Counter[str]) -> dict[str, int | float] | None:
    """What the model did in this run and what it cost; None if it was not run.

    Units that an earlier run had finished are not in it.
    """
    counted = {
        name.removeprefix("blt.engine/"): number
        for name, number in metrics.items()
        if name.startswith("blt.engine/")
    }
    microseconds = counted.pop("device_microseconds", 0)
    if not microseconds:
        return None
    num_bytes = metrics["blt/bytes"]
    places = counted["tokens"] + counted["padding"]
    return {
        **counted,
        "documents": metrics["blt/documents"],
        "bytes": num_bytes,
        "padding_share": counted["padding"] / places,
        "device_seconds": microseconds / 1e6,
        "bytes_per_second": num_bytes / (microseconds / 1e6),
    }


def summarize(stage: str, manifest: Manifest, how: str, inference: dict | None = None) -> Summary:
    """The summary of a stage that made boundaries; `inference` is what its model did."""
    totals = manifest.totals
    mean = totals["bytes"] / totals["patches"] if totals["patches"] else None
    words = f"{totals['patches']:,} patches"
    if mean is not None:
        words += f" of {mean:.2f} bytes on average"
    data = {"stage": stage, "how": how, "output": str(manifest.folder), "mean_patch_bytes": mean}
    lines = [
        f"{stage}: {how}. {count(totals['documents'], 'document')}, "
        f"{format_bytes(totals['bytes'])} in {words} -> {manifest.folder}"
    ]
    if (inside := inside_characters_words(totals, manifest.config)) is not None:
        lines.append(f"  of these, {inside}")
    if manifest.config.get("snap_utf8"):
        lines.append(
            "  note: snapped patches tell of bytes to come: no model can generate with them, and "
            "bits per byte come out a little too low"
        )
    if inference is not None:
        known = ""
        if num_lines := inference.get("memo_lines"):
            known = f"; {inference['memo_hits'] / num_lines:.1%} of {num_lines:,} lines came again"
        lines.append(
            f"  the model: {count(inference['documents'], 'document')}, "
            f"{format_bytes(inference['bytes'])} in {inference['device_seconds']:.1f} device "
            f"seconds, {format_bytes(inference['bytes_per_second'])}/s; "
            f"{inference['padding_share']:.1%} padding{known}"
        )
    return Summary({**data, **totals, "inference": inference}, lines)


if __name__ == "__main__":
    from pipelines import patch  # what workers unpickle must not come from __main__

    sys.exit(command.main(patch))
