"""The plan of `encode` when there is one already: it only grows.

What was planned stays as it is, so that finished units stay valid. New files go into new units at
the end, in which they are grouped among themselves. A file that changed or vanished is an error,
unless it changed before any of it was encoded: then it is planned anew, as a new file. A file that
lies elsewhere now is the same if its source (its path below what was named) and its size are, and
its time or its bytes.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blt.cli.console import count
from blt.corpus.admission.duplicates import duplicate_kinds
from blt.corpus.admission.limit import limit_plan
from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.discover import InputFile
from blt.corpus.files.filesystems import is_remote
from blt.corpus.files.source_names import is_below, numbered, readable_path
from blt.corpus.planning.plan import build_plan
from blt.corpus.planning.preflight import check_inputs
from blt.corpus.planning.sources import digest_entry, read_sources, unit_sources_path
from blt.dataset.markers import is_finished
from blt.dataset.units import Progress, Unit, Watch, no_watch
from blt.errors import BltError, MadeOtherwiseError

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
      MadeOtherwiseError: an earlier input changed, or is not among the files any more.
      UserError: as `check_inputs`.
      WorkError: with `limit`, a file cannot be read.
    """
    payloads = [unit.payload for unit in earlier]
    new = list(files)
    if earlier:
        assert output is not None
        now = _locate(files, earlier)
        with watch("looking for changes", sum(unit.num_bytes for unit in earlier)) as progress:
            changed = _find_changed(now, earlier, output, config, progress)
        _check_vanished(now, earlier, output)
        unread = _check_changed(changed, earlier, output, config)
        if unread:
            payloads = [_without(payload, unread) for payload in payloads]
            say(f"{', '.join(sorted(unread))}: changed before being encoded; planned anew.")
        payloads = [_moved(payload, now) for payload in payloads]
        if num_moved := sum(_key(path) != _key(file.path) for path, file in now.items()):
            say(f"{count(num_moved, 'file')}: in another place than before, with the same bytes.")
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


def _locate(files: Sequence[InputFile], earlier: Sequence[Unit]) -> dict[str, InputFile]:
    """Returns, by the path of each earlier file that is found, the file that it is now.

    That is the one at its path; or where none is, the one of its source that is none of them.
    """
    entries = [entry for unit in earlier for entry in unit.payload["files"]]
    by_path = {_key(file.path): file for file in files}
    known = {_key(entry["path"]) for entry in entries}
    by_source = {file.source: file for file in files if _key(file.path) not in known}
    now = {}
    for entry in entries:
        file = by_path.get(_key(entry["path"])) or by_source.get(entry["source"])
        if file is not None:
            now[entry["path"]] = file
    return now


def _moved(payload: dict[str, Any], now: dict[str, InputFile]) -> dict[str, Any]:
    """Returns a payload whose entries say where their files are now."""
    entries = []
    for entry in payload["files"]:
        file = now[entry["path"]]
        if _key(file.path) != _key(entry["path"]):
            changes = {"path": file.path, "mtime_ns": file.mtime_ns}
            if "note" in entry:
                changes["note"] = entry["note"].replace(entry["path"], file.path)
            entry = {**entry, **changes}
        entries.append(entry)
    return {**payload, "files": entries}


def _find_changed(
    now: dict[str, InputFile],
    earlier: Sequence[Unit],
    output: Path,
    config: EncodeConfig,
    progress: Progress,
) -> dict[str, str]:
    """Returns what changed of each file that is not as it was planned, by its earlier path."""
    changed = {}
    for unit in earlier:
        entries = unit.payload["files"]
        digests = _Digests(unit, entries, output)
        for index, entry in enumerate(entries):
            file = now.get(entry["path"])
            if file is None:
                pass
            elif file.size != entry["size"]:
                what = f"had {entry['size']} bytes, has {file.size}"
                changed[entry["path"]] = f"{file.path} ({what})"
            elif file.mtime_ns != entry["mtime_ns"]:
                is_moved = _key(file.path) != _key(entry["path"])
                # Of a file that lies elsewhere, whatever was not read yet is read as it is.
                is_free = is_moved and not _depends(config) and not is_finished(output, unit)
                if not is_free and not digests.match(index, file.path):
                    changed.setdefault(entry["path"], f"{file.path} (was modified)")
            progress(entry["num_bytes"])
    return changed


def _depends(config: EncodeConfig) -> bool:
    """Tells whether units depend on one another."""
    return bool(duplicate_kinds(config)) or config.limit is not None


class _Digests:
    """The sha256 of what a unit read of each of its files, looked up if it is needed."""

    def __init__(self, unit: Unit, entries: Sequence[Entry], output: Path) -> None:
        self._unit, self._entries, self._output = unit, entries, output
        self._noted: list[str | None] | None = None

    def match(self, index: int, path: str) -> bool:
        """Tells whether the bytes at a path are still those; not so if they were never read."""
        if self._noted is None:
            self._noted = self._read()
        entry = self._entries[index]
        noted = self._noted[index] if index < len(self._noted) else None
        try:
            return noted is not None and noted == digest_entry({**entry, "path": path})
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


def _check_vanished(now: dict[str, InputFile], earlier: Sequence[Unit], output: Path) -> None:
    paths = {entry["path"] for unit in earlier for entry in unit.payload["files"]}
    vanished = sorted(path for path in paths if path not in now)
    if vanished:
        raise MadeOtherwiseError(
            output,
            f"holds {_named(vanished)}, no longer among the inputs",
            "Put back or name every earlier file too, or give --overwrite to make it anew without.",
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
    refused = sorted(path for path in changed if _depends(config) or path in encoded)
    if refused:
        named = _named([changed[path] for path in refused])
        raise MadeOtherwiseError(
            output,
            f"input that it was made from has changed since: {named}",
            "Put it back, choose another folder, or give --overwrite to make all anew.",
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
