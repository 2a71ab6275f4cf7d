"""The flags that say where patches begin, for the commands that need a rule."""

import argparse

from blt.commands.arguments import positive_int
from blt.patching.rules import RULES


def add_rule_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --rule and the numbers that rules take."""
    group = parser.add_argument_group("where patches begin")
    group.add_argument(
        "--rule",
        choices=RULES,
        help="entropy: where the entropy of the next byte is above the threshold; monotonic: where "
        "it rises by more than the threshold; combined: both; static: every --patch-size tokens; "
        "space: after blanks and punctuation; byte: everywhere. Default: entropy, or that of the "
        "calibration.",
    )
    group.add_argument(
        "--threshold-nats", type=float, metavar="X", help="Threshold of the rule, in nats."
    )
    group.add_argument(
        "--threshold-add-nats",
        type=float,
        metavar="X",
        help="Rule combined: by how much, in nats, the entropy must also rise.",
    )
    group.add_argument("--patch-size", type=positive_int, metavar="N", help="Rule static: tokens.")
    group.add_argument(
        "--max-patch-length",
        type=positive_int,
        metavar="N",
        help="Cut longer patches, from the left, into pieces of N tokens; no limit if not given.",
    )
    group.add_argument(
        "--compat",
        choices=("meta",),
        help="Cut the first positions of documents as the published models were trained; for "
        "checkpoints that `blt convert` reads.",
    )
    add_reset_on_newline_argument(group)


def add_reset_on_newline_argument(group: argparse._ActionsContainer) -> None:
    """Adds --reset-on-newline; None if it is not given."""
    group.add_argument(
        "--reset-on-newline",
        action="store_const",
        const=True,
        help="The entropy model sees no further back than the beginning of the line, and each line "
        "starts as a document does. Repeated lines are then looked at once.",
    )
