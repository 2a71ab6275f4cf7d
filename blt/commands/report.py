"""One page about what stages gave."""

import argparse

from blt.cli.command import Summary
from blt.cli.console import Console, format_bytes
from blt.commands.arguments import place
from blt.dataset.storage import Place, open_read, prepare_output_file
from blt.errors import UserError

NAME = "report"
HELP = "one HTML page about training runs, boundaries and scores"
DESCRIPTION = """\
Makes one HTML file that needs no network and no scripts: headline figures, loss curves, patch
lengths, bits per byte of documents beside zlib's, where zlib is still ahead, the best and the worst
documents with their patches coloured by entropy, and how all of it was made. Sections appear for
what is found. Entropies that were not kept with the boundaries are computed again if the entropy
model lies in a folder that is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="+",
        type=place,
        metavar="DIR",
        help="The output folder of blt run, or datasets: boundaries, training runs, scores. They "
        "may lie in stores (gs://bucket/run).",
    )
    parser.add_argument(
        "--output",
        type=place,
        required=True,
        metavar="FILE.html",
        help="The page, here or in a store; one that is there is replaced.",
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Writes the page; see `DESCRIPTION`."""
    if args.output.is_dir():
        raise UserError(
            f"--output {args.output}: is a folder; the name of a file such as "
            f"{args.output / 'report.html'} expected."
        )
    if _holds_something_else(args.output):
        raise UserError(
            f"--output {args.output}: exists and is no HTML page, so it is not replaced. Choose "
            "another name."
        )
    from blt.report import collect, headline_figures, write_page

    found = collect(args.folder)
    prepare_output_file(args.output)
    size = write_page(found, args.output)
    kinds = [dataset.name for dataset in found.datasets]
    return Summary(
        {
            "stage": NAME,
            "output": str(args.output),
            "bytes": size,
            "datasets": kinds,
            "figures": headline_figures(found),
        },
        [f"report: done. {format_bytes(size)} -> {args.output}"],
    )


def _holds_something_else(output: Place) -> bool:
    """Tells whether a file is there that is neither empty nor a page."""
    if not output.is_file():
        return False
    with open_read(output) as file:
        head = file.read(64).lstrip().lower()
    return bool(head) and not head.startswith((b"<!doctype html", b"<html"))
