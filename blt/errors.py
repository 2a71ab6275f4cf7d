"""The two ways in which a command ends badly, each with its exit status.

Everything a user can cause is raised as one of these, with a message of one line that names the
thing, says what was expected, and says how to fix it. Anything else that escapes is our mistake.
"""

import difflib
from collections.abc import Iterable


class BltError(Exception):
    """An error whose message is written for the user; shown without a traceback."""

    exit_status = 1


class UserError(BltError):
    """Wrong use, or work refused before any of it was done (exit status 2)."""

    exit_status = 2


class MadeOtherwiseError(UserError):
    """The output is there, but was made with other settings or from other data.

    Args:
      output: where it lies.
      differs: in what, in words.
      advice: what the user of a single command can do.
      is_known: whether it is known how it was made; else it may be the user's own.
    """

    def __init__(self, output: object, differs: str, advice: str, *, is_known: bool = True) -> None:
        super().__init__(f"--output {output}: {differs}. {advice}")
        self.output, self.differs, self.is_known = output, differs, is_known


class ConfigError(UserError, ValueError):
    """A layer, model or optimizer was asked for with arguments that it cannot have.

    A ValueError too, since the Python API raises it to people who never run a command.
    """


class WorkError(BltError):
    """The work failed, or rejects passed their limit; what is done is kept (exit status 1)."""

    exit_status = 1


def near_names(name: str, known: Iterable[str]) -> str:
    """Words a hint such as "Did you mean 'text'?", or "" when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
