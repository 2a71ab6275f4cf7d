"""The plan of `encode` when there is one already: it only grows.

What was planned stays as it is, so that finished units stay valid. New files go into new units at
the end, in which they are grouped among themselves. A file that changed or vanished is an error,
unless it changed before any of it was encoded: then it is planned anew, as a new file.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blt.console import count
from blt.corpus.config import EncodeConfig
from blt.corpus.discover import InputFile, is_below, numbered, readable_path
from blt.corpus.duplicates import duplicate_kinds
from blt.corpus.filesystems import is_remote
from blt.corpus.limit import limit_plan
from blt.corpus.plan import Entry, build_plan
from blt.corpus.preflight import check_inputs
from blt.corpus.sources import digest_entry, read_sources, unit_sources_path
from blt.errors import BltError, UserError
from blt.stage import is_finished
from blt.units import Progress, Unit, Watch, no_watch

_MAX_NAMED = 3


def plan_corpus(
    files: Sequence[InputFile],
    config: EncodeConfig,
    *,
    output: Path | None = None,
    earlier: Sequence[Unit] = (),
    refuses_tables: bool = True,
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = no_watch,
) -> list[dict[str, Any]]:
    """Returns the payloads of all units: the earlier ones first, then those of new files.

    Args:
      files: as discovered.
      config: how they are read.
      output: the folder of the earlier units.
      earlier: the units of the plan that is there, of the same config.
      refuses_tables: every new table must have the text column, not one of them.
      say: is told, in a line, what the user should know.
      watch: is told how far it is.

    Raises:
      UserError: an earlier input changed, or is not among the files any more; or as `check_inputs`.
      WorkError: with `limit`, a file cannot be read.
    """
    payloads = [unit.payload for unit in earlier]
    new = list(files)
    if earlier:
        assert output is not None
        names = {_key(file.path): file for file in files}
        with watch("looking for changes", sum(unit.num_bytes for unit in earlier)) as progress:
            changed = _find_changed(names, earlier, output, progress)
        _check_vanished(names, earlier, output)
        moved = _check_changed(changed, earlier, output, config)
        if moved:
            payloads = [_without(payload, moved) for payload in payloads]
            say(f"{', '.join(sorted(moved))}: changed before being encoded; planned anew.")
        planned = {_key(entry["path"]) for payload in payloads for entry in payload["files"]}
        taken = {entry["source"] for payload in payloads for entry in payload["files"]}
        new = [file for file in files if _key(file.path) not in planned]
        if not new:
            return payloads
        if any("max_documents" in payload for payload in payloads):
            say(f"--limit is reached: {count(len(new), 'new file')} not read.")
            return payloads
        new = _with_own_sources(new, taken)
        say(f"{output}: {count(len(new), 'new file')}; the rest was planned before.")
    with watch("looking at files", len(new), "file") as progress:
        planned_before = [entry for payload in payloads for entry in payload["files"]]
        added = build_plan(new, config, progress, beside=planned_before)
    payloads += added
    with watch("looking at columns", None, "file") as progress:  # before `limit_plan` reads any
        tables = added if refuses_tables else []
        check_inputs(payloads, config, tables=tables, progress=progress)
    if config.limit is None:
        return payloads
    with watch("looking for the end of --limit", config.limit, "document") as progress:
        return limit_plan(payloads, config.limit, config, progress)


def _key(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def _find_changed(
    names: dict[str, InputFile], earlier: Sequence[Unit], output: Path, progress: Progress
) -> dict[str, str]:
    """Returns the paths of the files that are not as they were planned, and in what."""
    changed = {}
    for unit in earlier:
        entries = unit.payload["files"]
        digests = _Digests(unit, entries, output)
        for index, entry in enumerate(entries):
            file = names.get(_key(entry["path"]))
            if file is None:
                pass
            elif file.size != entry["size"]:
                changed[entry["path"]] = f"had {entry['size']} bytes, has {file.size}"
            elif file.mtime_ns != entry["mtime_ns"] and not digests.match(index):
                changed.setdefault(entry["path"], "was modified")
            progress(entry["num_bytes"])
    return changed


class _Digests:
    """The sha256 of what a unit read of each of its files, looked up if it is needed."""

    def __init__(self, unit: Unit, entries: Sequence[Entry], output: Path) -> None:
        self._unit, self._entries, self._output = unit, entries, output
        self._noted: list[str | None] | None = None

    def match(self, index: int) -> bool:
        """Tells whether the bytes are still those; not so if they were never read."""
        if self._noted is None:
            self._noted = self._read()
        entry = self._entries[index]
        noted = self._noted[index] if index < len(self._noted) else None
        try:
            return noted is not None and noted == digest_entry(entry)
        except OSError:
            return False

    def _read(self) -> list[str | None]:
        if not is_finished(self._output, self._unit):
            return []
        try:
            rows = read_sources(unit_sources_path(self._output, self._unit.index))
            return [row.sha256 for row in rows]
        except BltError:
            return []


def _check_vanished(names: dict[str, InputFile], earlier: Sequence[Unit], output: Path) -> None:
    paths = {entry["path"] for unit in earlier for entry in unit.payload["files"]}
    vanished = sorted(path for path in paths if _key(path) not in names)
    if vanished:
        raise UserError(
            f"--output {output}: holds {_named(vanished)}, no longer among the inputs. Put back "
            "or name every earlier file too, or give --overwrite to make it anew without."
        )


def _check_changed(
    changed: dict[str, str], earlier: Sequence[Unit], output: Path, config: EncodeConfig
) -> set[str]:
    """Returns the changed files that can be planned anew, or raises if there are others.

    Those are files of which nothing was encoded; none where units depend on one another.
    """
    encoded = {
        entry["path"]
        for unit in earlier
        for entries in (unit.payload["files"],)
        if any(entry["path"] in changed for entry in entries) and is_finished(output, unit)
        for entry in entries
    }
    depends = bool(duplicate_kinds(config)) or config.limit is not None
    refused = sorted(path for path in changed if depends or path in encoded)
    if refused:
        named = _named([f"{path} ({changed[path]})" for path in refused])
        raise UserError(
            f"--output {output}: input that it was made from has changed since: {named}. Put it "
            "back, choose another folder, or give --overwrite to make all anew."
        )
    return set(changed)


def _without(payload: dict[str, Any], paths: set[str]) -> dict[str, Any]:
    return {**payload, "files": [e for e in payload["files"] if e["path"] not in paths]}


def _with_own_sources(files: Sequence[InputFile], taken: set[str]) -> list[InputFile]:
    """Gives new files names that no earlier one has: their paths, where they must."""
    taken = set(taken)
    named = []
    for file in files:
        source = file.source
        if source in taken or is_below(source, taken):
            source = numbered(readable_path(file.path), taken)
        taken.add(source)
        named.append(replace(file, source=source))
    return named


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
