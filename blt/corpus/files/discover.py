"""Which files an input argument means, and what each is called (`source`) from then on.

An argument is a file, a folder (with everything below it), a glob or `@LIST`, tried in this order,
so that a path that exists is opened as it stands even if it holds `*`. A list is a text file with
an argument a line, or arguments with NUL between them; blank lines and lines that begin with `#`
are passed over. `-` is standard input. In folders, and by globs, what is no corpus is left out by
its name (see `blt.corpus.left_out`), and so is what `exclude` or `include` leave out; a file that
is named outright is always read.
"""

import dataclasses
import fnmatch
import glob
import os
import stat
from collections.abc import Hashable, Iterator, Sequence
from pathlib import PurePosixPath

from blt.corpus.files.detect import names_a_format
from blt.corpus.files.filesystems import find_remote, is_remote
from blt.corpus.files.source_names import unique_sources
from blt.corpus.files.standard_input import KeptInput
from blt.corpus.left_out import (
    IRREGULAR,
    NOT_INCLUDED,
    REASONS,
    SAME_FILE,
    SAME_FOLDER,
    UNREADABLE,
    LeftOutRule,
)
from blt.corpus.mends import BOM
from blt.corpus.patterns import matches_any
from blt.corpus.unmatched import Unmatched
from blt.dataset import storage
from blt.dataset.storage import as_place
from blt.dataset.units import Progress, no_progress
from blt.errors import UserError, near_names

BY_NAME = LeftOutRule()
_MAX_SUFFIXES = 100  # remembered for hints
_MAX_SKIPPED = 1000  # remembered of each kind


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """A file to read.

    Attributes:
      path: as it can be opened: the argument, and what was found under it.
      source: its name in the dataset: relative to the folder (or the fixed start of the glob) it
        was found under, the bare name for a file argument. POSIX slashes, valid Unicode, unique.
      size: in bytes.
      mtime_ns: when it was last changed.
    """

    path: str
    source: str
    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file or folder that was passed over.

    Attributes:
      path: of it, or of the argument that it was found under.
      reason: why, in words.
      kind: why, as one of `blt.corpus.left_out.REASONS`.
    """

    path: str
    reason: str
    kind: str


@dataclasses.dataclass
class LeftOut:
    """What was passed over for one kind of reason.

    Attributes:
      number: of files and folders; what lies in a folder is not counted.
      names: their paths, the first thousand.
    """

    number: int = 0
    names: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discovery:
    """What the arguments lead to.

    Attributes:
      files: sorted by source.
      skipped: what was passed over; of each kind the first thousand.
      left_out: the same by kind, with the exact numbers.
      unmatched: patterns of `--include` that mean no file.
    """

    files: tuple[InputFile, ...]
    skipped: tuple[Skipped, ...]
    left_out: dict[str, LeftOut]
    unmatched: tuple[Unmatched, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    path: str
    name: str  # relative to the folder or glob prefix
    identity: Hashable  # equal for all names of a file
    size: int
    mtime_ns: int


@dataclasses.dataclass
class _Search:
    """What is looked for, and what was passed over on the way."""

    include: Sequence[str]
    exclude: Sequence[str]
    rule: LeftOutRule
    progress: Progress = no_progress
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    left_out: dict[str, LeftOut] = dataclasses.field(default_factory=dict)
    unmatched: list[str] = dataclasses.field(init=False)  # of include, so far
    suffixes: dict[str, None] = dataclasses.field(default_factory=dict)  # of names left out

    def __post_init__(self) -> None:
        self.unmatched = list(dict.fromkeys(self.include))
        self.rule = self.rule.asking(self.include)

    def skip(self, path: str, kind: str, reason: str | None = None) -> None:
        """Notes that something is passed over; `reason` in words, where `REASONS` is too short."""
        if self._count(path, kind):
            self.skipped.append(Skipped(path=path, reason=reason or REASONS[kind][0], kind=kind))

    def left_out_kind(self, path: str, is_folder: bool) -> str | None:
        """Returns why the rule leaves out what was found, None if it does not."""
        folder, name = os.path.split(path)
        parent = os.path.basename(folder or os.getcwd())
        return self.rule.reason(name, parent, is_folder=is_folder)

    def num_not_included(self) -> int:
        return self.left_out[NOT_INCLUDED].number if NOT_INCLUDED in self.left_out else 0

    def _count(self, path: str, kind: str) -> bool:
        found = self.left_out.setdefault(kind, LeftOut())
        found.number += 1
        if len(found.names) == _MAX_SKIPPED:
            return False
        found.names.append(path)
        return True

    def takes(self, path: str, name: str, is_folder: bool = False) -> bool:
        """Tells whether include and exclude take what is below a folder; counts it if not."""
        taken = not matches_any(name, self.exclude) and (
            is_folder or not self.include or matches_any(name, self.include)
        )
        if not taken:
            self._count(path, NOT_INCLUDED)
        if self.unmatched and not is_folder:
            self.unmatched = [p for p in self.unmatched if not matches_any(name, [p])]
            if not taken and len(self.suffixes) < _MAX_SUFFIXES:
                self.suffixes["*" + "".join(PurePosixPath(name).suffixes)] = None
        return taken

    def unmatched_includes(self) -> tuple[Unmatched, ...]:
        """Returns the patterns of `--include` that mean no file, with the nearest suffixes."""
        found = []
        for pattern in self.unmatched:
            hint = near_names(pattern, self.suffixes)
            message = f"--include {pattern}: is like no file in any folder or glob.{hint}"
            found.append(Unmatched("--include", pattern, message))
        return tuple(found)


def discover_inputs(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rule: LeftOutRule = BY_NAME,
    standard_input: KeptInput | None = None,
    progress: Progress = no_progress,
) -> Discovery:
    """Finds the files that `arguments` mean; the same file counts once.

    Args:
      arguments: files, folders, globs, `@LIST` or `-`.
      include: of what is found in folders and by globs, only what one of these patterns means.
      exclude: nor what one of these means; a folder that is meant is not entered.
      rule: nor what it leaves out by its name.
      standard_input: the file that holds what `-` means; its source is `stdin`.
      progress: is told of the files, not the bytes, that were found.

    Raises:
      UserError: an argument leads to no file; names it.
    """
    search = _Search(include, exclude, rule, progress)
    skipped = search.skipped
    found: dict[Hashable, _Found] = {}
    for argument, shown in _arguments(arguments):
        before, num_left_out = len(skipped), search.num_not_included()
        if argument == "-" and standard_input is not None:
            place = str(standard_input.place)
            size = storage.stat(place).size
            matches = [_Found(place, "stdin", place, size, standard_input.mtime_ns)]
        elif is_remote(argument):
            matches = _find_remote(argument, shown, search)
        else:
            matches = _expand(argument, search)
        if number := search.num_not_included() - num_left_out:
            reason = f"--include and --exclude leave out {number} of what is in it"
            skipped.append(Skipped(path=argument, reason=reason, kind=NOT_INCLUDED))
        if not matches:
            hints = "".join(f" {line.message}" for line in search.unmatched_includes())
            raise UserError(_nothing_found(argument, shown, skipped[before:]) + hints)
        for match in matches:
            first = found.setdefault(match.identity, match)
            if first.path == match.path:
                continue
            # Of two names of a file, the one that shows its format: a cache may list blobs first.
            if names_a_format(match.name) and not names_a_format(first.name):
                found[match.identity], first, match = match, match, first
            search.skip(match.path, SAME_FILE, f"the same file as {first.path}")
    if not found:
        raise UserError("--input: no file was named. Give files, folders or globs.")
    sources = unique_sources([(f.path, f.name) for f in found.values()])
    files = [
        InputFile(path=f.path, source=s, size=f.size, mtime_ns=f.mtime_ns)
        for f, s in zip(found.values(), sources, strict=True)
    ]
    return Discovery(
        files=tuple(sorted(files, key=lambda file: file.source)),
        skipped=tuple(sorted(skipped, key=lambda skip: (skip.path, skip.reason))),
        left_out={kind: search.left_out[kind] for kind in REASONS if kind in search.left_out},
        unmatched=search.unmatched_includes(),
    )


def _arguments(arguments: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[str, str]]:
    """Yields arguments with what they are called in messages; those in lists in their place."""
    for given in arguments:
        argument = os.fspath(given)
        if not argument.startswith("@") or os.path.lexists(argument):
            yield argument, argument
            continue
        path = argument[1:]
        try:
            data = as_place(path).read_bytes().removeprefix(BOM)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--input {argument}: the list cannot be read ({reason}).") from error
        # As `find -print0` writes it, for names with line ends in them; no name holds NUL.
        lines = data.split(b"\0" if b"\0" in data else b"\n")
        num_named = 0
        for number, line in enumerate(lines, 1):
            line = line.removesuffix(b"\r")
            if line.strip() and not line.startswith(b"#"):
                num_named += 1
                yield os.fsdecode(line), f"{argument}, line {number}: {os.fsdecode(line)}"
        if not num_named:
            raise UserError(f"--input {argument}: the list names no file.")


def _nothing_found(argument: str, shown: str, skipped: list[Skipped]) -> str:
    if not skipped and "\0" not in argument and os.path.isdir(argument):
        return f"--input {shown}: is a folder without files. Give one that holds the corpus."
    if not skipped:
        kind = "matches no file" if glob.has_magic(argument) else "no such file or folder"
        hint = _bracket_hint(argument) or f"Check the path; it is taken from {os.getcwd()}."
        return f"--input {shown}: {kind}. {hint}"
    examples = "; ".join(f"{skip.path}: {skip.reason}" for skip in skipped[:3])
    hint = ""
    if any(skip.kind == IRREGULAR and skip.path == argument for skip in skipped):
        hint = " A pipe is read from standard input: give --input - and pipe the data into blt."
    return f"--input {shown}: holds no file that can be read ({examples}).{hint}"


def _bracket_hint(pattern: str) -> str | None:
    """Says how to write a folder whose name has brackets, where a pattern is below one."""
    folder = pattern
    while (folder := os.path.dirname(folder)) not in ("", os.sep):
        if "\0" not in folder and "[" in folder and os.path.isdir(folder):
            written = os.path.join(glob.escape(folder), os.path.relpath(pattern, folder))
            return f"The folder {folder} is there; in a pattern [[] stands for its [: {written}"
    return None


def _expand(argument: str, search: _Search) -> list[_Found]:
    try:
        exists = os.path.lexists(argument)
    except ValueError:  # a NUL in the path
        exists = False
    if exists:
        if os.path.isdir(argument):
            return list(_walk(argument, "", search))
        found = _inspect(argument, os.path.basename(argument), search)
        return [found] if found else []
    if "\0" in argument or not glob.has_magic(argument):
        return []
    prefix = _fixed_prefix(argument)
    pattern = os.path.relpath(argument, prefix or ".") if prefix else argument
    asked = dataclasses.replace(search, rule=search.rule.asking([pattern]))
    results: list[_Found] = []
    for path, is_folder in sorted(_match(prefix, pattern.split(os.sep), asked)):
        name = os.path.relpath(path, prefix or ".")
        if is_folder:
            # `**` gives what is in the folders itself.
            enter = "**" not in argument and asked.takes(path, name, is_folder=True)
            results.extend(_walk(path, name, asked) if enter else [])
        elif asked.takes(path, name):
            found = _inspect(path, name, asked)
            results.extend([found] if found else [])
    search.unmatched = asked.unmatched
    return results


def _match(
    folder: str, parts: list[str], search: _Search, after_stars: bool = False
) -> Iterator[tuple[str, bool]]:
    """Yields what a pattern means below a folder, and whether it is a folder.

    Args:
      folder: "" for the working one.
      parts: the pattern, split at slashes; `**` stands for any number of folders.
      search: leaves out names that a wildcard means.
      after_stars: the folder was met by `**`.
    """
    part, *rest = parts
    if part == "**":
        for below in _folders(folder, search, set()):
            yield from _match(below, rest or ["*"], search, after_stars=True)
        return
    if not glob.has_magic(part):
        path = os.path.join(folder, part)
        if rest and part in ("", "."):
            yield from _match(folder, rest, search)
        elif os.path.lexists(path):
            yield from _match(path, rest, search) if rest else [(path, os.path.isdir(path))]
        return
    for path, is_folder in _list(folder, search):
        if not fnmatch.fnmatchcase(os.path.basename(path), part):
            continue
        kind = search.left_out_kind(path, is_folder)
        if kind is not None:
            if not (is_folder and after_stars):  # those were noted on the way down
                search.skip(path, kind)
        elif not rest:
            yield path, is_folder
        elif is_folder:
            yield from _match(path, rest, search)


def _list(folder: str, search: _Search) -> Iterator[tuple[str, bool]]:
    """Yields what lies in a folder, sorted, and whether it is a folder."""
    try:
        names = sorted(os.listdir(folder or "."))
    except NotADirectoryError:
        return
    except OSError as error:
        search.skip(folder, UNREADABLE, error.strerror or str(error))
        return
    for name in names:
        path = os.path.join(folder, name)
        yield path, os.path.isdir(path)


def _folders(folder: str, search: _Search, entered: set[tuple[int, int]]) -> Iterator[str]:
    """Yields a folder and all below it that are not left out; each real folder once."""
    if not os.path.isdir(folder or "."):
        return
    info = os.stat(folder or ".")
    if (info.st_dev, info.st_ino) in entered:
        search.skip(folder, SAME_FOLDER)
        return
    entered.add((info.st_dev, info.st_ino))
    yield folder
    for path, is_folder in _list(folder, search):
        if is_folder and (kind := search.left_out_kind(path, is_folder)):
            search.skip(path, kind)
        elif is_folder:
            yield from _folders(path, search, entered)


def _find_remote(argument: str, shown: str, search: _Search) -> list[_Found]:
    """Returns what a path, folder or glob in a store means, by the rules for those here."""
    try:
        stored = find_remote(argument)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--input {shown}: cannot be looked for ({reason}).") from error
    is_glob = glob.has_magic(argument)
    prefix = (_fixed_prefix(argument) if is_glob else argument).rstrip("/") + "/"
    parent = prefix.rstrip("/").rpartition("/")[2]
    rule = search.rule.asking([argument.removeprefix(prefix)]) if is_glob else search.rule
    results = []
    for file in stored:
        name = file.path.removeprefix(prefix)
        if file.path == argument:
            name = file.path.rpartition("/")[2]
        elif kind := rule.reason_of_path(name, parent):
            search.skip(file.path, kind)
            continue
        elif not search.takes(file.path, name) or not _takes_folders(file.path, name, search):
            continue
        search.progress(1)
        results.append(_Found(file.path, name, file.path, file.size, file.mtime_ns))
    return results


def _takes_folders(path: str, name: str, search: _Search) -> bool:
    parts = name.split("/")[:-1]
    return all(
        search.takes(path, "/".join(parts[: depth + 1]), is_folder=True)
        for depth in range(len(parts))
    )


def _fixed_prefix(pattern: str) -> str:
    """Returns the folder above the first part of a glob that has a wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern


def _walk(folder: str, name: str, search: _Search) -> Iterator[_Found]:
    """Yields the files below `folder`, sorted; each real folder is entered once."""
    entered: set[tuple[int, int]] = set()
    pending = [(folder, name)]
    while pending:
        path, relative = pending.pop()
        try:
            info = os.stat(path)
        except OSError as error:
            search.skip(path, UNREADABLE, error.strerror or str(error))
            continue
        if (info.st_dev, info.st_ino) in entered:
            search.skip(path, SAME_FOLDER)
            continue
        entered.add((info.st_dev, info.st_ino))
        folders = []
        for child_path, is_folder in _list(path, search):
            child_name = os.path.join(relative, os.path.basename(child_path))
            if kind := search.left_out_kind(child_path, is_folder):
                search.skip(child_path, kind)
            elif is_folder:
                if search.takes(child_path, child_name, is_folder=True):
                    folders.append((child_path, child_name))
            elif search.takes(child_path, child_name):
                found = _inspect(child_path, child_name, search)
                if found:
                    yield found
        pending.extend(reversed(folders))


def _inspect(path: str, name: str, search: _Search) -> _Found | None:
    """Returns the file if it is one that can be read, else notes why not."""
    try:
        info = os.stat(path)
    except OSError as error:
        search.skip(path, UNREADABLE, error.strerror or str(error))
        return None
    if not stat.S_ISREG(info.st_mode):
        search.skip(path, IRREGULAR)
        return None
    if not os.access(path, os.R_OK):
        search.skip(path, UNREADABLE, "no permission to read it")
        return None
    search.progress(1)
    identity = (info.st_dev, info.st_ino)
    return _Found(path, name, identity, info.st_size, info.st_mtime_ns)
