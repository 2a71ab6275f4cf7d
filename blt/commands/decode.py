"""Byte shards back to the corpus."""

import argparse

from blt.command import Summary
from blt.commands.arguments import add_data_argument, local_path
from blt.console import Console, format_bytes
from blt.corpus.decode import decode_dataset

NAME = "decode"
HELP = "byte shards back to the corpus"
DESCRIPTION = """\
Gives a corpus back from its byte shards. Text files come back byte for byte, under their names, if
a document was a file or a line; of JSONL and Parquet the texts come back byte for byte, as JSONL
files with id and text (or bytes_base64, for a text that is not UTF-8)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser)
    parser.add_argument(
        "--output", type=local_path, required=True, metavar="DIR", help="The folder for the corpus."
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Decodes; see `DESCRIPTION`."""
    counts = decode_dataset(args.data, args.output)
    return Summary(
        {"stage": NAME, "output": str(args.output), **counts},
        [
            f"decode: done. {counts['documents']:,} documents, {format_bytes(counts['bytes'])} "
            f"in {counts['files']} files -> {args.output}"
        ],
    )
