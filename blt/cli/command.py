"""What every command has in common: arguments, messages, exit status.

A command is a module with

    NAME, HELP, DESCRIPTION      the word after `blt`, one line, and full sentences
    add_arguments(parser)        its flags, with units and defaults
    run(args, console)           does it and returns a `Summary`
    split_extra_flags(flags)     for commands that take flags of others too: separates those from
                                 what nobody knows (see `pipelines.beam_flags`)

Exit status: 0 done; 1 the work failed; 2 wrong use, or refused before any work; 130 interrupted.
Results go to files, the summary to standard output, everything else to standard error.
"""

import argparse
import dataclasses
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from blt.cli.console import Console, printable
from blt.cli.quiet import silence
from blt.errors import BltError, UserError, WorkError, near_names

INTERRUPTED = 130
# What commands read, by the names of their arguments; --output must be none of it.
_READ = ("data", "patches", "scores", "model", "entropy_model", "calibration", "input", "folder")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a command has to say at its end: as data (`--json`), and in words."""

    data: dict[str, Any]
    lines: list[str]


class CommandModule(Protocol):
    NAME: str
    HELP: str
    DESCRIPTION: str

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace, console: Console) -> Summary: ...


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        counted = re.fullmatch(r"argument (-\S+): expected \d+ arguments", message)
        action = counted and self._option_string_actions.get(counted[1])
        if action and isinstance(action.metavar, tuple):
            message = f"argument {counted[1]}: {' '.join(action.metavar)} expected"
        raise UserError(f"{message[:1].lower()}{message[1:]} (see {self.prog} --help)")


_IF_INTERRUPTED = "What is finished is kept; the same command goes on from there."


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of descriptions and adds "(default: …)" where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, (), []):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {','.join(map(str, action.default))})"
        return super()._get_help_string(action)


def build_parser(command: CommandModule) -> Parser:
    """Returns the parser of a command, with the flags that all commands have."""
    description = command.DESCRIPTION
    if hasattr(command, "split_extra_flags"):
        description += (
            "\n\nBeam's own flags are taken as well, for example --direct_num_workers 4 for\n"
            "worker processes on this machine, or --runner for another runner. The default runs\n"
            "in this process."
        )
    parser = Parser(
        prog=f"blt {command.NAME}",
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    group = parser.add_argument_group("output of the command itself")
    group.add_argument("--json", action="store_true", help="Print the summary as one JSON object.")
    group.add_argument(
        "--verbose", action="store_true", help="Show log messages, and the traceback of an error."
    )
    return parser


def flag_names(command: CommandModule) -> set[str]:
    """Returns the flags of a command: "--output", "-h", …"""
    return set(flag_arities(command))


def flag_arities(command: CommandModule) -> dict[str, int | str | None]:
    """Returns the flags of a command, and argparse's `nargs` of each: 0 for no value."""
    return {
        name: action.nargs
        for action in build_parser(command)._actions
        for name in action.option_strings
    }


def parse_arguments(command: CommandModule, argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command's arguments; Beam's flags, where they are taken, are kept as `beam_flags`.

    Raises:
      UserError: a flag that neither knows, with the near ones; a value that is wrong or missing; an
        output that is what is read.
    """
    parser = build_parser(command)
    args, unknown = parser.parse_known_args(argv)
    known = [name for action in parser._actions for name in action.option_strings]
    args.beam_flags = []
    args.owns_process = False
    if unknown and hasattr(command, "split_extra_flags"):
        args.beam_flags, unknown, extra_names = command.split_extra_flags(unknown)
        known += extra_names
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise UserError(
            f"unknown argument {flag!r}.{near_names(flag, known)} (see {parser.prog} --help)"
        )
    _check_output_apart(args)
    return args


def _check_output_apart(args: argparse.Namespace) -> None:
    """Refuses an output that is also read: with --overwrite it would be gone before it is read."""
    if getattr(args, "output", None) is None:
        return
    output = _resolved(args.output)
    for name in _READ:
        values = getattr(args, name, None)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and _resolved(value) == output:
                flag = "DIR" if name == "folder" else "--" + name.replace("_", "-")
                raise UserError(
                    f"--output {args.output}: is what {flag} names, to be read. Choose another "
                    "path for the result."
                )


def _resolved(path: Any) -> str:
    """Returns a path without links and dots, be there such a file or not; a URL as it is."""
    return str(path).rstrip("/") if _is_url(path) else os.path.realpath(str(path))


def _print_summary(summary: Summary, *, as_json: bool) -> None:
    """Writes what a command has to say; nothing if there is no standard output.

    Raises:
      WorkError: it cannot be written, as on a full disk. The work is done all the same.
    """
    if sys.stdout is None:
        return
    try:
        print(json.dumps(summary.data, sort_keys=True) if as_json else "\n".join(summary.lines))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer must not be tried again at the exit.
        sys.stdout = None
        raise WorkError(
            f"standard output: cannot be written ({error.strerror or error}). The work is done; "
            "the same command says so again."
        ) from error


def _run(command: CommandModule, args: argparse.Namespace, console: Console) -> Summary:
    """Runs a command; what a store did not do is an error of one line, which names the place."""
    try:
        return command.run(args, console)
    except OSError as error:
        if not _is_url(error.filename):
            raise
        raise WorkError(f"{error.filename}: {error.strerror}.") from error


def _is_url(path: object) -> bool:
    return "://" in str(path)


def main(command: CommandModule, argv: Sequence[str] | None = None) -> int:
    """Runs a command as a program and returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character is no error
            stream.reconfigure(errors="backslashreplace")
    silence(verbose=verbose)
    try:
        # Beam is asked which flags it has, and logs as it is imported: not what a user looks for.
        logging.disable(logging.CRITICAL)
        try:
            args = parse_arguments(command, argv)
        finally:
            logging.disable(logging.NOTSET)
        args.owns_process = True  # and is not a step of a chain
        summary = _run(command, args, Console(verbose=verbose))
        _print_summary(summary, as_json=args.json)
        return 0
    except BltError as error:
        if verbose:
            import traceback

            traceback.print_exc()
        print(f"blt {command.NAME}: {printable(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        kept = getattr(command, "IF_INTERRUPTED", _IF_INTERRUPTED)
        print(f"\nblt {command.NAME}: interrupted. {kept}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        return 0
    except Exception as error:  # not foreseen: our mistake, but a user need not read a traceback
        if verbose:
            raise
        reason = printable(" ".join(str(error).split())[:500])
        print(
            f"blt {command.NAME}: stopped by {type(error).__name__}: {reason}. This looks like a "
            "bug; give --verbose to see where.",
            file=sys.stderr,
        )
        return 1
