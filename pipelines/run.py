"""The whole way: from a raw corpus to models, scores and a report, as one YAML file says.

Each stage is run with the same arguments as its own command takes; a section of the file holds
those that differ from the defaults. A second run reuses whatever is done, and says before any work
if it was made with other settings (`pipelines.chain`).
"""

import argparse
import glob
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from blt.cli import command
from blt.cli.command import Summary
from blt.cli.console import Console, count, format_bytes, format_seconds
from blt.commands import calibrate, report, train, train_entropy
from blt.commands.arguments import place
from blt.corpus.python_docs import write_python_docs
from blt.dataset.manifest import MANIFEST_NAME, read_manifest, write_manifest
from blt.dataset.storage import (
    Place,
    StorePlace,
    as_place,
    is_remote,
    prepare_output_folder,
    read_json,
    sha256_file,
)
from blt.dataset.trained_split import describe_documents
from blt.dataset.units import ShardInfo
from blt.errors import MadeOtherwiseError, UserError, near_names
from pipelines import encode, pack, patch, score
from pipelines.beam_flags import split_beam_flags as split_extra_flags  # noqa: F401
from pipelines.chain import (
    RECORD_NAME,
    Redo,
    RunRecord,
    Step,
    decide,
    path_below,
    result_digest,
    words_of_refusal,
)
from pipelines.run_config import STAGES, read_config

NAME = "run"
HELP = "the whole way: from a raw corpus to models, scores and a report"
IF_INTERRUPTED = (
    "What is finished is kept; the same command goes on from there. A training begins anew."
)
DESCRIPTION = """\
Runs the whole way on one corpus: encode, train-entropy, calibrate, patch, pack, train, score (both
models, on held-out documents) and report. CONFIG is a YAML file with a section for each stage; its
keys are the flags of that stage's command, with underscores. Paths in it are taken from the folder
that the command is started in, wherever the file lies. All of them, and CONFIG itself, may be URLs
of stores (gs://bucket/run).

Whatever an earlier run finished is reused. If a setting changed since, nothing is done but to say
what changed and which stages follow from it; --redo changed makes those anew and keeps the rest."""

PYTHON_DOCS = "python-docs"
_PYTHON_DOCS_NAME = "python-docs.jsonl.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=_place, metavar="CONFIG.yaml", help="What to run, and how.")
    parser.add_argument(
        "--input",
        action="extend",
        nargs="+",
        metavar="PATH",
        help="The corpus: files, folders or globs. Replaces the one that CONFIG names; the word "
        f"{PYTHON_DOCS} stands for the documentation that this Python carries.",
    )
    parser.add_argument(
        "--output", type=_place, metavar="DIR", help="Where all goes. Replaces CONFIG's."
    )
    parser.add_argument(
        "--redo",
        choices=("changed",),
        help="Make anew what was made with other settings or from other data, and what follows "
        "from it; keep the rest. If it is stopped, the same command goes on.",
    )
    parser.add_argument(
        "--from",
        dest="from_stage",
        choices=STAGES,
        metavar="STAGE",
        help="Make this stage anew, and what follows from it; keep the rest. One of "
        f"{', '.join(STAGES)}.",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="Make every stage anew, even if it is done; trained models too.",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Print the commands that would run; write nothing."
    )


# Where each stage's result lies in the output folder.
_PATHS = {
    "corpus": "corpus",
    "bytes": "bytes",
    "entropy_model": "entropy.keras",
    "threshold": "threshold.yaml",
    "patches": "patches",
    "training_shards": "train",
    "blt_run": "blt",
    "scores_blt": "scores-blt",
    "scores_entropy": "scores-entropy",
    "report": "report.html",
}


def _place(text: str) -> Place:
    """Reads a path as it stands, or a URL of a store."""
    return place(text) if is_remote(text) else Path(text)


def _read_root(config: dict[str, Any], file: Place) -> Place:
    """Returns the output folder that a config names.

    Raises:
      UserError: it is a URL that cannot be used.
    """
    try:
        return _place(config["output"])
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{file}: output: {error}.") from None


def _paths_in(root: Place) -> SimpleNamespace:
    """Returns `root` and the paths of `_PATHS` below it, by name."""
    return SimpleNamespace(root=root, **{name: root / path for name, path in _PATHS.items()})


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Runs the chain; see `DESCRIPTION`."""
    config = read_config(args.config)
    paths = _paths_in(args.output or _read_root(config, args.config))
    inputs = args.input or config["input"]
    inputs = [inputs] if isinstance(inputs, str) else list(inputs)
    steps = _steps(paths, inputs, config)
    _keep_output_out(steps[0], paths.root, inputs, config)
    prepared = [(step, _parse(step, config, args)) for step in steps]
    record = RunRecord(paths.root, is_new=args.overwrite or args.from_stage == STAGES[0])
    redo = decide(prepared, record, args, paths.root)
    for step, step_args in prepared:
        step_args.overwrite = step.label in redo.forced
    if args.dry_run:
        has_no_record = record.is_empty and paths.root.is_dir()
        return _describe(steps, config, redo, paths.root, has_no_record=has_no_record)

    for step, step_args in prepared:
        if hasattr(step.module, "check"):
            step.module.check(step_args)
    prepare_output_folder(paths.root)
    start = time.monotonic()
    if inputs == [PYTHON_DOCS]:
        _make_python_docs(paths.corpus, console)
    digests = dict(redo.digests)
    seconds: dict[str, float] = {}
    for number, (step, step_args) in enumerate(prepared, 1):
        console.say(f"[{number}/{len(steps)}] {step.label}")
        stage_start = time.monotonic()
        try:
            summary = step.module.run(step_args, console)
        except MadeOtherwiseError as error:
            if not redo.if_changed or not error.is_known:
                raise words_of_refusal(steps, step, error) from error
            console.say(f"      made anew: {error.differs}")
            step_args.overwrite = True
            summary = step.module.run(step_args, console)
        digests[step.label] = result_digest(step_args.output)
        record.note(step, step_args, digests)
        seconds[step.label] = time.monotonic() - stage_start
        for line in summary.lines:
            console.say(f"      {line}")
    return _summarize(paths, seconds, time.monotonic() - start)


def _keep_output_out(step: Step, root: Place, inputs: list[str], config: dict[str, Any]) -> None:
    """Keeps what a run makes from being its own input, where it lies below an input folder.

    Raises:
      UserError: it is the input folder itself.
    """
    patterns = []
    for path in map(as_place, inputs):
        # A store need not be asked: nothing is below a file.
        if not (isinstance(path, StorePlace) or path.is_dir()):
            continue
        if (below := path_below(root.resolve(), path.resolve())) is None:
            continue
        if below == ".":
            raise UserError(f"--output {root}: is what is read as --input. Choose another folder.")
        patterns.append(glob.escape(below))
    if patterns:
        given = config["encode"].get("exclude") or []
        given = given if isinstance(given, list) else [given]
        config["encode"] = {**config["encode"], "exclude": [*given, *patterns]}


def _describe(
    steps: list[Step], config: dict[str, Any], redo: Redo, root: Place, *, has_no_record: bool
) -> Summary:
    """Returns the summary of a dry run."""
    lines = [f"blt run would run, in {root} (nothing was written):"]
    for step in steps:
        argv = _argv(step, config)
        if step.label in redo.expected and "--overwrite" in command.flag_names(step.module):
            argv.append("--overwrite")
        lines.append(f"  blt {' '.join(argv)}")
    lines += [f"Made anew: {label} ({redo.reason(label)})" for label in redo.expected]
    if has_no_record:
        lines.append(
            f"{root} has no {RECORD_NAME}: each stage finds what changed when its turn comes."
        )
    data = {
        "dry_run": True,
        "stages": [step.label for step in steps],
        "anew": {label: redo.reason(label) for label in redo.expected},
    }
    return Summary(data, lines)


def _steps(paths: SimpleNamespace, inputs: list[str], config: dict[str, Any]) -> list[Step]:
    split = {"seed": config["seed"], "valid_fraction": config["valid_fraction"]}
    held_out = {**split, "split": "valid"}
    corpus = [str(paths.corpus / _PYTHON_DOCS_NAME)] if inputs == [PYTHON_DOCS] else inputs
    data = {"data": paths.bytes}
    entropy_model = {"entropy_model": paths.entropy_model}
    scored = {**data, **held_out, "patches": paths.patches}
    return [
        Step(encode, "encode", {"input": corpus, "output": paths.bytes}, "encode"),
        Step(
            train_entropy,
            "train_entropy",
            {**data, **split, "output": paths.entropy_model},
            "train-entropy",
            needs=("encode",),
        ),
        Step(
            calibrate,
            "calibrate",
            {**data, **entropy_model, **split, "output": paths.threshold},
            "calibrate",
            needs=("encode", "train-entropy"),
        ),
        Step(
            patch,
            "patch",
            {**data, **entropy_model, "calibration": paths.threshold, "output": paths.patches},
            "patch",
            needs=("encode", "train-entropy", "calibrate"),
        ),
        Step(
            pack,
            "pack",
            {**data, **split, "patches": paths.patches, "output": paths.training_shards},
            "pack",
            needs=("encode", "patch"),
        ),
        Step(
            train,
            "train",
            {
                "data": paths.training_shards,
                **entropy_model,
                "seed": config["seed"],
                "output": paths.blt_run,
            },
            "train",
            needs=("train-entropy", "pack"),
        ),
        Step(
            score,
            "score",
            {**scored, "model": paths.blt_run / "model.keras", "output": paths.scores_blt},
            "score (BLT)",
            needs=("encode", "patch", "train"),
        ),
        Step(
            score,
            "score",
            {**scored, "model": paths.entropy_model, "output": paths.scores_entropy},
            "score (entropy model)",
            needs=("encode", "train-entropy", "patch"),
        ),
        Step(
            report,
            "report",
            {"folder": [paths.root], "output": paths.report},
            "report",
            needs=("score (BLT)", "score (entropy model)"),
        ),
    ]


def _argv(step: Step, config: dict[str, Any]) -> list[str]:
    """Returns the stage's command line, as the user could have typed it."""
    argv, arities = [step.module.NAME], command.flag_arities(step.module)
    for key, value in {**step.arguments, **config[step.section]}.items():
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and arities.get(_flag(key)) is None and key != "folder":
            values = [",".join(map(str, value))]
        if isinstance(value, dict):
            values = [f"{name}={of}" for name, of in value.items()]
        if value is True:
            argv.append(_flag(key))
        elif value is not None and value is not False:
            name = [] if key == "folder" else [_flag(key)]
            argv += [*name, *(str(item) for item in values)]
    return argv


def _parse(step: Step, config: dict[str, Any], args: argparse.Namespace) -> argparse.Namespace:
    """Parses a stage's arguments by its own parser, so that they are checked before any work."""
    known = command.flag_arities(step.module)
    for key, value in config[step.section].items():
        if _flag(key) not in known:
            keys = [name.lstrip("-").replace("-", "_") for name in known]
            raise UserError(
                f"{args.config}: unknown key {key!r} in section {step.section!r}."
                f"{near_names(str(key), keys)} (see blt {step.module.NAME} --help)"
            )
        takes_value = known[_flag(key)] != 0
        if value is not None and takes_value == isinstance(value, bool):
            wanted = "a value" if takes_value else "true or false"
            raise UserError(
                f"{args.config}: section {step.section!r}: {key}: {wanted} expected, got {value!r} "
                f"(see blt {step.module.NAME} --help)."
            )
    try:
        parsed = command.parse_arguments(step.module, _argv(step, config)[1:])
    except UserError as error:
        raise UserError(f"{args.config}: section {step.section!r}: {error}") from error
    if hasattr(step.module, "split_extra_flags"):
        parsed.beam_flags = args.beam_flags
    return parsed


def _flag(key: str) -> str:
    return "--" + str(key).replace("_", "-")


def _make_python_docs(folder: Place, console: Console) -> None:
    """Writes the documentation that this Python carries as a raw corpus, unless it is there."""
    path = folder / _PYTHON_DOCS_NAME
    if (folder / MANIFEST_NAME).exists() and path.exists():
        console.say(f"corpus: already there, {path}")
        return
    counts = write_python_docs(path)
    shard = ShardInfo(
        name=path.name,
        documents=counts["documents"],
        bytes=counts["bytes"],
        tokens=0,
        sha256=sha256_file(path),
    )
    write_manifest(
        folder,
        kind="corpus",
        config={"python": ".".join(map(str, sys.version_info[:3]))},
        fingerprints={},
        parents={},
        totals={"documents": counts["documents"], "bytes": counts["bytes"]},
        shards=[shard],
    )
    console.say(
        f"corpus: {counts['documents']:,} documents, {format_bytes(counts['bytes'])} of this "
        f"Python's own documentation -> {path}"
    )


def _summarize(paths: SimpleNamespace, seconds: dict[str, float], total_sec: float) -> Summary:
    encoded = read_manifest(paths.bytes, "byte_shards").totals
    patches = read_manifest(paths.patches, "boundaries").totals
    blt_scores = read_json(paths.scores_blt / "_summary.json")
    entropy_scores = read_json(paths.scores_entropy / "_summary.json")
    mean_patch_bytes = patches["bytes"] / patches["patches"] if patches["patches"] else None
    figures = {
        "BLT": blt_scores["bits_per_byte"],
        "entropy model": entropy_scores["bits_per_byte"],
        "xz": blt_scores.get("xz_bits_per_byte"),
        "zlib": blt_scores.get("zlib_bits_per_byte"),
    }
    data = {
        "documents": encoded["documents"],
        "bytes": encoded["bytes"],
        "mean_patch_bytes": mean_patch_bytes,
        "scores": {
            "split": blt_scores["split"],
            "documents": blt_scores["documents"],
            "bytes": blt_scores["bytes"],
            "trained_on": blt_scores["trained_on"],
            "bits_per_byte": figures,
        },
        "seconds": {**seconds, "all": total_sec},
        "output": str(paths.root),
    }
    lines = [
        "",
        f"{count(encoded['documents'], 'document')}, {format_bytes(encoded['bytes'])}; "
        f"mean patch {mean_patch_bytes or 0:.2f} bytes; {format_seconds(total_sec)} in all.",
        "",
        *_figure_lines(figures, blt_scores, encoded["documents"]),
        "",
        f"All of it lies in {paths.root}:",
        *(
            f"  {_PATHS[name]:<16} {what}"
            for name, what in _CONTENTS.items()
            if (paths.root / _PATHS[name]).exists()
        ),
        "",
        f"Look at {paths.report} in a browser. Then try:",
        f"  {_program()} inspect {paths.patches}",
        f"  {_program()} score --input SOME.txt --model {paths.blt_run / 'model.keras'} "
        f"--output {paths.root / 'scores-some'}",
        "",
    ]
    return Summary(data, lines)


def _program() -> str:
    """Returns what to type for `blt`: the path of this program if its folder is not on PATH."""
    return "blt" if shutil.which("blt") else os.path.relpath(sys.argv[0])


def _figure_lines(
    figures: dict[str, float | None], scores: dict[str, Any], num_documents: int
) -> list[str]:
    if not scores["bytes"]:
        where = "held out" if scores["split"] == "valid" else "scored"
        return [
            f"Of {count(num_documents, 'document')} none with text is {where}, so there is nothing "
            "to judge the models by.",
            "Give more documents; for text files, `encode: {doc_per: line}` makes each line one.",
        ]
    known = [(name, value) for name, value in figures.items() if value is not None]
    return [
        f"Bits per byte on {describe_documents(scores)} ({format_bytes(scores['bytes'])}):",
        *(f"  {name:<14} {value:.3f}" for name, value in sorted(known, key=lambda item: item[1])),
    ]


_CONTENTS = {
    "corpus": "the raw corpus",
    "bytes": "byte shards (TFRecord)",
    "entropy_model": "the entropy model",
    "threshold": "the calibrated threshold",
    "patches": "patch boundaries (Parquet)",
    "training_shards": "training shards (TFRecord)",
    "blt_run": "the BLT and its training history",
    "scores_blt": "bits per byte of each document that was scored, by the BLT (Parquet)",
    "scores_entropy": "the same, by the entropy model",
    "report": "the report",
}


if __name__ == "__main__":
    from pipelines import run as this

    sys.exit(command.main(this))
