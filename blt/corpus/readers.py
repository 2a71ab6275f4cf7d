"""One way into every input: records in order, and damage as a last reject."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator

from blt.corpus.arrow_reader import read_arrow
from blt.corpus.config import EncodeConfig
from blt.corpus.csv_reader import read_csv
from blt.corpus.decompress import DamagedInputError
from blt.corpus.detect import UNREAD, read_unread
from blt.corpus.fields import NO_FIELDS, Fields, read_fields
from blt.corpus.filesystems import is_remote, size_of
from blt.corpus.jsonl_reader import read_jsonl
from blt.corpus.paragraph_reader import read_text_paragraphs
from blt.corpus.parquet_reader import read_parquet
from blt.corpus.partitions import partition_fields
from blt.corpus.plain import strict_json
from blt.corpus.plan import Entry
from blt.corpus.records import Document, Record, Reject
from blt.corpus.tar_reader import read_tar
from blt.corpus.text_reader import NOTES, read_text_file, read_text_lines
from blt.corpus.tfrecord_reader import read_tfrecord
from blt.corpus.warc_reader import read_warc
from blt.errors import WorkError
from blt.units import Progress, no_progress

_Reader = Callable[[Entry, EncodeConfig, Progress], Iterator[Record]]


_TEXT_READERS: dict[str, _Reader] = {
    "file": read_text_file,
    "line": read_text_lines,
    "paragraph": read_text_paragraphs,
}


def read_records(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields the records of a file, or of a range of it, as planned.

    Records before a damage are kept, and the damage is the last record, a reject at the position of
    the last record before it. `progress` adds up to the entry's `num_bytes`.

    Raises:
      WorkError: the file is gone, cannot be read, is not the one that was planned, or changes while
        it is read.
    """
    path = entry["path"]
    watch = _ClampedProgress(progress, entry["num_bytes"])
    try:
        size, changed_at = _state(path)
        if size != entry["size"]:
            raise WorkError(
                f"{path}: has {size} bytes, but had {entry['size']} when the work was planned. "
                "Run with --overwrite, or put the file back."
            )
        yield from _read(entry, config, watch.advance)
        if _state(path) != (size, changed_at):
            raise WorkError(
                f"{path}: changed while it was read. Run again, with --overwrite, when it is at "
                "rest."
            )
    except OSError as error:
        raise WorkError(f"{path}: cannot be read ({error.strerror or error}).") from error
    watch.finish()


def _state(path: str) -> tuple[int, int | None]:
    """Returns a file's size, and for files here when it was last changed."""
    if is_remote(path):
        return size_of(path), None
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns


def _read(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields the records of a file, or of a member of an archive, with damage as the last."""
    position = None
    is_text = entry["format"] == "text"
    reader = _TEXT_READERS[config.doc_per] if is_text else _READERS[entry["format"]]
    fields = NO_FIELDS
    if is_text or entry["format"] == "bytes":
        # A text has no fields of its own, so that its folders' are all that there are.
        partitions = partition_fields(entry, config)
        fields = read_fields(
            {name: value for name, value in partitions.items() if name not in NOTES}, config
        )
    try:
        for record in reader(entry, config, progress):
            position = record.position
            if fields.found and isinstance(record, Document):
                record = _with_fields(record, fields)
            yield _of_text_file(record) if is_text and config.mends else record
    except DamagedInputError as error:
        yield Reject(entry["source"], position, error.reason, str(error), ends_input=True)


def _with_fields(document: Document, fields: Fields) -> Document:
    """Returns the document of a text with fields in its meta, beside what its reader noted."""
    noted = json.loads(document.meta) if document.meta else {}
    meta = fields.meta
    if noted and meta is not None:
        meta = strict_json({**json.loads(meta), **noted})[0].encode("utf-8")
    return dataclasses.replace(
        document, meta=meta, found=fields.found, counted=document.counted + fields.mended
    )


def _of_text_file(record: Record) -> Record:
    is_document = isinstance(record, Document)
    return dataclasses.replace(record, of_text_file=True) if is_document else record


def _read_tar(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    return read_tar(entry, config, progress, lambda member: _read(member, config, no_progress))


_READERS: dict[str, _Reader] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "csv": read_csv,
    "tsv": read_csv,
    "warc": read_warc,
    "tfrecord": read_tfrecord,
    "tar": _read_tar,
    "bytes": read_text_file,
    UNREAD: lambda entry, config, progress: read_unread(entry),
}


class _ClampedProgress:
    """Reports exactly `total` bytes, whatever a reader reads beside its range or leaves out."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._left = total

    def advance(self, num_bytes: int) -> None:
        num_bytes = min(num_bytes, self._left)
        self._left -= num_bytes
        if num_bytes:
            self._progress(num_bytes)

    def finish(self) -> None:
        self.advance(self._left)
