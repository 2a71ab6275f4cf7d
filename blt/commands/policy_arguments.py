"""The flags of `blt encode` about which documents are taken, and with which bytes."""

import argparse

from blt.commands.arguments import byte_size, positive_int
from blt.corpus.config import NEWLINES, ON_DAMAGED_FILE, ON_DUPLICATE_ID, UTF8


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them, each with the default that changes nothing."""
    group = parser.add_argument_group("bytes (kept as they are by default)")
    group.add_argument(
        "--utf8",
        choices=UTF8,
        default="keep",
        help="Documents that are not UTF-8: keep their bytes, reject them, or replace what is "
        "wrong by U+FFFD. They are counted.",
    )
    group.add_argument(
        "--strip-bom",
        action="store_true",
        help="Leave out a byte order mark at the start of a text file or of a field's text.",
    )
    group.add_argument(
        "--newlines",
        choices=NEWLINES,
        default="keep",
        help="lf makes LF of every CRLF; a CR alone stays.",
    )
    group = parser.add_argument_group(
        "filters (off by default; each is counted in the manifest; in this order)"
    )
    group.add_argument(
        "--sample",
        type=_share,
        metavar="F",
        help="Keep this share of the documents, chosen by a hash of the id.",
    )
    group.add_argument(
        "--min-bytes", type=byte_size, metavar="BYTES", help="Leave out shorter documents."
    )
    group.add_argument(
        "--max-bytes", type=byte_size, metavar="BYTES", help="Leave out longer documents."
    )
    group.add_argument(
        "--limit",
        type=positive_int,
        metavar="N",
        help="Only the first N documents that pass the filters above, in the order of the plan. "
        "The input up to there is read once more, by one process.",
    )
    group.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="Leave out documents whose bytes an earlier one has. All input is read once more.",
    )
    group.add_argument(
        "--on-duplicate-id",
        choices=ON_DUPLICATE_ID,
        default="keep",
        help="A document whose id an earlier one has: keep it, suffix the id with ~dup2, ~dup3, "
        "…, or reject it. But for keep, all input is read once more.",
    )
    group = parser.add_argument_group("damage")
    group.add_argument(
        "--on-unusable-table",
        choices=("refuse", "reject"),
        default="refuse",
        help="A table that lacks the text column, or has no text in it: refuse before any work, or "
        "leave the file out as a reject, which counts as lost with all its rows.",
    )
    group.add_argument(
        "--on-damaged-file",
        choices=ON_DAMAGED_FILE,
        default="keep",
        help="Of a file that is cut short or altered: keep what comes before the damage shows (of "
        "gzip and zstd some of that may be altered), drop all of it (compressed files are then "
        "read twice), or fail. It is named in any case.",
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value
