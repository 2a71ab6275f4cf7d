"""Byte shards back to the corpus."""

import argparse

from blt.cli.command import Summary
from blt.cli.console import Console, count, format_bytes
from blt.commands.arguments import add_data_argument, place
from blt.commands.read_together import with_read
from blt.corpus.decode import decode_dataset
from blt.corpus.not_decoded import not_decoded_lines
from blt.dataset.several import read_datasets

NAME = "decode"
HELP = "byte shards back to the corpus"
DESCRIPTION = """\
Gives a corpus back from its byte shards. Text files come back byte for byte, under their names; of
JSONL, Parquet and other records the texts come back byte for byte, as JSONL files with id, text (or
bytes_base64, for a text that is not UTF-8) and meta, which holds the fields that were kept. What
was left out when the corpus was encoded is said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    parser.add_argument(
        "--output",
        type=place,
        required=True,
        metavar="DIR",
        help="The folder for the corpus, here or in a store (gs://bucket/folder).",
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Decodes; see `DESCRIPTION`."""
    data = read_datasets(args.data, "byte_shards")
    left_out = []
    for manifest in data.members:
        which = f"{manifest.folder}: " if len(data.members) > 1 else ""
        left_out += [which + line for line in not_decoded_lines(manifest)]
    with console.progress("decode", data.totals.get("bytes")) as progress:
        counts = decode_dataset(args.data, args.output, progress)
    summary = Summary(
        {"stage": NAME, "output": str(args.output), **counts, "left_out": left_out},
        [
            f"decode: done. {count(counts['documents'], 'document')}, "
            f"{format_bytes(counts['bytes'])} in {count(counts['files'], 'file')} -> {args.output}",
            *(f"  {line}" for line in left_out),
        ],
    )
    return with_read(summary, data=data)
