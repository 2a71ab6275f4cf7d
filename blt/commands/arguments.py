"""Flags that several commands share, and how their values are read."""

import argparse
import csv
from pathlib import Path
from typing import Any

from blt.dataset.splits import DEFAULT_SEED, DEFAULT_VALID_FRACTION
from blt.dataset.storage import Place, check_url, is_remote
from blt.engine.options import AUTO, PRECISIONS


def add_output_arguments(
    parser: argparse.ArgumentParser, what: str, *, metavar: str = "DIR", is_stage: bool = False
) -> None:
    """Adds --output, --overwrite and --dry-run; and --verify for what is made of units."""
    group = parser.add_argument_group("output")
    rule = (
        " It must be new or empty, or hold an earlier run of the same command, which is then "
        "finished."
    )
    group.add_argument(
        "--output",
        type=output_place,
        required=True,
        metavar=metavar,
        help=(f"The folder for {what}.{rule}" if metavar == "DIR" else f"The file for {what}.")
        + " It may be in a store (gs://bucket/name).",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="Make it anew, even if an earlier run with other settings is there.",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="Print the plan (units, bytes, outputs) and write nothing.",
    )
    if is_stage:
        group.add_argument(
            "--verify",
            action="store_true",
            help="Read the shards of finished units again and compare their sha256; without it, "
            "size and version in one listing are trusted.",
        )


def add_data_argument(
    parser: argparse.ArgumentParser,
    *,
    metavar: str = "BYTES",
    help: str = "Byte shards, from blt encode.",
) -> None:
    """Adds --data, the datasets to read: a list of places."""
    add_places_argument(parser, "--data", required=True, metavar=metavar, help=help)


def add_places_argument(
    parser: Any, flag: str, *, metavar: str, help: str, required: bool = False
) -> None:
    """Adds a flag that takes one dataset, or several that are used together: a list of places.

    Args:
      parser: or a group of one.
      flag: its name.
      metavar, required: as `add_argument` takes them.
      help: what one dataset is.
    """
    parser.add_argument(
        flag,
        type=place,
        nargs="+",
        action="extend",
        required=required,
        metavar=metavar,
        help=f"{help} Several are used together, in this order.",
    )


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --valid-fraction and --seed."""
    parser.add_argument(
        "--valid-fraction",
        type=fraction,
        default=DEFAULT_VALID_FRACTION,
        metavar="F",
        help="The share of documents that are held out, chosen by a hash of seed and document id. "
        "Use the same in every stage.",
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=DEFAULT_SEED,
        metavar="N",
        help="The seed of that hash.",
    )


def place(text: str) -> Place:
    """Reads a path here, or a URL of a store such as gs://bucket/folder."""
    if not text:
        raise argparse.ArgumentTypeError("a path expected, got nothing; give . for this folder")
    if is_remote(text):
        try:
            return check_url(text)
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    path = Path(text)
    try:
        path.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{text[:200]}: no such path can be ({reason})") from None
    # "." and ".." have no name of their own, which is needed for what is put beside a folder.
    return path if path.name not in ("", "..") else path.absolute().resolve()


def output_place(text: str) -> Place:
    """Reads a place to write to; a path that is not UTF-8 is refused: Arrow writes to none."""
    output = place(text)
    try:
        str(output).encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{text}: a path of UTF-8 expected, and this has other bytes; give it another name"
        ) from None
    return output


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --precision, for the commands that run a model over much text."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=AUTO,
        help="Number format of the model's layers. auto is bfloat16 on accelerators and on "
        "CPUs that multiply its matrices at least twice as fast that way, else float32.",
    )


def fraction(text: str) -> float:
    """Reads a number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text}")
    return value


def number(text: str) -> float:
    """Reads a number."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text}") from error


def whole_number(text: str) -> int:
    """Reads a whole number."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text}") from error


def positive_int(text: str) -> int:
    """Reads a whole number above 0."""
    value = int(text) if text.strip().lstrip("+").isdecimal() else 0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return value


def field_names(text: str) -> list[str]:
    """Reads names separated by commas; one that holds a comma stands in quotes.

    >>> field_names('lang,"a,b"')
    ['lang', 'a,b']
    """
    names = next(csv.reader([text]), [])
    if "" in names:
        raise argparse.ArgumentTypeError(f"a name is empty in {text}")
    return names


def one_character(text: str) -> str:
    """Reads a character as it is, or as "tab", "\\t" or "\\x01".

    >>> one_character("tab"), one_character(r"\\x01"), one_character("|")
    ('\\t', '\\x01', '|')
    """
    if text in ("tab", "\\t"):
        return "\t"
    if len(text) == 4 and text.startswith("\\x"):
        try:
            return chr(int(text[2:], 16))
        except ValueError:
            pass
    return text  # if it is longer, the config says so


_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}


def byte_size(text: str) -> int:
    """Reads a number of bytes: "65536", "64MiB", "1.5GB"."""
    number = text.strip().lower().removesuffix("b")
    unit = number.lstrip("0123456789.")
    try:
        value = int(float(number.removesuffix(unit)) * _UNITS[unit.strip()])
    except (KeyError, ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"must be a number of bytes such as 65536, 64MiB or 1GB, got {text!r}"
        ) from None
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return value
