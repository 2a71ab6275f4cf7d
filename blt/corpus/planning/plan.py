"""The plan of `encode`: which unit reads which files, or which piece of a large file.

A unit's payload is `{"files": [entry, …]}`, with `max_documents` where `--limit` ends it. An entry
is a `blt.corpus.entry.Entry`.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.decompress import PLAIN
from blt.corpus.files.detect import detect
from blt.corpus.files.discover import InputFile
from blt.corpus.files.filesystems import open_input
from blt.corpus.format_rules import wanted_format
from blt.corpus.planning.siblings import take_formats_of_siblings
from blt.corpus.readers.parquet_reader import row_group_bytes
from blt.dataset.units import Progress, no_progress
from blt.errors import UserError

_MAX_FILES_PER_UNIT = 8192  # keeps a unit's payload small when files are tiny
_MAX_PIECES = 100_000  # of one file; the plan is held in memory, and a unit writes files


def build_plan(
    files: Sequence[InputFile],
    config: EncodeConfig,
    progress: Progress = no_progress,
    *,
    beside: Sequence[Entry] = (),
) -> list[dict[str, Any]]:
    """Returns the payloads of the units, in the order of the files.

    Small files are grouped up to `config.target_shard_bytes`; a large file is a unit of its own, or
    several where it can be split (plain JSONL, plain text with a document per line, Parquet).
    `progress` is told of files here, not of bytes. `beside` are files of an earlier plan, whose
    formats may tell that of a new shard.

    Raises:
      UserError: a file cannot be read, or would be cut into far too many units; names it.
    """
    payloads: list[dict[str, Any]] = []
    group: list[Entry] = []

    group_bytes = 0

    def end_group() -> None:
        nonlocal group_bytes
        if group:
            payloads.append({"files": group.copy()})
            group.clear()
            group_bytes = 0

    entries, undecided = [], set()
    for index, file in enumerate(sorted(files, key=lambda file: file.source)):
        entry, is_default = _look_at(file, config)
        entries.append(entry)
        if is_default:
            undecided.add(index)
        progress(1)
    take_formats_of_siblings(entries, undecided, config, beside)
    for entry in entries:
        if entry["num_bytes"] > config.target_shard_bytes:
            end_group()
            payloads.extend({"files": [piece]} for piece in _split(entry, config))
            continue
        full = group_bytes + entry["num_bytes"] > config.target_shard_bytes
        if full or len(group) >= _MAX_FILES_PER_UNIT:
            end_group()
        group.append(entry)
        group_bytes += entry["num_bytes"]
    end_group()
    return payloads


def plan_entry(file: InputFile, config: EncodeConfig) -> Entry:
    """Returns the entry of a whole file, told by itself.

    Raises:
      UserError: it cannot be read; names it.
    """
    return _look_at(file, config)[0]


def _look_at(file: InputFile, config: EncodeConfig) -> tuple[Entry, bool]:
    """Returns the entry of a file, and whether it is text because nothing shows another format."""
    try:
        wanted = wanted_format(config.format, config.format_of, file.source)
        detected = detect(file.path, wanted, text_field=config.text_field)
    except OSError as error:
        raise UserError(
            f"--input {file.path}: cannot be read ({error.strerror or error})."
        ) from error
    entry = {
        "path": file.path,
        "source": file.source,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "format": detected.format,
        "compression": detected.compression,
        "num_bytes": file.size,
    }
    if detected.note:
        entry["note"] = detected.note
    if detected.lacks_text:
        entry["lacks_text"] = True
    return entry, detected.is_default


def payload_essence(payload: dict[str, Any]) -> dict[str, Any]:
    """Returns what the shards of a unit depend on: not where its files lie, nor their times.

    Whether a file has changed is looked at when a plan is made anew (`blt.corpus.planning.replan`).
    """
    places = ("path", "mtime_ns", "note")
    files = [{k: v for k, v in entry.items() if k not in places} for entry in payload["files"]]
    return {**payload, "files": files}


def payload_bytes(payload: dict[str, Any]) -> int:
    """Returns the size of a unit: the bytes it reads, as stored."""
    return sum(entry["num_bytes"] for entry in payload["files"])


def payload_notes(payloads: Sequence[dict[str, Any]]) -> list[str]:
    """Returns what the user should know of the files, a line each."""
    return [f["note"] for payload in payloads for f in payload["files"] if "note" in f]


def _split(entry: Entry, config: EncodeConfig) -> Iterator[Entry]:
    has_lines = entry["format"] == "jsonl" or (
        entry["format"] == "text" and config.doc_per != "file"
    )
    if entry["format"] == "parquet" and config.on_damaged_file != "drop":
        # To drop a damaged file, one unit must see all of it.
        yield from _split_row_groups(entry, config.target_shard_bytes)
    elif has_lines and entry["compression"] == PLAIN:
        size = entry["size"]
        pieces = -(-size // config.target_shard_bytes)
        if pieces > _MAX_PIECES:
            raise UserError(
                f"--target-shard-bytes {config.target_shard_bytes}: would cut {entry['path']} into "
                f"{pieces} units, and {_MAX_PIECES} are enough. Give at least "
                f"{-(-size // _MAX_PIECES)}."
            )
        bounds = [size * piece // pieces for piece in range(pieces + 1)]
        for start, end in itertools.pairwise(bounds):
            yield {**entry, "range": [start, end], "num_bytes": end - start}
    else:
        yield entry


def _split_row_groups(entry: Entry, target_bytes: int) -> Iterator[Entry]:
    try:
        with open_input(entry["path"]) as file:
            sizes = row_group_bytes(pq.read_metadata(file), entry["size"])
    except (pa.ArrowException, OSError, ValueError):
        yield entry  # reading it will say what is wrong
        return
    start = num_bytes = 0
    for index, size in enumerate(sizes):
        if index > start and num_bytes + size > target_bytes:
            yield {**entry, "range": [start, index], "num_bytes": num_bytes}
            start, num_bytes = index, 0
        num_bytes += size
    yield {**entry, "range": [start, len(sizes)], "num_bytes": num_bytes}
