"""`decode`: byte shards back to files.

A text file comes back byte for byte under its source name (`docs/a.txt.gz` as `docs/a.txt`),
whether it was encoded as one document, by line or by paragraph; what was rejected is missing, and
of more than 4096 bytes of blank lines in a row between paragraphs the rest. JSONL
and Parquet sources become JSON Lines (`a.jsonl.zst` as `a.jsonl`, `b.parquet` as `b.parquet.jsonl`)
of `{"id", "text"}`, or `{"id", "bytes_base64"}` where the document is not UTF-8; and with `"meta"`,
an object of the fields that were kept, if there are any.

Nothing is written outside the output folder: a part `..` of a source becomes `__`, and a leading
slash goes; in a store, control characters become `_`. Where two sources would get the same file,
the later one keeps its whole name if that says what is written, or gets a number. An input without
documents (an empty file of lines) does not come back.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from blt.corpus.files.decompress import strip_compression_suffix
from blt.corpus.files.detect import format_by_name
from blt.corpus.format_rules import wanted_format
from blt.corpus.planning.sources import SOURCES_NAME, read_sources
from blt.corpus.readers.paragraph_reader import gaps_of
from blt.corpus.readers.text_reader import has_final_newline
from blt.dataset.manifest import Manifest
from blt.dataset.plan_file import read_plan
from blt.dataset.several import read_datasets
from blt.dataset.storage import (
    TEMPORARY_PREFIX,
    Place,
    PlaceLike,
    StorePlace,
    as_place,
    atomic_path,
    is_remote,
    prepare_output_folder,
)
from blt.dataset.units import Progress, no_progress
from blt.errors import UserError
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.tokenizer import tokens_to_bytes

# What stands before and after a document of a text file, by its meta.
_GAPS = {
    "file": lambda meta: (b"", b""),
    "line": lambda meta: (b"", b"\n" if has_final_newline(meta) else b""),
    "paragraph": gaps_of,
}
_CONTROL = re.compile(r"[\0-\x1f\x7f]")  # which names in stores do not hold
_MAX_NAME_BYTES = 200  # leaves room for the number and the temporary name


def decode_dataset(
    data: PlaceLike | Sequence[PlaceLike],
    output: PlaceLike,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Writes the documents of byte shards as files below `output`.

    Args:
      data: the folder that `blt encode` made, or several, which are decoded one after the other.
      output: a new or empty folder.
      progress: is told of the documents' bytes as they are written.

    Returns:
      The number of `documents`, `bytes` and `files`.

    Raises:
      UserError: `data` holds no byte shards, or `output` is not empty.
      WorkError: a shard is damaged, or a file cannot be written.
    """
    output = as_place(output)
    datasets = read_datasets(data, "byte_shards")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"--output {output}: is not empty. Choose an empty or new folder.")
    prepare_output_folder(output)
    names = _Names(output)
    counts = Counter(documents=0, bytes=0, files=0)
    for manifest in datasets.members:
        counts.update(_decode(manifest, names, progress))
    return dict(counts)


def _decode(manifest: Manifest, names: "_Names", progress: Progress) -> Counter[str]:
    """Writes the documents of one dataset; returns how many there are of what."""
    units = read_plan(manifest.folder)
    formats = _Formats([entry for unit in units for entry in unit.payload["files"]], manifest)
    counts = Counter(documents=0, bytes=0, files=0)
    doc_per = manifest.config.get("doc_per", "file")
    # The documents of a source follow one another, so that one file is open at a time.
    for source, records in itertools.groupby(_read(manifest), key=lambda record: record.source):
        format_name = formats.of(source)
        is_text = format_name in ("text", "bytes")
        gaps = _GAPS[doc_per if format_name == "text" else "file"]
        counts["files"] += 1
        with atomic_path(names.take(source, format_name)) as path, open(path, "wb") as file:
            held: list[bytes] = []
            for record in records:
                raw = tokens_to_bytes(record.tokens)
                is_last = record.part == record.num_parts - 1
                if is_text:
                    before, after = gaps(record.meta)
                    if before and record.part == 0:
                        file.write(before)
                    file.write(raw)
                    if after and is_last:
                        file.write(after)
                else:
                    held.append(raw)
                    if is_last:
                        file.write(_json_line(record, b"".join(held)))
                        held.clear()
                counts.update(documents=int(is_last), bytes=len(raw))
                progress(len(raw))
    return counts


def _told_members(data_dir: Place) -> dict[str, str]:
    """Returns the formats of the members of archives that were not told by name alone."""
    path = data_dir / SOURCES_NAME
    if not path.is_file():
        return {}
    return dict(member for row in read_sources(path) for member in row.told or ())


def _read(manifest: Manifest) -> Iterator[ByteRecord]:
    for _, path in manifest.fetch_shards():
        yield from read_byte_shard(path)


def _json_line(record: ByteRecord, raw: bytes) -> bytes:
    value = {"id": record.doc_id}
    try:
        value["text"] = raw.decode("utf-8")
    except UnicodeDecodeError:
        value["bytes_base64"] = base64.b64encode(raw).decode("ascii")
    line = json.dumps(value, ensure_ascii=False).encode("utf-8")
    if record.meta is not None:  # JSON as it is, whatever its numbers
        line = line[:-1] + b', "meta": ' + record.meta + b"}"
    return line + b"\n"


class _Formats:
    """Knows what a source was read as: a file by the plan, a member of an archive by its name, or
    where that does not tell by what is noted of it.
    """

    def __init__(self, entries: list[dict[str, Any]], manifest: Manifest) -> None:
        told = _told_members(manifest.folder)
        self._formats = told | {entry["source"]: entry["format"] for entry in entries}
        self._archives = [s for s, found in self._formats.items() if found == "tar"]
        config = manifest.config
        self._default, self._rules = config.get("format", "auto"), config.get("format_of", ())

    def of(self, source: str) -> str:
        if source in self._formats:
            return self._formats[source]
        archive = next((a for a in self._archives if source.startswith(a + "/")), None)
        if archive is None:
            return format_by_name(source, self._default)
        name = source[len(archive) + 1 :]
        return format_by_name(name, wanted_format(self._default, self._rules, archive, name))


class _Names:
    """Gives each source a file of its own below a folder, whatever the source is called."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        # Of a store, which has no folders that a file could be in the way of.
        self._files: set[Place] = set()
        self._folders: set[Place] = {folder}

    def take(self, source: str, format_name: str) -> Place:
        """Returns a path that is free, with its folder made."""
        # Raw bytes are still compressed, if they were.
        stem = source if format_name == "bytes" else _without_compression(source)
        wanted = [stem]
        if format_name not in ("text", "bytes"):
            wanted = [n if n.lower().endswith(".jsonl") else n + ".jsonl" for n in (stem, source)]
            wanted.append(source + ".jsonl")
        # A number does not help below a file that stands where a folder must be: leave the folder.
        flat = wanted[0].replace("/", "__")
        numbered = (
            f"{name}~{number}" for number in itertools.count(2) for name in (wanted[0], flat)
        )
        for name in itertools.chain(wanted, numbered):
            path = self._folder
            for part in filter(None, name.split("/")):
                path /= _CONTROL.sub("_", _safe(part)) if is_remote(path) else _safe(part)
            if self._claim(path):
                return path
        raise AssertionError("unreachable: the numbers do not end")

    def _claim(self, path: Place) -> bool:
        """Tells whether a name is free, and sees to it that its folder is there.

        Names are given here as in a store: none where a folder is, or below a file.
        """
        if isinstance(path, StorePlace):
            above = set(path.parents)
            if path in self._files or path in self._folders or not above.isdisjoint(self._files):
                return False
            self._files.add(path)
            self._folders |= above
            return True
        if path == self._folder or path.exists():
            return False
        # A folder cannot be made where another source's file is.
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return True
        return False


def _without_compression(source: str) -> str:
    """Returns a name without suffixes of compressions, which what is written does not have."""
    stem, compression = strip_compression_suffix(source)
    return source if compression is None else _without_compression(stem)


def _safe(part: str) -> str:
    """Returns one part of a path that leads nowhere else and is not too long."""
    if part in (".", "..") or part.startswith(TEMPORARY_PREFIX):
        part = part.replace(".", "_")
    part = part.replace("\0", "_")
    data = part.encode("utf-8")
    if len(data) <= _MAX_NAME_BYTES:
        return part
    digest = hashlib.sha256(data).hexdigest()[:16]
    return data[: _MAX_NAME_BYTES - 17].decode("utf-8", "ignore") + "-" + digest
