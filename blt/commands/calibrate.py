"""Finds the threshold that gives a wanted mean patch size."""

import argparse
from typing import Any

from blt.cli.command import Summary
from blt.cli.console import Console, count, format_bytes
from blt.commands.arguments import (
    add_data_argument,
    add_output_arguments,
    add_precision_argument,
    add_split_arguments,
    byte_size,
    number,
    output_place,
    place,
)
from blt.commands.read_together import with_read
from blt.commands.rule_arguments import add_refinement_arguments
from blt.commands.sidecar import find_finished, note_finished
from blt.dataset.several import read_datasets
from blt.dataset.splits import SPLIT_CHOICES
from blt.dataset.storage import Place, prepare_output_file
from blt.ngram.model import is_ngram_path
from blt.patching.words import share_inside_words

NAME = "calibrate"
HELP = "the threshold that gives a wanted mean patch size"
DESCRIPTION = """\
Runs the entropy model over a sample of the documents and finds the threshold at which patches have
the wanted mean size, with an interval that says how sure that is. Thresholds are steep: each corpus
and each model needs its own. The result is a YAML file that `blt patch --calibration` takes."""

# As in `blt.patching.calibrate`, which takes long to import.
DEFAULT_SAMPLE_BYTES = 1_000_000
DEFAULT_MIN_GROUP_BYTES = 20_000


# Of `blt.patching.calibrate.calibrate`, named as the flags are.
_OPTIONS = (
    "target_patch_bytes",
    "rule",
    "threshold_add_nats",
    "max_patch_length",
    "reset_on_newline",
    "snap_utf8",
    "compat",
    "keep_entropies",
    "sample_bytes",
    "by",
    "min_group_bytes",
    "split",
    "valid_fraction",
    "seed",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser, help="Byte shards to sample.")
    parser.add_argument(
        "--entropy-model",
        type=place,
        required=True,
        metavar="FILE",
        help="From blt train-entropy (.keras) or blt train-ngram (.ngram).",
    )
    add_output_arguments(parser, "the calibration", metavar="FILE.yaml")
    parser.add_argument(
        "--target-patch-bytes",
        type=number,
        nargs="+",
        default=[4.5],
        metavar="BYTES",
        help="Wanted mean: bytes of documents over patches that hold one.",
    )
    parser.add_argument(
        "--rule",
        choices=("entropy", "monotonic", "combined"),
        default="entropy",
        help="Whose threshold; see blt patch --help.",
    )
    parser.add_argument(
        "--threshold-add-nats", type=number, metavar="X", help="Rule combined: its other threshold."
    )
    add_refinement_arguments(parser)
    parser.add_argument(
        "--keep-entropies",
        choices=("f16", "u8"),
        help="Say what patch will be told, so that both look at the same, stored values.",
    )
    parser.add_argument(
        "--sample-bytes",
        type=byte_size,
        default=DEFAULT_SAMPLE_BYTES,
        metavar="BYTES",
        help="About how much text to look at: short pieces of many documents, chosen by a hash of "
        "their ids. A corpus that is not larger is looked at whole; of a very large one, the "
        "beginnings of some shards are read.",
    )
    parser.add_argument(
        "--split",
        choices=SPLIT_CHOICES,
        default="all",
        help="Look at all documents, or only at those that training held out (valid): right for "
        "text that the entropy model was not trained on, whose entropies are higher.",
    )
    parser.add_argument(
        "--by",
        metavar="FIELD",
        help="Also find a threshold for each group of documents that are equal in this field: "
        "source (the input file), or one that blt encode --keep-fields kept.",
    )
    parser.add_argument(
        "--min-group-bytes",
        type=byte_size,
        default=DEFAULT_MIN_GROUP_BYTES,
        metavar="BYTES",
        help="A group with less text in the sample is named, but gets no threshold.",
    )
    parser.add_argument(
        "--plot",
        type=_chart_path,
        metavar="FILE.png|.svg",
        help="Draw the mean patch size against the threshold, with the targets marked.",
    )
    add_split_arguments(parser)
    add_precision_argument(parser)


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Calibrates; see `DESCRIPTION`."""
    data = read_datasets(args.data, "byte_shards")
    from blt.engine import get_entropy_engine, import_engine_backend
    from blt.patching.calibrate import calibrate
    from blt.patching.calibration_file import write_calibration

    import_engine_backend(
        args.entropy_model, verbose=console.verbose, owns_process=args.owns_process
    )
    engine = get_entropy_engine(args.entropy_model, precision=args.precision)
    if not is_ngram_path(args.entropy_model):
        from blt.engine.accelerator import unused_gpu_note

        if note := unused_gpu_note():
            console.say(note)
    options: dict[str, Any] = {name: getattr(args, name) for name in _OPTIONS}
    identity = {
        "command": NAME,
        "config": {**options, "precision": engine.precision},
        "fingerprints": {"entropy_model": engine.fingerprint},
        "parents": {"byte_shards": data.sha256},
    }
    how = "already done"
    finished = find_finished(args.output, identity, overwrite=args.overwrite)
    if args.dry_run:
        sample = min(args.sample_bytes, data.totals["bytes"])
        line = f"calibrate would look at about {format_bytes(sample)} of text (dry run)."
        outputs = [str(path) for path in (args.output, args.plot) if path]
        return with_read(Summary({"dry_run": True, "outputs": outputs}, [line]), data=data)
    if finished is None:
        prepare_output_file(args.output)
        how = "done"
        calibration = calibrate(data, engine, report=console.show, **options)
        console.end_progress()
        write_calibration(args.output, calibration)
        finished = calibration
        note_finished(args.output, identity, calibration)
    lines = [f"calibrate: {how} -> {args.output}"]
    for target in finished["targets"]:
        lines.append(_words(target))
        if (share := target.get("share_inside_characters")) is not None:
            lines.append(f"    {share_inside_words(share, target)}")
        lines += map(_group_words, target.get("groups", ()))
        if left_out := finished["sample"].get("groups_left_out"):
            lines.append(
                f"    not shown: {count(left_out['groups'], 'smaller group')}, "
                f"{format_bytes(left_out['bytes'])} of the sample"
            )
    if args.plot:
        from blt.report.charts import save_calibration_chart

        prepare_output_file(args.plot)
        save_calibration_chart(args.plot, finished)
        lines.append(f"  its curve -> {args.plot}")
    summary = Summary(
        {"stage": NAME, "how": how, "output": str(args.output), **finished},
        lines,
    )
    return with_read(summary, data=data)


def _words(target: dict[str, Any]) -> str:
    low, high = target["interval_95_percent"]
    return (
        f"  {target['target_patch_bytes']:g} bytes a patch: threshold "
        f"{target['threshold_nats']:.4f} nats gives {target['mean_patch_bytes']:.3f} "
        f"(95 % of resamples: {low:.2f} to {high:.2f})"
    )


def _group_words(group: dict[str, Any]) -> str:
    from blt.inspection.visible import visible_text

    name = visible_text(group["group"]) or "(none)"
    text = f"    {name}, {format_bytes(group['bytes'])} of the sample: "
    if "threshold_nats" not in group:
        hint = "; raise --sample-bytes" if group["refused"] == "too little text" else ""
        return f"{text}no threshold, {group['refused']}{hint}"
    low, high = group["interval_95_percent"]
    return (
        f"{text}{group['mean_at_common_threshold']:.2f} bytes a patch at the threshold above; its "
        f"own would be {group['threshold_nats']:.4f} nats ({low:.2f} to {high:.2f})"
    )


def _chart_path(text: str) -> Place:
    path = output_place(text)
    if path.suffix not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"must end in .png or .svg, got {text}")
    return path
