"""Raw corpora to byte shards.

Reads text, JSONL, tables, web archives and more, plain or compressed (docs/inputs.md); writes
`bytes-*.tfrecord`, `_rejects.parquet` and `_manifest.json` (DESIGN: "Byte shard"). From the shell:

    blt encode --input corpus/ --output bytes
    python -m pipelines.encode --input 'corpus/*.jsonl.zst' --output bytes --direct_num_workers 2
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blt.cli import command
from blt.cli.command import Summary
from blt.cli.console import Console, Phase, count, format_bytes, printable
from blt.commands.arguments import (
    add_output_arguments,
    byte_size,
    field_names,
    fraction,
    one_character,
    whole_number,
)
from blt.commands.policy_arguments import add_policy_arguments
from blt.corpus.admission.duplicates import DUPLICATES_FOLDER, duplicate_kinds, remove_found
from blt.corpus.config import COMPRESSIONS, CSV_QUOTING, DOC_PER, FORMATS, EncodeConfig
from blt.corpus.encode import encode_unit
from blt.corpus.files.discover import Discovery, InputFile, discover_inputs
from blt.corpus.files.standard_input import KeptInput, keep_standard_input
from blt.corpus.format_rules import unmatched_rules
from blt.corpus.left_out import UNREADABLE, left_out_line
from blt.corpus.planning.field_names import unmatched_after, unmatched_before
from blt.corpus.planning.listing import list_files, listing_lines
from blt.corpus.planning.plan import payload_bytes, payload_essence, payload_notes
from blt.corpus.planning.replan import plan_corpus
from blt.corpus.planning.sources import SOURCES_NAME, merge_sources
from blt.corpus.summary import summary_lines
from blt.corpus.unmatched import Unmatched
from blt.dataset.loss import DEFAULT_MAX_LOST_FRACTION, Findings
from blt.dataset.manifest import Manifest
from blt.dataset.plan_file import read_plan
from blt.dataset.stage import REJECTS_NAME, Gathered, Stage, earlier_units, make_units
from blt.dataset.storage import Place, is_remote
from blt.dataset.units import Progress, Unit, UnitResult
from blt.errors import UserError, WorkError
from pipelines.beam_flags import split_beam_flags as split_extra_flags  # noqa: F401
from pipelines.run_units import describe_plan, run_stage

NAME = "encode"
HELP = "raw corpora to byte shards"
DESCRIPTION = """\
Encodes raw corpora into byte shards: TFRecord files in which every document is BOS, its bytes (each
plus 4) and EOS. Bytes are kept as they are; nothing is decoded, normalised or lost. What cannot be
read goes to _rejects.parquet with a reason. A run that was killed goes on where it ended when the
same command is given again, and the result is the same."""

_MAX_NOTES = 50
_MAX_NAMED = 5
SHARD_PATTERNS = ("bytes-*.tfrecord", "bytes-*.tfrecord.gz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = EncodeConfig()
    parser.add_argument(
        "--input",
        action="extend",
        nargs="+",
        required=True,
        metavar="PATH",
        help="Files, folders (searched recursively), glob patterns, @LIST (a file with one of "
        "these a line) or - (standard input). Compressed files and tar archives are read as what "
        "is in them.",
    )
    for flag, which in (("--include", "only files"), ("--exclude", "no files and folders")):
        parser.add_argument(
            flag,
            action="extend",
            nargs="+",
            default=[],
            metavar="GLOB",
            help=f"In folders and by globs, read {which} whose name, or path below the folder if "
            "there is a slash in it, is like one of these.",
        )
    parser.add_argument(
        "--include-hidden",
        action="store_true",
        help="In folders, by globs and in archives, read also files and folders whose names begin "
        "with . or _ (such as __init__.py).",
    )
    parser.add_argument(
        "--include-leftovers",
        action="store_true",
        help="Read also what editors, downloads and dataset tools leave behind (*~, *.bak, *.lock, "
        "*.part, checksum lists, dataset_info.json, …).",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="Refuse, or fail at the end, where a name given by --keep-fields, --id-field, "
        "--include or --format-of matches nothing. Without it that is a warning.",
    )
    add_output_arguments(parser, "byte shards", is_stage=True)
    add_document_arguments(parser)
    add_policy_arguments(parser)
    group = parser.add_argument_group("sizes and limits")
    group.add_argument(
        "--max-document-bytes",
        type=byte_size,
        default=default.max_document_bytes,
        metavar="BYTES",
        help="Longer documents are stored in parts of this size, and joined again downstream.",
    )
    group.add_argument(
        "--max-decompression-ratio",
        type=whole_number,
        default=default.max_decompression_ratio,
        metavar="N",
        help="A compressed file is given up, as a reject, where it has grown to more than N times "
        "its size and 64 MiB.",
    )
    group.add_argument(
        "--target-shard-bytes",
        type=byte_size,
        default=default.target_shard_bytes,
        metavar="BYTES",
        help="About how many bytes of input go into one unit of work, and of text into one shard.",
    )
    group.add_argument(
        "--compression",
        choices=[name for name in COMPRESSIONS if name],
        help="Compress the shards.",
    )
    group.add_argument(
        "--max-lost-fraction",
        type=fraction,
        default=DEFAULT_MAX_LOST_FRACTION,
        metavar="F",
        help="The job fails when more than this share of the records, of the files, of the members "
        "of archives or of the bytes was lost. What is done is kept.",
    )


def add_document_arguments(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Adds the flags that say how files are read; `when` they matter is put into the heading."""
    default = EncodeConfig()
    group = parser.add_argument_group("what a document is" + when)
    group.add_argument(
        "--format", choices=FORMATS, default=default.format, help="What the files are."
    )
    group.add_argument(
        "--format-of",
        action="extend",
        nargs="+",
        default=[],
        metavar="PATTERN=FORMAT",
        help="What files are whose name, or path below the folder or in an archive, is like a "
        "pattern: 'logs/**=text'. The first that is like counts; --format is for the others.",
    )
    group.add_argument(
        "--doc-per",
        choices=DOC_PER,
        default=default.doc_per,
        help="In text files: a document is a whole file, a line (ended by LF), or a paragraph "
        "(blank lines between them).",
    )
    group.add_argument(
        "--text-field",
        default=default.text_field,
        metavar="NAME",
        help="JSONL field or Parquet column of the text; dots lead into objects.",
    )
    group.add_argument(
        "--id-field",
        default=default.id_field,
        metavar="NAME",
        help="Field or column of the id. Where it is absent, the id is made from the source and "
        "the position in it.",
    )
    group.add_argument(
        "--keep-fields",
        default=[],
        action="extend",
        type=field_names,
        metavar="A,B",
        help="Fields or columns to pass through to the scores, separated by commas (a name that "
        "holds one in quotes: '\"a,b\",c'). Keys of folders such as lang=en/ are fields.",
    )
    group.add_argument(
        "--csv-quoting",
        choices=CSV_QUOTING,
        default=default.csv_quoting,
        help='CSV and TSV: fields may be in "quotes", or none are and quotes are data. auto: '
        "quotes in CSV, none in TSV.",
    )
    group.add_argument(
        "--csv-escape",
        type=one_character,
        metavar="CHAR",
        help="CSV and TSV: what stands before quotes (with --csv-quoting none: before delimiters "
        "and line ends) that are data; \\ for files of Spark.",
    )
    group.add_argument(
        "--csv-delimiter",
        type=one_character,
        metavar="CHAR",
        help="CSV and TSV: what stands between fields, if not a comma or a tab; tab, \\t and \\x01 "
        "are understood.",
    )


@dataclasses.dataclass(frozen=True)
class _EncodeUnit:
    config: EncodeConfig

    def __call__(self, unit: Unit, output: Place, progress: Progress) -> UnitResult:
        return encode_unit(unit.payload, self.config, output, unit.index, progress)


@dataclasses.dataclass(frozen=True)
class _FindDuplicates:
    config: EncodeConfig
    units: Sequence[Unit]
    console: Console

    def __call__(self, stage: Stage, pending: Sequence[Unit]) -> Any:
        from pipelines.duplicates_transform import FindDuplicatesAndWork

        self.console.say(f"{stage.output}: looking for duplicates first, which reads the input.")
        return FindDuplicatesAndWork(stage, len(self.units), self.config)

    def start(self, stage: Stage) -> list[Phase]:
        from pipelines.duplicates_transform import start_search

        return start_search(stage, self.units, self.config)


def _find_losses(output: Place, gathered: Gathered) -> Findings:
    return merge_sources(output, gathered.num_units)


@dataclasses.dataclass(frozen=True)
class _FinishTables:
    config: EncodeConfig
    is_strict: bool

    def __call__(self, output: Place, gathered: Gathered) -> None:
        remove_found(output)
        if self.is_strict:
            payloads = [unit.payload for unit in read_plan(output)]
            _check_strict(_unmatched_after(payloads, gathered.totals, self.config))


def _unmatched_after(
    payloads: Sequence[dict[str, Any]], totals: Mapping[str, int], config: EncodeConfig
) -> list[Unmatched]:
    rules = unmatched_rules(payloads, config.format_of, totals)
    return rules + unmatched_after(payloads, totals, config)


def _check_strict(unmatched: Sequence[Unmatched]) -> None:
    if unmatched:
        raise WorkError(
            f"{' '.join(item.message for item in unmatched)} --strict makes this an error: correct "
            f"the name{'s' * (len(unmatched) > 1)}, or run again without --strict; finished units "
            "are kept."
        )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Encodes; see `DESCRIPTION`."""
    names = [field.name for field in dataclasses.fields(EncodeConfig)]
    config = EncodeConfig(**{name: getattr(args, name) for name in names})
    kept_input = None
    if "-" in args.input:
        if args.dry_run:
            raise UserError("--dry-run: standard input (--input -) can be read only once.")
        stream = sys.stdin.buffer if sys.stdin else None
        kept_input = keep_standard_input(stream, args.output.with_name(args.output.name + ".stdin"))
    stage = Stage(
        kind="byte_shards",
        output=args.output,
        config=json.loads(json.dumps(dataclasses.asdict(config))),
        told={
            "input": [str(path) for path in args.input],
            "include": args.include,
            "exclude": args.exclude,
        },
        run_unit=_EncodeUnit(config),
        essence=payload_essence,
        shard_patterns=SHARD_PATTERNS,
        reads_foreign_data=True,
        extra_files=(SOURCES_NAME,),
        work_folders=(DUPLICATES_FOLDER,),
        grows=True,
        find_losses=_find_losses,
        before_manifest=_FinishTables(config, args.strict),
        max_lost_fraction=args.max_lost_fraction,
    )
    units = _plan_units(stage, config, args, kept_input, console)
    make_transform = start_phases = None
    if duplicate_kinds(config):
        make_transform = _FindDuplicates(config, units, console)
        start_phases = make_transform.start
    manifest, how = run_stage(
        stage, units, args, console, make_transform, start_phases=start_phases
    )
    if manifest is None:
        outputs = [f"bytes-{unit.index:05d}-*.tfrecord" for unit in units[:5]]
        outputs += ["…"] * (len(units) > 5) + [REJECTS_NAME, "_manifest.json"]
        plan = describe_plan(stage, units, outputs)
        return _describe(plan, units, stage.told["left_out"], args, console)
    if kept_input is not None:
        kept_input.place.unlink(missing_ok=True)
    unmatched = _unmatched_after([unit.payload for unit in units], manifest.totals, config)
    if args.strict:
        _check_strict(unmatched)
    return _summarize(manifest, how, [line.message for line in unmatched])


def _plan_units(
    stage: Stage,
    config: EncodeConfig,
    args: argparse.Namespace,
    kept_input: KeptInput | None,
    console: Console,
) -> list[Unit]:
    """Finds the input and returns the units; only here does memory hold something for each file."""

    def watch(label: str, *of: Any) -> contextlib.AbstractContextManager[Progress]:
        return console.progress(f"{args.output.name}: {label}", *of)

    with watch("looking for files", None, "file") as progress:
        found = discover_inputs(
            args.input,
            include=args.include,
            exclude=args.exclude,
            rule=config.left_out_rule,
            standard_input=kept_input,
            progress=progress,
        )
        files = _outside(found.files, args.output)
    _say_left_out(found, args, console)
    stage.told["left_out"] = {
        kind: dataclasses.asdict(left_out) for kind, left_out in found.left_out.items()
    }
    _say_unmatched(found.unmatched, args, console)
    earlier = [] if args.overwrite else earlier_units(stage)
    payloads = plan_corpus(
        files,
        config,
        output=args.output,
        earlier=earlier,
        refuses_tables=args.on_unusable_table == "refuse",
        say=console.say,
        watch=watch,
    )
    _say_unmatched(unmatched_rules(payloads, config.format_of), args, console)
    _say_unmatched(unmatched_before(payloads, config), args, console)
    notes = payload_notes(payloads)
    for note in notes[:_MAX_NOTES]:
        console.say(printable(note))
    if len(notes) > _MAX_NOTES:
        console.say(f"… and {count(len(notes) - _MAX_NOTES, 'more note')} of this kind.")
    return make_units(stage, payloads, [payload_bytes(payload) for payload in payloads])


def _describe(
    plan: Summary,
    units: Sequence[Unit],
    left_out: Mapping[str, Any],
    args: argparse.Namespace,
    console: Console,
) -> Summary:
    """Adds to the plan of a dry run what each file is taken as."""
    with console.progress(f"{args.output.name}: counting rows", None, "file") as progress:
        files = list_files([unit.payload for unit in units], progress)
    listed = [dataclasses.asdict(file) for file in files]
    data = {**plan.data, "left_out": _numbers_left_out(left_out), "files": listed}
    return Summary(data, [*plan.lines, *listing_lines(files)])


def _numbers_left_out(left_out: Mapping[str, Any]) -> dict[str, int]:
    """Returns how many files and folders each rule left out, as a manifest holds them."""
    return {kind: found["number"] for kind, found in left_out.items()}


def _say_left_out(found: Discovery, args: argparse.Namespace, console: Console) -> None:
    """Names what cannot be read, and with --verbose or --dry-run all else that is left out."""
    unreadable = found.left_out.get(UNREADABLE)
    if unreadable is not None:
        for skipped in [s for s in found.skipped if s.kind == UNREADABLE][:_MAX_NAMED]:
            console.say(printable(f"warning: {skipped.path}: {skipped.reason}; left out"))
        if unreadable.number > _MAX_NAMED:
            more = unreadable.number - _MAX_NAMED
            console.say(f"warning: {count(more, 'more file')} cannot be read.")
    if console.verbose or args.dry_run:
        for skipped in found.skipped[:_MAX_NOTES]:
            if skipped.kind != UNREADABLE:
                console.say(printable(f"left out {skipped.path}: {skipped.reason}"))
        line = left_out_line({kind: left.number for kind, left in found.left_out.items()})
        if line is not None:
            console.say(line)


def _say_unmatched(
    unmatched: Sequence[Unmatched], args: argparse.Namespace, console: Console
) -> None:
    """Says which names match nothing; refuses them with `--strict`."""
    if args.strict and unmatched:
        raise UserError(f"{' '.join(line.message for line in unmatched)} (--strict)")
    for line in unmatched:
        console.say(printable(f"warning: {line.message}"))


def _outside(files: Sequence[InputFile], folder: Place) -> list[InputFile]:
    """Returns the files that do not lie in a folder, by whatever links they are reached."""
    if is_remote(folder):
        return [file for file in files if not file.path.startswith(f"{folder}/")]

    @functools.cache
    def is_inside(parent: str) -> bool:
        real = Path(os.path.realpath(parent))
        return inside == real or inside in real.parents

    def parent_of(path: str) -> str:
        return os.path.dirname(os.path.realpath(path) if os.path.islink(path) else path)

    inside = folder.resolve()
    return [file for file in files if not is_inside(parent_of(file.path))]


def _summarize(manifest: Manifest, how: str, warnings: Sequence[str] = ()) -> Summary:
    totals = manifest.totals
    lines = [
        f"encode: {how}. {count(totals['documents'], 'document')}, "
        f"{format_bytes(totals['bytes'])} in {count(len(manifest.shards), 'shard')} -> "
        f"{manifest.folder}",
        *(f"  {line}" for line in summary_lines(manifest)),
        *(printable(f"  warning: {line}") for line in warnings),
    ]
    described = {"stage": NAME, "how": how, "output": str(manifest.folder), **totals}
    described["lost"] = manifest.lost
    described["left_out"] = _numbers_left_out(manifest.config.get("left_out", {}))
    described["invalid_utf8_inputs"] = manifest.invalid_utf8.get("inputs", [])
    return Summary({**described, "warnings": list(warnings)} if warnings else described, lines)


if __name__ == "__main__":
    from pipelines import encode  # what workers unpickle must not come from __main__

    sys.exit(command.main(encode))
