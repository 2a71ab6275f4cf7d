"""Which names are no corpus: one rule for folders, globs, stores and the members of archives.

It goes by names alone, so that a file meets the same verdict whatever lies beside it. What a user
names outright is always read, and a pattern that is itself such a name (`_*.py`, `*.bak`) asks for
what it matches.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence

HIDDEN, UNDERSCORE = "hidden", "underscore"
LEFTOVER, CHECKSUMS, BOOKKEEPING = "leftover", "checksums", "bookkeeping"

# Why something is passed over that is not left out by its name.
NOT_INCLUDED, SAME_FILE, SAME_FOLDER = "not_included", "same_file", "same_folder"
IRREGULAR, UNREADABLE = "irregular", "unreadable"
# In words, of one and of several.
REASONS = {
    HIDDEN: ("hidden", "hidden"),
    UNDERSCORE: ("name that begins with _", "names that begin with _"),
    LEFTOVER: ("leftover of an editor or a download", "leftovers of editors and downloads"),
    CHECKSUMS: ("list of checksums", "lists of checksums"),
    BOOKKEEPING: ("bookkeeping file of a dataset tool", "bookkeeping files of dataset tools"),
    NOT_INCLUDED: ("left out by --include or --exclude", "by --include and --exclude"),
    SAME_FILE: ("further name of a file", "further names of files"),
    SAME_FOLDER: (
        "link to a folder that was read already",
        "links to folders that were read already",
    ),
    IRREGULAR: ("not a regular file", "not regular files"),
    UNREADABLE: ("cannot be read", "that cannot be read"),
}
_FLAGS = {
    "--include-hidden": (HIDDEN, UNDERSCORE),
    "--include-leftovers": (LEFTOVER, CHECKSUMS, BOOKKEEPING),
}
# Of files, in lower case; folders are left out by their first character, and by `_CACHE_FOLDER`.
_PATTERNS = {
    LEFTOVER: (
        *("*~", "#*#", "*.swp", "*.swo", "*.bak", "*.orig", "*.rej", "*.tmp", "*.temp", "*.lock"),
        *("*.part", "*.partial", "*.incomplete", "*.crdownload", "*.aria2", "*.!ut"),
        *("thumbs.db", "desktop.ini"),
    ),
    CHECKSUMS: (
        *("*.md5", "*.sha1", "*.sha224", "*.sha256", "*.sha384", "*.sha512", "*.crc", "*.sfv"),
        *("*.md5sum", "*.sha1sum", "*.sha256sum", "*.sha512sum"),
        *("md5sum", "sha1sum", "sha256sum", "sha512sum", "b2sum"),
        *("md5sums", "sha1sums", "sha256sums", "sha512sums", "b2sums"),
        *("md5sum.txt", "sha1sum.txt", "sha256sum.txt", "sha512sum.txt"),
        *("md5sums.txt", "sha1sums.txt", "sha256sums.txt", "sha512sums.txt"),
        *("checksum", "checksums", "checksum.txt", "checksums.txt"),
    ),
    # Of `datasets.save_to_disk`, and beside the tables in its cache.
    BOOKKEEPING: ("state.json", "dataset_info.json", "dataset_dict.json"),
}
_COMPILED = {
    reason: re.compile("|".join(map(fnmatch.translate, patterns)))
    for reason, patterns in _PATTERNS.items()
}
_ANY = re.compile("|".join(pattern.pattern for pattern in _COMPILED.values()))
# Of the Hugging Face hub: `refs` holds names of revisions.
_CACHE_FOLDER = re.compile(r"(?:datasets|models|spaces)--.+")


def left_out_line(numbers: Mapping[str, int]) -> str | None:
    """Returns what was left out in a line, with the flags that take it; None if nothing was.

    >>> left_out_line({"hidden": 1200, "not_included": 1})
    'left out: 1,200 hidden, 1 by --include and --exclude; see --include-hidden'
    """
    found = [
        f"{number:,} {words[number != 1 or kind == NOT_INCLUDED]}"
        for kind, words in REASONS.items()
        if (number := numbers.get(kind))
    ]
    if not found:
        return None
    flags = [f for f, kinds in _FLAGS.items() if any(numbers.get(kind) for kind in kinds)]
    hint = f"; see {' and '.join(flags)}" if flags else ""
    return f"left out: {', '.join(found)}{hint}"


@dataclasses.dataclass(frozen=True)
class LeftOutRule:
    """Which names are left out.

    Attributes:
      takes_hidden: not those that begin with "." or "_".
      takes_leftovers: nor leftovers, checksum lists and bookkeeping.
      asked: patterns of one part of a path; those that are themselves left out ask for what they
        match.
    """

    takes_hidden: bool = False
    takes_leftovers: bool = False
    asked: tuple[str, ...] = ()

    def asking(self, patterns: Sequence[str]) -> "LeftOutRule":
        """Returns the rule that also takes what patterns of paths ask for."""
        parts = (part for pattern in patterns for part in pattern.split("/"))
        asked = tuple(part for part in parts if _reason(part, "", is_folder=False))
        return dataclasses.replace(self, asked=(*self.asked, *asked)) if asked else self

    def reason(self, name: str, parent: str = "", *, is_folder: bool = False) -> str | None:
        """Returns why a file or folder is left out, one of `REASONS`; None if it is not.

        Args:
          name: of it.
          parent: the name of the folder that it lies in.
        """
        found = _reason(name, parent, is_folder)
        if found is None:
            return None
        takes = self.takes_hidden if found in (HIDDEN, UNDERSCORE) else self.takes_leftovers
        if takes or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.asked):
            return None
        return found

    def reason_of_path(self, path: str, parent: str = "") -> str | None:
        """Returns why a file is left out, by its name or that of a folder on the way to it.

        >>> LeftOutRule().reason_of_path("a/_SUCCESS"), LeftOutRule().reason_of_path(".git/config")
        ('underscore', 'hidden')
        """
        *folders, last = [part for part in path.split("/") if part not in ("", ".", "..")] or [""]
        for folder in folders:
            if found := self.reason(folder, parent, is_folder=True):
                return found
            parent = folder
        return self.reason(last, parent)


def _reason(name: str, parent: str, is_folder: bool) -> str | None:
    if name.startswith("."):
        return HIDDEN
    if name.startswith("_"):
        return UNDERSCORE
    if is_folder:
        return BOOKKEEPING if name == "refs" and _CACHE_FOLDER.fullmatch(parent) else None
    lowered = name.lower()
    if not _ANY.fullmatch(lowered):
        return None
    return next((reason for reason, found in _COMPILED.items() if found.fullmatch(lowered)), None)
