"""The flags that say where patches begin, for the commands that need a rule."""

import argparse
import dataclasses

from blt.commands.arguments import number, place, positive_int
from blt.errors import UserError
from blt.patching.rules import RULES, PatchRule


def add_rule_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --rule and the numbers that rules take, and --calibration, where they may come from."""
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
        "--threshold-nats", type=number, metavar="X", help="Threshold of the rule, in nats."
    )
    group.add_argument(
        "--threshold-add-nats",
        type=number,
        metavar="X",
        help="Rule combined: by how much, in nats, the entropy must also rise.",
    )
    group.add_argument("--patch-size", type=positive_int, metavar="N", help="Rule static: tokens.")
    add_refinement_arguments(group)
    group.add_argument(
        "--calibration",
        type=place,
        metavar="FILE.yaml",
        help="Take the rule and its numbers from this file, made by blt calibrate.",
    )
    group.add_argument(
        "--target-patch-bytes",
        type=number,
        metavar="BYTES",
        help="Which of the calibration's targets; needed if it has several.",
    )


def add_refinement_arguments(group: argparse._ActionsContainer) -> None:
    """Adds --max-patch-length, --reset-on-newline, --compat, --snap-utf8; None if not given."""
    group.add_argument(
        "--max-patch-length",
        type=positive_int,
        metavar="N",
        help="Cut longer patches, from the left, into pieces of N tokens; no limit if not given.",
    )
    group.add_argument(
        "--reset-on-newline",
        action="store_const",
        const=True,
        help="The entropy model sees no further back than the beginning of the line, and each line "
        "starts as a document does. Repeated lines are then looked at once.",
    )
    group.add_argument(
        "--compat",
        choices=("meta",),
        help="Cut the first positions of documents as the published models were trained; for "
        "checkpoints that `blt convert` reads.",
    )
    group.add_argument(
        "--snap-utf8",
        action="store_const",
        const=True,
        help="Begin no patch inside a UTF-8 character, but at the character's first byte. Such "
        "patches cannot be cut byte after byte, so no model can generate with them.",
    )


def read_rule(args: argparse.Namespace, fingerprint: str | None) -> PatchRule:
    """Returns the rule that the flags or the calibration ask for.

    Args:
      args: with the flags of `add_rule_arguments`.
      fingerprint: of the entropy model that the rule will be used with; None without one.

    Raises:
      UserError: the flags make no rule, or the calibration is another's or disagrees with them.
    """
    names = [field.name for field in dataclasses.fields(PatchRule)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.calibration is not None:
        from blt.patching.calibration_file import read_calibration

        return read_calibration(
            args.calibration, fingerprint, target_patch_bytes=args.target_patch_bytes, **given
        )
    if args.target_patch_bytes is not None:
        raise UserError("--target-patch-bytes: needs --calibration, made by `blt calibrate`.")
    return PatchRule(**given)
