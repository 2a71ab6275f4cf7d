"""One way into every input: records in order, and damage as a last reject."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.fields import NO_FIELDS, Fields, read_fields
from blt.corpus.files.decompress import DamagedInputError
from blt.corpus.files.detect import EMPTY, UNREAD
from blt.corpus.files.filesystems import is_remote, size_of
from blt.corpus.files.meter import Meter
from blt.corpus.plain import strict_json
from blt.corpus.readers.arrow_reader import read_arrow
from blt.corpus.readers.csv_reader import read_csv
from blt.corpus.readers.jsonl_reader import read_jsonl
from blt.corpus.readers.paragraph_reader import read_text_paragraphs
from blt.corpus.readers.parquet_reader import read_parquet
from blt.corpus.readers.partitions import partition_fields
from blt.corpus.readers.tar_reader import read_tar
from blt.corpus.readers.text_reader import NOTES, read_text_file, read_text_lines
from blt.corpus.readers.tfrecord_reader import read_tfrecord
from blt.corpus.readers.unread_reader import read_unread
from blt.corpus.readers.warc_reader import read_warc
from blt.corpus.records import Document, Record, Reject
from blt.dataset.units import Progress
from blt.errors import WorkError

_Reader = Callable[[Entry, EncodeConfig, Meter], Iterator[Record]]


_TEXT_READERS: dict[str, _Reader] = {
    "file": read_text_file,
    "line": read_text_lines,
    "paragraph": read_text_paragraphs,
}


def read_records(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields the records of a file, or of a range of it, as planned.

    Records before a damage are kept. Where no record can be found after it, the damage is the last
    record, a reject at the position of the last record before it. Each reject says how many stored
    bytes it stands for. `progress` adds up to the entry's `num_bytes`.

    Raises:
      WorkError: the file is gone, cannot be read, is not the one that was planned, or changes while
        it is read.
    """
    path = entry["path"]
    meter = progress if isinstance(progress, Meter) else Meter.of_entry(entry, progress)
    try:
        size, changed_at = _state(path)
        if size != entry["size"]:
            raise WorkError(
                f"{path}: has {size} bytes, but had {entry['size']} when the work was planned. "
                "Run with --overwrite, or put the file back."
            )
        yield from _read(entry, config, meter)
        if _state(path) != (size, changed_at):
            raise WorkError(
                f"{path}: changed while it was read. Run again, with --overwrite, when it is at "
                "rest."
            )
    except OSError as error:
        raise WorkError(f"{path}: cannot be read ({error.strerror or error}).") from error
    meter.finish()


def _state(path: str) -> tuple[int, int | None]:
    """Returns a file's size, and for files here when it was last changed."""
    if is_remote(path):
        return size_of(path), None
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns


def _read(entry: Entry, config: EncodeConfig, meter: Meter) -> Iterator[Record]:
    """Yields the records of a file, or of a member of an archive, with damage as the last."""
    position = None
    is_text = entry["format"] == "text"
    marks_texts = is_text and config.changes_bytes
    reader = _TEXT_READERS[config.doc_per] if is_text else _READERS[entry["format"]]
    fields = NO_FIELDS
    if is_text or entry["format"] == "bytes":
        # A text has no fields of its own, so that its folders' are all that there are.
        partitions = partition_fields(entry, config)
        fields = read_fields(
            {name: value for name, value in partitions.items() if name not in NOTES}, config
        )
    try:
        for record in reader(entry, config, meter):
            position = record.position
            if isinstance(record, Reject):
                yield meter.measured(record)
                continue
            if fields.found and isinstance(record, Document):
                record = _with_fields(record, fields)
            yield _of_text_file(record) if marks_texts else record
    except DamagedInputError as error:
        reject = Reject(
            entry["source"],
            position,
            error.reason,
            str(error),
            ends_input=True,
            num_records=max(1, error.num_records or 0),
            num_bytes=error.num_bytes,
        )
        yield meter.measured(reject)


def _with_fields(document: Document, fields: Fields) -> Document:
    """Returns the document of a text with fields in its meta, beside what its reader noted."""
    noted = json.loads(document.meta) if document.meta else {}
    meta = fields.meta
    if noted and meta is not None:
        meta = strict_json({**json.loads(meta), **noted})[0].encode("utf-8")
    return dataclasses.replace(
        document, meta=meta, found=fields.found, counted=document.counted + fields.changed
    )


def _of_text_file(record: Record) -> Record:
    is_document = isinstance(record, Document)
    return dataclasses.replace(record, of_text_file=True) if is_document else record


def _read_tar(entry: Entry, config: EncodeConfig, progress: Meter) -> Iterator[Record]:
    def read_member(member: Entry) -> Iterator[Record]:
        meter = Meter.of_entry(member)
        if member["is_told"]:
            progress.told[member["source"]] = member["format"]
        progress.json_as_text += member["lacks_text"]
        if member["format_rule"] is not None:
            progress.rules.append(member["format_rule"])
        record = None
        for record in _read(member, config, meter):
            # What is stored of a member is content of its archive.
            if isinstance(record, Reject):
                num_bytes = record.stored_bytes
                if num_bytes is None:
                    num_bytes = meter.as_stored(record.num_bytes or 0)
                record = dataclasses.replace(record, num_bytes=num_bytes, stored_bytes=None)
            yield record
        progress.empty_members += record is None

    return read_tar(entry, config, progress, read_member)


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
    EMPTY: read_text_lines,  # of which there are none
}
