"""Finds the threshold that gives a wanted mean patch size."""

import argparse
from typing import Any

from blt.command import Summary
from blt.commands.arguments import (
    add_data_argument,
    add_output_arguments,
    byte_size,
    local_path,
    positive_int,
)
from blt.commands.rule_arguments import add_reset_on_newline_argument
from blt.commands.sidecar import find_finished, note_finished
from blt.console import Console, format_bytes
from blt.manifest import read_manifest
from blt.storage import prepare_output_file

NAME = "calibrate"
HELP = "the threshold that gives a wanted mean patch size"
DESCRIPTION = """\
Runs the entropy model over a sample of the documents and finds the threshold at which patches have
the wanted mean size, with an interval that says how sure that is. Thresholds are steep: each corpus
and each model needs its own. The result is a YAML file that `blt patch --calibration` takes."""

DEFAULT_SAMPLE_BYTES = 500_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser, help="Byte shards to sample.")
    parser.add_argument(
        "--entropy-model",
        type=local_path,
        required=True,
        metavar="FILE",
        help="From blt train-entropy (.keras) or blt train-ngram (.ngram).",
    )
    add_output_arguments(parser, "the calibration", metavar="FILE.yaml")
    parser.add_argument(
        "--target-patch-bytes",
        type=float,
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
        "--threshold-add-nats", type=float, metavar="X", help="Rule combined: its other threshold."
    )
    parser.add_argument(
        "--max-patch-length", type=positive_int, metavar="N", help="As in blt patch."
    )
    add_reset_on_newline_argument(parser)
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
        help="About how much text to look at; documents are chosen by a hash of their id.",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="The seed of that hash.")


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Calibrates; see `DESCRIPTION`."""
    data = read_manifest(args.data, "byte_shards")
    from blt.engine import get_entropy_engine, import_engine_backend
    from blt.patching.calibrate import calibrate, write_calibration

    import_engine_backend(args.entropy_model, verbose=console.verbose)

    engine = get_entropy_engine(args.entropy_model)
    names = ("target_patch_bytes", "rule", "threshold_add_nats", "max_patch_length")
    options: dict[str, Any] = {name: getattr(args, name) for name in names}
    options |= {"keep_entropies": args.keep_entropies, "sample_bytes": args.sample_bytes}
    options |= {"reset_on_newline": args.reset_on_newline, "seed": args.seed}
    identity = {
        "command": NAME,
        "config": options,
        "fingerprints": {"entropy_model": engine.fingerprint},
        "parents": {"byte_shards": data.sha256},
    }
    how = "already done"
    finished = find_finished(args.output, identity, overwrite=args.overwrite)
    if args.dry_run:
        sample = min(args.sample_bytes, data.totals["bytes"])
        line = f"calibrate would look at about {format_bytes(sample)} of text (dry run)."
        return Summary({"dry_run": True, "outputs": [str(args.output)]}, [line])
    if finished is None:
        prepare_output_file(args.output)
        how = "done"
        calibration = calibrate(data, engine, report=console.show, **options)
        console.end_progress()
        write_calibration(args.output, calibration)
        finished = calibration
        note_finished(args.output, identity, calibration)
    return Summary(
        {"stage": NAME, "how": how, "output": str(args.output), **finished},
        [f"calibrate: {how} -> {args.output}", *(_words(t) for t in finished["targets"])],
    )


def _words(target: dict[str, Any]) -> str:
    low, high = target["interval_95_percent"]
    return (
        f"  {target['target_patch_bytes']:g} bytes a patch: threshold "
        f"{target['threshold_nats']:.4f} nats gives {target['mean_patch_bytes']:.3f} "
        f"(95 % of resamples: {low:.2f} to {high:.2f})"
    )
