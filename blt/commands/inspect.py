"""What is in this folder or file?"""

import argparse
import sys

from blt.cli.command import Summary
from blt.cli.console import Console
from blt.commands.arguments import add_places_argument, place, positive_int
from blt.dataset.manifest import MANIFEST_NAME
from blt.dataset.storage import Place
from blt.errors import UserError, WorkError

NAME = "inspect"
HELP = "what a folder or file holds, in words"
DESCRIPTION = """\
Says what a folder or file is, for whatever a stage of blt made: the manifest in words, its lineage,
and the first documents with their patch boundaries marked (patches stand between bars). What a
terminal would obey or hide is written out. Also tells how far an unfinished folder is, what a model
file holds, and how to encode a raw corpus."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=place,
        metavar="PATH",
        help="A folder or a file, here or in a store (gs://bucket/folder).",
    )
    parser.add_argument(
        "--documents",
        type=positive_int,
        default=3,
        metavar="N",
        help="How many documents (or training sequences) are shown.",
    )
    parser.add_argument(
        "--bytes",
        type=positive_int,
        default=300,
        metavar="N",
        help="How many bytes of each are shown.",
    )
    add_places_argument(
        parser,
        "--data",
        metavar="BYTES",
        help="The byte shards that boundaries were made from; found by themselves if they lie "
        "beside the boundaries.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="Read every shard and compare its sha256 with the manifest's, and see that totals "
        "add up; exit status 1 if not.",
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Describes; see `DESCRIPTION`."""
    from blt.inspection import Look, inspect_path

    if args.check:
        return _check(args.path)
    look = Look(documents=args.documents, num_bytes=args.bytes, data=args.data)
    return _printable(inspect_path(args.path, look))


def _check(path: Place) -> Summary:
    from blt.inspection import check_folder

    folder = path.parent if path.name == MANIFEST_NAME else path
    if not folder.is_dir():
        raise UserError(f"{path}: --check is for folders that stages made; give one.")
    checked, problems = check_folder(folder)
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WorkError(f"{len(problems)} wrong: {' '.join(problems[:3])}{more}")
    if not checked:
        raise UserError(f"{path}: no shards to check; a folder that a stage made expected.")
    return Summary(
        {"path": str(path), "shards": checked, "problems": []},
        [f"inspect: {checked:,} shards of {path} are whole, and the totals add up."],
    )


def _printable(summary: Summary) -> Summary:
    """Writes out what standard output cannot say in its encoding."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    lines = [line.encode(encoding, "backslashreplace").decode(encoding) for line in summary.lines]
    return Summary(summary.data, lines)
