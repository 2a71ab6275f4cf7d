"""Documents with the bytes, or the id, of an earlier one: found exactly, in bounded memory.

"Earlier" is in the order of the plan, so that the answer depends on nothing else. It takes a look
at all units before any is encoded, in steps of which each can be done anywhere and twice:

    scan_unit          reads a unit as encoding will, and writes 16 bytes of BLAKE2b of every
                       document's bytes or id, in runs of `RUN_DOCUMENTS`
    sort_unit          sorts the digests of each run and counts the equal ones
    resolve_partition  puts all runs together, one range of digests at a time, and notes for every
                       run which of its digests earlier runs have, and how often
    read_decisions     for encoding: whether each document of a unit is one of them

`find_duplicates` is all but the last, in this process. Equal bytes are looked for first, and a
document that is dropped for its bytes does not hold its id. The files lie in `_duplicates/` of the
output: `00012-000.ids.digests` (kept, so that a later run with more input need not read the old one
again), and for each plan a folder with `.keys` and `.found`, which `remove_found` removes.

Equal digests of 128 bits are taken for equal documents: 1e10 documents have one chance in 1e18 of a
mistake.
"""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from blt.corpus.admission.admission import Admission
from blt.corpus.config import EncodeConfig
from blt.corpus.records import Document, Filtered, Reject
from blt.dataset.plan_file import read_plan_version
from blt.dataset.storage import (
    Place,
    atomic_path,
    delete_all,
    list_below,
    local_copy,
    local_folder,
    read_json,
    stat,
    write_json,
)
from blt.dataset.units import Progress, Unit, no_progress
from blt.errors import UserError, WorkError

DUPLICATES_FOLDER = "_duplicates"
CONTENT, IDS = "content", "ids"
RUN_DOCUMENTS = 1 << 20
PARTITION_KEYS = 1 << 21  # about 250 MB while they are sorted
_DIGEST_BYTES = 16
_FOUND = np.dtype([("unit", "<u4"), ("run", "<u4"), ("record", "<u4"), ("before", "<u8")])
# A suffix of ours; an id that has one already gets another, so that no two ids become the same.
_SUFFIXED = re.compile(r"~dup[0-9]+\Z")


def duplicate_kinds(config: EncodeConfig) -> tuple[str, ...]:
    """Returns what has to be looked for, in this order; nothing by default."""
    ids = config.on_duplicate_id != "keep"
    return (CONTENT,) * config.drop_duplicates + (IDS,) * ids


def find_duplicates(units: Sequence[Unit], config: EncodeConfig, output: Place) -> None:
    """Finds what `read_decisions` tells, for all units of a plan; does nothing if not asked to.

    Raises:
      WorkError: an input cannot be read.
    """
    kinds = duplicate_kinds(config)
    for unit in units if kinds else ():
        scan_unit(unit, config, output)
    for kind in kinds:
        num_keys = sum(sort_unit(unit.index, kind, config, output) for unit in units)
        num_partitions = start_partitions(num_keys, kind, output)
        for index in range(num_partitions):
            resolve_partition(index, num_partitions, kind, output)


def scan_unit(
    unit: Unit, config: EncodeConfig, output: Place, progress: Progress = no_progress
) -> int:
    """Writes the digests of a unit's documents, unless they are there; returns their number.

    Raises:
      WorkError: an input cannot be read, or a file not written.
    """
    folder = output / DUPLICATES_FOLDER
    marker = folder / f"{unit.index:05d}.json"
    if is_scanned(unit, output):
        return _read_marker(marker)["documents"]
    delete_all(list(_files_of(folder, unit.index)))
    kinds = duplicate_kinds(config)
    digests = {kind: bytearray() for kind in kinds}
    documents = 0

    def end_run() -> None:
        run = (documents - 1) // RUN_DOCUMENTS
        for kind, data in digests.items():
            with atomic_path(_path(folder, unit.index, run, kind, "digests")) as temporary:
                temporary.write_bytes(data)
            data.clear()

    payload = unit.payload
    admission = Admission(payload, config, scratch=local_folder(folder))
    for entry in payload["files"]:
        for record in admission.read(entry, progress):
            if not isinstance(record, Document):
                continue
            for kind in kinds:
                digests[kind] += _digest(record, kind)
            documents += 1
            if documents % RUN_DOCUMENTS == 0:
                end_run()
    if documents % RUN_DOCUMENTS:
        end_run()
    write_json(marker, {"digest": unit.digest, "documents": documents})
    return documents


def is_scanned(unit: Unit, output: Place) -> bool:
    """Tells whether `scan_unit` was done with a unit as it is."""
    marker = output / DUPLICATES_FOLDER / f"{unit.index:05d}.json"
    return _read_marker(marker).get("digest") == unit.digest


def _digest(document: Document, kind: str) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    if kind == IDS:
        digest.update(document.doc_id.encode("utf-8"))
    else:
        for part in document.parts:
            digest.update(part)
    return digest.digest()


def sort_unit(unit_index: int, kind: str, config: EncodeConfig, output: Place) -> int:
    """Sorts the digests of each run of a unit; returns how many different ones the runs have.

    Ids are those of the documents that are not dropped for their bytes, which must be found by now.
    """
    folder = output / DUPLICATES_FOLDER
    after_content = kind == IDS and config.drop_duplicates
    num_keys = 0
    for run in itertools.count():
        path = _path(folder, unit_index, run, kind, "digests")
        if not path.exists():
            return num_keys
        digests = np.frombuffer(path.read_bytes(), ">u8").reshape(-1, 2)
        records = np.arange(len(digests), dtype=np.uint32)
        if after_content:
            dropped, _ = _read_found(_found_folder(output), unit_index, run, CONTENT)
            records = np.setdiff1d(records, dropped, assume_unique=True)
        keys = _Keys.of_digests(digests[records].astype(np.uint64), records)
        keys.write(_path(_found_folder(output), unit_index, run, kind, "keys"))
        num_keys += len(keys.high)
    raise AssertionError("unreachable: the numbers do not end")


class _Keys:
    """The different digests of a run, sorted, and its documents that repeat one of them.

    Attributes:
      high, low: [num_keys] uint64, the halves of the digests.
      record: [num_keys] uint32, the first document of the run that has it.
      count: [num_keys] uint32, how many of its documents have it.
      repeats: [num_repeats, 3] uint32, sorted: a document that is not the first, the first one, and
        its place among the equal ones, from 2.
    """

    def __init__(
        self,
        high: np.ndarray,
        low: np.ndarray,
        record: np.ndarray,
        count: np.ndarray,
        repeats: np.ndarray,
    ) -> None:
        self.high, self.low, self.record, self.count = high, low, record, count
        self.repeats = repeats

    @classmethod
    def of_digests(cls, digests: np.ndarray, records: np.ndarray) -> "_Keys":
        """Makes the keys of documents `records` [n] with `digests` [n, 2]."""
        order, starts, sizes = _group(digests[:, 0], digests[:, 1])
        firsts = records[order[starts]]
        place = np.arange(len(order)) - np.repeat(starts, sizes) + 1
        repeats = np.stack([records[order], np.repeat(firsts, sizes), place], axis=1)
        repeats = repeats[place > 1].astype(np.uint32)
        return cls(
            digests[order[starts], 0],
            digests[order[starts], 1],
            firsts,
            sizes.astype(np.uint32),
            repeats[np.argsort(repeats[:, 0])],
        )

    def write(self, path: Place) -> None:
        head = np.array([len(self.high), len(self.repeats)], "<u8")
        columns = [(self.high, "<u8"), (self.low, "<u8"), (self.record, "<u4")]
        columns += [(self.count, "<u4"), (self.repeats, "<u4")]
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(head.tobytes())
            for values, kind in columns:
                file.write(values.astype(kind).tobytes())

    @classmethod
    def read(cls, path: Place) -> "_Keys":
        """Maps a file; only what is looked at is read."""
        data = np.memmap(local_copy(path), np.uint8, "r")
        num_keys, num_repeats = data[:16].view("<u8").tolist()
        start = 16
        columns = []
        for kind, length in (*(("<u8", num_keys),) * 2, *(("<u4", num_keys),) * 2):
            end = start + length * np.dtype(kind).itemsize
            columns.append(data[start:end].view(kind))
            start = end
        repeats = data[start : start + 12 * num_repeats].view("<u4").reshape(-1, 3)
        return cls(*columns, repeats)


def _group(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorts digests; returns the order (stable), and start and size of each group of equals."""
    order = np.lexsort((low, high))
    sorted_high, sorted_low = high[order], low[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (sorted_high[1:] != sorted_high[:-1]) | (sorted_low[1:] != sorted_low[:-1])
    starts = np.flatnonzero(is_new)
    return order, starts, np.diff(np.append(starts, len(order)))


def start_partitions(num_keys: int, kind: str, output: Place) -> int:
    """Returns into how many ranges to cut the digests, and writes it down for who reads them."""
    num_partitions = max(1, -(-num_keys // PARTITION_KEYS))
    write_json(_found_folder(output) / f"{kind}.json", {"partitions": num_partitions})
    return num_partitions


def resolve_partition(index: int, num_partitions: int, kind: str, output: Place) -> int:
    """Finds the digests of one range that several runs have; returns how many cases there are.

    Memory is that of the range: `PARTITION_KEYS` digests, or as many as there are runs, since a
    digest, however common, is once in each.
    """
    folder = _found_folder(output)
    low_edge, high_edge = ((i << 64) // num_partitions for i in (index, index + 1))
    pieces: list[tuple[np.ndarray, ...]] = []
    for unit_index, run, path in _key_files(folder, kind):
        keys = _Keys.read(path)
        start = np.searchsorted(keys.high, np.uint64(low_edge))
        end = len(keys.high)
        if high_edge < 1 << 64:
            end = np.searchsorted(keys.high, np.uint64(high_edge))
        columns = [keys.high, keys.low, keys.record, keys.count]
        place = np.full(end - start, unit_index, np.uint32), np.full(end - start, run, np.uint32)
        pieces.append((*(np.array(column[start:end]) for column in columns), *place))
    found = np.empty(0, _FOUND)
    if pieces:
        high, low, record, count, unit, run = map(np.concatenate, zip(*pieces, strict=True))
        del pieces
        # The sort is stable, so that equal digests stay in the order of the plan.
        order, starts, sizes = _group(high, low)
        totals = np.cumsum(count[order], dtype=np.uint64)
        before = totals - count[order]
        before -= np.repeat(before[starts], sizes)
        is_found = before > 0
        chosen = order[is_found]
        found = np.empty(len(chosen), _FOUND)
        found["unit"], found["run"], found["record"] = unit[chosen], run[chosen], record[chosen]
        found["before"] = before[is_found]
        found = found[np.lexsort((found["record"], found["run"], found["unit"]))]
    with atomic_path(folder / f"{kind}-{index:05d}.found") as temporary:
        temporary.write_bytes(found.tobytes())
    return len(found)


def is_resolved(kind: str, output: Place) -> bool:
    """Tells whether `resolve_partition` was done with every range of digests."""
    folder = _found_folder(output)
    path = folder / f"{kind}.json"
    return path.is_file() and all(
        (folder / f"{kind}-{index:05d}.found").is_file()
        for index in range(read_json(path)["partitions"])
    )


def _key_files(folder: Place, kind: str) -> Iterator[tuple[int, int, Place]]:
    """Yields (unit, run, path) in the order of the plan."""
    found = []
    for path in folder.glob(f"*.{kind}.keys"):
        unit_index, run = path.name.partition(".")[0].split("-")
        found.append((int(unit_index), int(run), path))
    yield from sorted(found)


def _read_found(
    folder: Place, unit_index: int, run: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the documents of a run that repeat an earlier one of the plan.

    Returns:
      [n] uint32, their numbers in the run, sorted; and [n] int64, which of the equal ones each is,
      at least 2.

    Raises:
      WorkError: duplicates were not looked for.
    """
    keys = _Keys.read(_path(folder, unit_index, run, kind, "keys"))
    pieces = []
    for index in range(_num_partitions(folder, kind)):
        path = folder / f"{kind}-{index:05d}.found"
        if not path.exists():
            raise _not_found(path)
        if stat(path).size:
            rows = np.memmap(local_copy(path), _FOUND, "r")
            start, end = _row_range(rows, unit_index, run)
            pieces.append(np.array(rows[start:end]))
    rows = np.concatenate(pieces or [np.empty(0, _FOUND)])
    rows = rows[np.argsort(rows["record"])]
    # A document that repeats one of its own run comes after all that are before that one.
    before = np.zeros(len(keys.repeats), np.int64)
    if len(rows):
        where = np.searchsorted(rows["record"], keys.repeats[:, 1])
        where = np.minimum(where, len(rows) - 1)
        is_same = rows["record"][where] == keys.repeats[:, 1]
        before = np.where(is_same, rows["before"][where], 0).astype(np.int64)
    records = np.concatenate([rows["record"], keys.repeats[:, 0]])
    places = np.concatenate([rows["before"].astype(np.int64) + 1, before + keys.repeats[:, 2]])
    order = np.argsort(records)
    return records[order], places[order]


def _row_range(rows: np.ndarray, unit_index: int, run: int) -> tuple[int, int]:
    """Returns the rows [start, end) of a run; touches few of them."""

    def first_at_or_after(wanted: tuple[int, int]) -> int:
        low, high = 0, len(rows)
        while low < high:
            middle = (low + high) // 2
            if (int(rows[middle]["unit"]), int(rows[middle]["run"])) < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    return first_at_or_after((unit_index, run)), first_at_or_after((unit_index, run + 1))


class Decisions:
    """What to do with each document of a unit for its bytes and its id, in their order."""

    def __init__(self, output: Place, unit_index: int, config: EncodeConfig) -> None:
        self._marker = output / DUPLICATES_FOLDER / f"{unit_index:05d}.json"
        self._folder = _found_folder(output)
        self._unit_index, self._config = unit_index, config
        self._kinds = duplicate_kinds(config)
        self._num_seen = 0
        self._runs: dict[str, _Run] = {}
        self.num_suffixed = 0

    def decide(self, document: Document) -> Document | Filtered | Reject:
        """Returns what becomes of the next document."""
        run, index = divmod(self._num_seen, RUN_DOCUMENTS)
        if index == 0:
            self._runs = {kind: self._open(run, kind) for kind in self._kinds}
        self._num_seen += 1
        places = {kind: run.place(index) for kind, run in self._runs.items()}
        if places.get(CONTENT, 1) > 1:
            return Filtered(document.source, document.position, "duplicate")
        if IDS not in places:
            return document
        return self._decide_id(document, places[IDS])

    def _decide_id(self, document: Document, place: int) -> Document | Reject:
        if self._config.on_duplicate_id == "reject":
            if place == 1:
                return document
            detail = f"an earlier document has the id {document.doc_id[:80]!a}"
            sample = next(iter(document.parts), b"")
            return Reject(document.source, document.position, "duplicate_id", detail, sample)
        if place == 1 and not _SUFFIXED.search(document.doc_id):
            return document
        self.num_suffixed += 1
        return replace(document, doc_id=f"{document.doc_id}~dup{place}")

    def finish(self) -> None:
        """Checks that encoding read what was looked at before.

        Raises:
          WorkError: it read other documents.
        """
        marker = _read_marker(self._marker)
        if marker.get("documents") != self._num_seen:
            raise WorkError(
                f"unit {self._unit_index}: {self._num_seen} documents were read, but "
                f"{marker.get('documents')} when duplicates were looked for: its input changed "
                "meanwhile. Run again with --overwrite when it is at rest."
            )

    def _open(self, run: int, kind: str) -> "_Run":
        if not _path(self._folder, self._unit_index, run, kind, "keys").exists():
            raise _not_found(self._folder)
        return _Run(*_read_found(self._folder, self._unit_index, run, kind))


class _Run:
    """The places of a run's documents, asked for in order."""

    def __init__(self, records: np.ndarray, places: np.ndarray) -> None:
        self._records, self._places = records.tolist(), places.tolist()
        self._next = 0

    def place(self, record: int) -> int:
        """Returns which of the equal documents this is: 1, or more if there are earlier ones."""
        if self._next < len(self._records) and self._records[self._next] == record:
            self._next += 1
            return self._places[self._next - 1]
        return 1


def read_decisions(output: Place, unit_index: int, config: EncodeConfig) -> Decisions | None:
    """Returns what `find_duplicates` found for a unit; None if the config does not ask."""
    return Decisions(output, unit_index, config) if duplicate_kinds(config) else None


def remove_found(output: Place, *, but_current: bool = False) -> None:
    """Removes all but the digests: of all plans, or with `but_current` of earlier ones."""
    current = f"{_found_folder(output)}/" if but_current else None
    files = [
        file.path
        for file in list_below(output / DUPLICATES_FOLDER)
        if "/" in file.path.removeprefix(f"{output / DUPLICATES_FOLDER}/")
        and not (current and file.path.startswith(current))
    ]
    delete_all(files)
    if isinstance(output, Path):
        for folder in {Path(file).parent for file in files}:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _found_folder(output: Place) -> Place:
    """Returns the folder of what is found by the plan that is there: of another plan it differs."""
    version = str(read_plan_version(output))
    name = f"found-{hashlib.sha256(version.encode()).hexdigest()[:12]}"
    return output / DUPLICATES_FOLDER / name


def _path(folder: Place, unit_index: int, run: int, kind: str, what: str) -> Place:
    return folder / f"{unit_index:05d}-{run:03d}.{kind}.{what}"


def _files_of(folder: Place, unit_index: int) -> Iterator[Place]:
    yield from folder.glob(f"{unit_index:05d}.json")
    yield from folder.glob(f"{unit_index:05d}-*")


def _read_marker(path: Place) -> dict[str, object]:
    try:
        return read_json(path) if path.is_file() else {}
    except UserError:
        return {}


def _num_partitions(folder: Place, kind: str) -> int:
    path = folder / f"{kind}.json"
    if not path.is_file():
        raise _not_found(folder)
    return read_json(path)["partitions"]


def _not_found(path: Place) -> WorkError:
    return WorkError(f"{path}: duplicates were not looked for. Run the same command again.")
