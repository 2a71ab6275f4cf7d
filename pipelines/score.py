"""Bits per byte of every document.

Reads byte shards, or raw input that is encoded first, and a BLT or an entropy model; writes
`scores-*.parquet`, a row for each document, and `_summary.json`.

    blt score --data bytes --model run/model.keras --patches patches --output scores
    blt score --input page.txt --model run/model.keras --output scores
"""

import argparse
import contextlib
import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any

from blt.cli import command
from blt.cli.command import Summary
from blt.cli.console import Console, format_bytes, printable
from blt.cli.quiet import import_keras, silence
from blt.commands.arguments import (
    add_output_arguments,
    add_places_argument,
    add_precision_argument,
    add_split_arguments,
    field_names,
    place,
    positive_int,
)
from blt.commands.read_together import with_read
from blt.commands.sidecar import sidecar_path
from blt.dataset.groups import describe_bounds, input_group
from blt.dataset.manifest import Manifest
from blt.dataset.several import (
    Datasets,
    NumberedShard,
    check_boundaries_of,
    read_datasets,
)
from blt.dataset.splits import DEFAULT_SEED, DEFAULT_VALID_FRACTION, SPLIT_CHOICES
from blt.dataset.stage import Gathered, Stage, make_units
from blt.dataset.storage import Place, fetch_all, read_json, write_json
from blt.dataset.trained_split import TrainedSplit, describe_documents, read_trained_split
from blt.dataset.units import Progress, Unit, UnitResult
from blt.errors import BltError, UserError, near_names
from blt.ngram.model import is_ngram_path
from pipelines import encode
from pipelines.beam_flags import add_resource_arguments, place_engines, read_resource_hints
from pipelines.beam_flags import split_beam_flags as split_extra_flags  # noqa: F401
from pipelines.model_step import MakeTransform, asked_precision, say_unused_gpu
from pipelines.run_units import describe_plan, run_stage
from pipelines.shard_units import read_payload, shard_payloads

NAME = "score"
HELP = "bits per byte of documents"
DESCRIPTION = """\
Scores documents by a BLT or an entropy model: for each, the bits that the model needs for a byte,
beside what zlib needs. The corpus figure in _summary.json is the sum of bits over the sum of bytes.
A document's score does not depend on the documents it shares a batch with. Patches for a BLT come
from --patches, or are cut by the entropy model that its file holds."""

SUMMARY_NAME = "_summary.json"
BASELINES = ("zlib", "xz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    add_places_argument(source, "--data", metavar="BYTES", help="Byte shards, from blt encode.")
    source.add_argument(
        "--input",
        action="extend",
        nargs="+",
        metavar="PATH",
        help="Raw input; it is encoded into OUTPUT-bytes first, as blt encode does.",
    )
    parser.add_argument(
        "--model",
        type=place,
        required=True,
        metavar="FILE",
        help="A BLT, from blt train, or an entropy model (.keras or .ngram).",
    )
    add_places_argument(parser, "--patches", metavar="PATCHES", help="Boundaries of --data.")
    parser.add_argument(
        "--entropy-model",
        type=place,
        metavar="FILE",
        help="Cuts patches, for a BLT whose file does not hold its own.",
    )
    add_output_arguments(parser, "the scores", is_stage=True)
    group = parser.add_argument_group("what is scored, and how")
    group.add_argument(
        "--split",
        choices=SPLIT_CHOICES,
        help="All documents, the held-out ones (valid), or the others (train). Default: valid if "
        "the model was trained on these byte shards, else all.",
    )
    add_split_arguments(group)
    parser.set_defaults(valid_fraction=None, seed=None)  # those of the training, if it is known
    group.add_argument(
        "--min-context",
        type=positive_int,
        metavar="TOKENS",
        help="For documents longer than the BLT's context: what each byte has before it at least. "
        "Default: half of the context.",
    )
    group.add_argument(
        "--by",
        action="extend",
        type=field_names,
        metavar="A,B",
        help="What _summary.json groups the figures by: fields that `blt encode --keep-fields` "
        "kept, and the input as `source` (`input_source`, where a kept field is called `source`). "
        "Default: the input; '' for no groups. The same command with another --by makes the "
        "summary anew, without scoring anew.",
    )
    group.add_argument(
        "--baselines",
        type=_baselines,
        default=["zlib"],
        metavar="A,B",
        help="Compressors to measure on each document: zlib (always), xz.",
    )
    add_precision_argument(parser)
    add_resource_arguments(parser)
    encode.add_document_arguments(parser, " (with --input)")


def _baselines(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no baseline {unknown[0]!r}; there are zlib and xz")
    return sorted({"zlib", *names})


@dataclasses.dataclass(frozen=True)
class _Options:
    """What a worker needs to load the scorer."""

    model: Place
    entropy_model: Place | None
    min_context: int | None
    precision: str
    xz: bool
    num_threads: int | None  # of the entropy model's engine; None for all cores

    def load(self) -> Any:
        from blt.scoring.loading import get_scorer

        return get_scorer(
            self.model,
            entropy_model=self.entropy_model,
            min_context=self.min_context,
            precision=self.precision,
            xz=self.xz,
            num_threads=self.num_threads,
        )


@dataclasses.dataclass(frozen=True)
class _ScoreShard:
    data: tuple[Place, ...]  # the datasets
    patches: tuple[Place, ...] | None
    options: _Options
    split: str
    valid_fraction: float
    seed: int
    trained: TrainedSplit | None
    trained_on: frozenset[int]  # the numbers of the datasets that it was trained on

    def __call__(self, unit: Unit, output: Place, progress: Progress) -> UnitResult:
        silence()
        import_keras()
        from blt.scoring import score_shard

        payload = dict(unit.payload)
        described = payload.pop("boundaries", None)
        shard = read_payload(payload)
        loaded = self.options.load()
        with contextlib.ExitStack() as resources:
            byte_shard = resources.enter_context(shard.fetched(self.data))
            boundaries = None
            if described is not None:
                found = NumberedShard.from_json(described)
                boundaries = resources.enter_context(found.fetched(self.patches))
            resources.enter_context(loaded.lock)
            return score_shard(
                byte_shard,
                output,
                scorer=loaded.scorer,
                boundaries=boundaries,
                engine=loaded.engine,
                rule=loaded.rule,
                split=self.split,
                valid_fraction=self.valid_fraction,
                seed=self.seed,
                trained=self.trained if shard.numbered.dataset in self.trained_on else None,
                unit_index=shard.unit,
                roll=shard.roll,
                progress=progress,
            )


@dataclasses.dataclass(frozen=True)
class _WriteSummary:
    by: tuple[str, ...]
    input_name: str
    split: str
    is_descended: bool

    def __call__(self, output: Place, gathered: Gathered) -> None:
        from blt.scoring.summary import summarize_scores

        tables = fetch_all(output / shard.name for shard in gathered.shards)
        summary = summarize_scores(tables, by=self.by, input_name=self.input_name)
        totals = gathered.totals
        known = {"documents": totals["trained_documents"], "bytes": totals["trained_bytes"]}
        trained_on = known if self.is_descended else None
        write_json(
            output / SUMMARY_NAME, {"split": self.split, "trained_on": trained_on, **summary}
        )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Scores; see `DESCRIPTION`."""
    if args.patches is not None and args.data is None:
        raise UserError("--patches: needs --data, the byte shards that they were made from.")
    kept = args.keep_fields
    if args.data is not None:
        kept = read_datasets(args.data, "byte_shards").config.get("keep_fields", ())
    input_name = input_group(kept)
    by = [input_name] if args.by is None else list(dict.fromkeys(args.by))
    known = [input_name, *kept]
    for name in by:
        if name not in known:
            console.say(printable(f"warning: {_unknown_group(name, known)}"))
    hints = read_resource_hints(args)
    import_keras(verbose=console.verbose)
    options = _Options(
        args.model.resolve(),
        args.entropy_model and args.entropy_model.resolve(),
        args.min_context,
        asked_precision(args, hints),
        "xz" in args.baselines,
        place_engines(args.beam_flags)[1],
    )
    loaded = options.load()
    # Workers take what was chosen here.
    options = dataclasses.replace(options, precision=loaded.scorer.score_spec["precision"])
    if not is_ngram_path(args.model):
        say_unused_gpu(console, hints)
    data = _read_data(args, console)
    patches = _read_patches(args, data, loaded)
    payloads = shard_payloads(data)
    parents = {"byte_shards": data.sha256}
    if patches is not None:
        parents["boundaries"] = patches.sha256
        if patches.config.get("snap_utf8"):
            console.say(
                "note: where patches snapped to UTF-8 characters begin tells of bytes that are not "
                "read yet; bits per byte come out a little too low."
            )
        for payload, boundaries in zip(payloads, patches.numbered, strict=True):
            payload["boundaries"] = boundaries.to_json()
    elif loaded.role == "blt":
        from blt.scoring.shard import check_can_cut

        check_can_cut(loaded.engine, loaded.rule)
    trained, trained_on = _trained_on(args.model, data, loaded.scorer.fingerprint)
    if args.valid_fraction is None:
        args.valid_fraction = trained.fraction if trained else DEFAULT_VALID_FRACTION
    if args.seed is None:
        args.seed = trained.seed if trained else DEFAULT_SEED
    split = args.split or ("valid" if trained is not None else "all")
    if args.split is None and trained is not None:
        console.say(_describe_default_split(trained, trained_on, data, args))
    stage = Stage(
        kind="scores",
        output=args.output,
        config={
            "split": split,
            "trained": trained and {"fraction": trained.fraction, "seed": trained.seed},
            "valid_fraction": args.valid_fraction,
            "seed": args.seed,
            "baselines": args.baselines,
            "score_spec": loaded.scorer.score_spec,
        },
        fingerprints=loaded.fingerprints,
        finishing={"by": by},
        parents=parents,
        run_unit=_ScoreShard(
            data.folders,
            patches and patches.folders,
            options,
            split,
            args.valid_fraction,
            args.seed,
            trained,
            frozenset(trained_on),
        ),
        shard_patterns=("scores-*.parquet",),
        extra_files=(SUMMARY_NAME,),
        before_manifest=_WriteSummary(tuple(by), input_name, split, trained is not None),
    )
    other_split = [] if trained else _describe_other_split(args, loaded.scorer.fingerprint)
    share = {"all": 1.0, "valid": args.valid_fraction, "train": 1 - args.valid_fraction}
    expected = [round(shard.bytes * share[split]) for shard in data.shards]
    units = make_units(stage, payloads, expected)
    manifest, how = run_stage(stage, units, args, console, MakeTransform(hints))
    if manifest is None:
        plan = describe_plan(stage, units, ["scores-*.parquet", SUMMARY_NAME, "_manifest.json"])
        return with_read(plan, data=data, patches=patches)
    summary = _summarize(manifest, how, known)
    summary = dataclasses.replace(summary, lines=[*summary.lines, *other_split])
    return with_read(summary, data=data, patches=patches)


def _trained_on(
    model: Place, data: Datasets, fingerprint: str
) -> tuple[TrainedSplit | None, list[int]]:
    """Returns the split of the model's training, and the numbers of the datasets that it was on.

    None, if it was on none of these.
    """
    trained = read_trained_split(model, sidecar_path(model), fingerprint)
    if trained is None:
        return None, []
    found = [i for i, member in enumerate(data.members) if trained.was_on(member.sha256)]
    return (trained if found else None), found


def _describe_default_split(
    trained: TrainedSplit, trained_on: Sequence[int], data: Datasets, args: argparse.Namespace
) -> str:
    """Says which documents are scored where the user did not say."""
    fraction, seed = args.valid_fraction, args.seed
    if trained.covers(fraction=fraction, seed=seed):
        which = "these byte shards"
        if len(trained_on) < len(data.members):
            which = ", ".join(str(data.members[i].folder) for i in trained_on)
        return (
            f"note: the model was trained on {which}, so that only held-out documents are "
            "scored; --split all scores all."
        )
    return (
        f"warning: --valid-fraction {fraction:g} --seed {seed} hold out other documents than the "
        f"model's training did (--valid-fraction {trained.fraction:g} --seed {trained.seed}), so "
        "that documents are scored that it was trained on. Leave both flags out."
    )


def _describe_other_split(args: argparse.Namespace, fingerprint: str) -> list[str]:
    """Says so if documents that are scored as held out were trained on, had they been there."""
    trained = read_trained_split(args.model, sidecar_path(args.model), fingerprint)
    asked = {"fraction": args.valid_fraction, "seed": args.seed}
    if args.split != "valid" or trained is None or trained.covers(**asked):
        return []
    return [
        "  not held out, if this is the text that the model was trained on: that training held out "
        f"by --valid-fraction {trained.fraction:g} --seed {trained.seed}, and this by "
        f"--valid-fraction {args.valid_fraction:g} --seed {args.seed}. Give the same."
    ]


def _unknown_group(name: str, known: Sequence[str]) -> str:
    others = [other for other in known if other != name]
    return (
        f"--by {name}: no document has a value in this field (there are {', '.join(others)})."
        f"{near_names(name, others)} `blt encode --keep-fields` keeps fields."
    )


def _read_data(args: argparse.Namespace, console: Console) -> Datasets:
    """Returns the byte shards to score; raw input is encoded first."""
    if args.data is not None:
        return read_datasets(args.data, "byte_shards")
    folder = args.output.with_name(args.output.name + "-bytes")
    if args.dry_run:
        raise UserError("--dry-run: needs --data; with --input nothing is encoded yet to plan by.")
    names = ("format", "format_of", "doc_per", "text_field", "id_field", "keep_fields")
    names += ("csv_quoting", "csv_escape", "csv_delimiter")
    encode_argv = ["--input", *args.input, "--output", str(folder)]
    encode_args = command.parse_arguments(encode, encode_argv)
    for name in (*names, "overwrite", "beam_flags"):
        setattr(encode_args, name, getattr(args, name))
    try:
        summary = encode.run(encode_args, console)
    except BltError as error:
        named = set(re.findall(r"--[a-z][a-z0-9-]*", str(error)))
        lacking = sorted(
            named & (command.flag_names(encode) - command.flag_names(sys.modules[__name__]))
        )
        if not lacking:
            raise
        raise type(error)(
            f"{error} (`blt score` does not have {', '.join(lacking)}: run `blt encode` with it, "
            "and give its output as --data.)"
        ) from error
    for line in summary.lines:
        console.say(line)
    return read_datasets(folder, "byte_shards")


def _read_patches(args: argparse.Namespace, data: Datasets, loaded: Any) -> Datasets | None:
    if args.patches is None:
        return None
    from blt.dataset.joining import check_entropy_fingerprint

    patches = read_datasets(args.patches, "boundaries")
    check_boundaries_of(patches, data)
    check_entropy_fingerprint(
        f"--patches {patches.where}",
        patches.fingerprints.get("entropy_model"),
        loaded.scorer.entropy_fingerprint,
    )
    return patches


def _summarize(manifest: Manifest, how: str, known: Sequence[str]) -> Summary:
    summary = read_json(manifest.folder / SUMMARY_NAME)
    figures = {
        "model": summary["bits_per_byte"],
        "zlib": summary["zlib_bits_per_byte"],
        "xz": summary["xz_bits_per_byte"],
    }
    words = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
    warnings = [
        _unknown_group(name, known)
        for name, groups in summary["by"].items()
        if summary["documents"] and not groups["with_field"]
    ]
    data = {
        "stage": NAME,
        "how": how,
        "output": str(manifest.folder),
        **{key: value for key, value in summary.items() if key != "by"},
    }
    return Summary(
        {**data, "warnings": warnings} if warnings else data,
        [
            f"score: {how}. {describe_documents(summary)}, {format_bytes(summary['bytes'])}; "
            f"bits per byte: {words or 'none, there are no bytes'} -> {manifest.folder}",
            *(printable(f"  {line}") for line in describe_bounds(summary)),
            *(printable(f"  warning: {line}") for line in warnings),
        ],
    )


if __name__ == "__main__":
    from pipelines import score  # what workers unpickle must not come from __main__

    sys.exit(command.main(score))
