"""Which of an input's records become documents, and with which bytes: all but duplicates.

Everything that is decided for a record by itself, in this order: the damage of its file,
`--sample`, `--strip-bom` and `--newlines`, `--utf8`, `--min-bytes` and `--max-bytes`, `--limit`.
Duplicates are found among the documents that are left (`blt.corpus.admission.duplicates`).
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from blt.corpus.admission.filters import is_sampled
from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.decompress import PLAIN
from blt.corpus.mends import Mender, is_utf8
from blt.corpus.readers.registry import read_records
from blt.corpus.records import Document, Filtered, Record, Reject, count_parts, cut_parts
from blt.dataset.units import Progress, no_progress
from blt.errors import WorkError

# Plain files of these formats have no checksums and no structure that damage could show in.
_NEVER_DAMAGED = ("text", "jsonl", "bytes")


class Admission:
    """Decides about the records of one unit.

    The same payload and config give the same decisions. A document's parts must be read before the
    next record is asked for.

    Args:
      payload: a unit of the plan; with `max_documents` no more than that are admitted.
      config: the rules.
      scratch: a folder for documents of several parts that must be read through before anything of
        them is known; None for the system's.
    """

    def __init__(
        self, payload: dict[str, Any], config: EncodeConfig, scratch: Path | None = None
    ) -> None:
        self._config, self._scratch = config, scratch
        self._left = payload.get("max_documents")
        lengths = (config.min_bytes, config.max_bytes)
        self._takes_any_utf8 = not config.changes_bytes and (config.sample, *lengths) == (None,) * 3

    def read(self, entry: Entry, progress: Progress = no_progress) -> Iterator[Record]:
        """Yields what becomes of each record of a file; ends early if no more is wanted.

        Raises:
          WorkError: it cannot be read, changed, or is damaged and `on_damaged_file` is "fail".
        """
        if self._left == 0:
            return
        config = self._config
        is_dropped = config.on_damaged_file == "drop" and _is_damaged(entry, config)
        for record in read_records(entry, config, progress):
            if isinstance(record, Document):
                if is_dropped:
                    record = Filtered(record.source, record.position, "damaged_file")
                elif not (record.is_utf8 and self._takes_any_utf8):
                    record = _admit(record, config, self._scratch)
            elif isinstance(record, Reject) and record.is_damage:
                self._check_damage(entry, record)
            yield record
            if self._left is not None and isinstance(record, Document):
                self._left -= 1
                if self._left == 0:
                    return

    def _check_damage(self, entry: Entry, record: Reject) -> None:
        if self._config.on_damaged_file == "fail":
            is_member = record.source != entry["source"]
            where = f" (in it, {ascii(record.source)[1:-1]})" if is_member else ""
            raise WorkError(
                f"{entry['path']}{where}: {record.detail.rstrip('.')}; --on-damaged-file is fail. "
                "Put a whole file in its place and run again, or choose keep or drop with "
                "--overwrite."
            )


def _is_damaged(entry: Entry, config: EncodeConfig) -> bool:
    """Tells whether a file is damaged, which takes reading it once more."""
    if entry["format"] in _NEVER_DAMAGED and entry["compression"] == PLAIN:
        return False
    records = read_records(entry, config, no_progress)
    return any(isinstance(record, Reject) and record.is_damage for record in records)


def _admit(
    document: Document, config: EncodeConfig, scratch: Path | None
) -> Document | Reject | Filtered:
    if config.sample is not None and not is_sampled(document.doc_id, config.sample):
        return Filtered(document.source, document.position, "not_sampled")
    if document.num_parts == 1:
        return _admit_bytes(document, config)
    judges = config.utf8 != "keep" or config.min_bytes or config.max_bytes
    if config.changes_bytes or judges:
        return _admit_spooled(document, config, scratch)
    mender = document.mender or Mender()
    return dataclasses.replace(document, parts=_watch(document, mender), mender=mender)


def _new_mender(document: Document, config: EncodeConfig) -> Mender:
    return Mender(
        # A mark at the start of a line is data, unless it is a file's first.
        strip_bom=config.strip_bom and not (document.of_text_file and document.position),
        lf=config.newlines == "lf",
        ended_by_lf=document.of_text_file and config.doc_per != "file" and _ended_by_lf(document),
        replace=config.utf8 == "replace",
    )


def _ended_by_lf(document: Document) -> bool:
    """Tells whether an LF was cut from a line or paragraph, by what its reader noted."""
    noted = json.loads(document.meta) if document.meta else {}
    return not noted.get("no_final_newline") and noted.get("after") != ""


def _admit_bytes(document: Document, config: EncodeConfig) -> Document | Reject | Filtered:
    """Admits a document of one part."""
    raw = found = b"".join(document.parts)
    mender = document.mender
    if config.changes_bytes or not (document.is_utf8 or is_utf8(raw)):
        used = _new_mender(document, config)
        raw = used.mend(raw, final=True)
        mender = mender if used.is_utf8 else used
        if not used.is_utf8 and config.utf8 == "reject":
            return _reject_utf8(document, raw)
    is_same = raw is found and isinstance(document.parts, list)
    parts = document.parts if is_same else cut_parts(raw, config.max_document_bytes)
    return _of_length(document, parts, len(raw), mender, config)


def _admit_spooled(
    document: Document, config: EncodeConfig, scratch: Path | None
) -> Document | Reject | Filtered:
    """Admits a document of several parts, by way of a file: memory holds one part."""
    mender = _new_mender(document, config)
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    num_bytes, sample = 0, b""
    file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - `_read_spooled` closes it
    for part in document.parts:
        sample = sample or part
        num_bytes += _spool(file, mender.mend(part), scratch)
    num_bytes += _spool(file, mender.mend(b"", final=True), scratch)
    if not mender.is_utf8 and config.utf8 == "reject":
        return _reject_utf8(document, sample)
    mender = document.mender or mender
    parts = _read_spooled(file, config.max_document_bytes)
    return _of_length(document, parts, num_bytes, mender, config)


def _spool(file: IO[bytes], data: bytes, scratch: Path | None) -> int:
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise WorkError(
            f"{scratch or tempfile.gettempdir()}: a temporary file cannot be written "
            f"({error.strerror or error}). Make room for it."
        ) from error
    return len(data)


def _of_length(
    document: Document,
    parts: Iterable[bytes],
    num_bytes: int,
    mender: Mender | None,
    config: EncodeConfig,
) -> Document | Filtered:
    """Returns the document with its parts as they are now, or why its length will not do."""
    if config.min_bytes is not None and num_bytes < config.min_bytes:
        return Filtered(document.source, document.position, "below_min_bytes")
    if config.max_bytes is not None and num_bytes > config.max_bytes:
        return Filtered(document.source, document.position, "above_max_bytes")
    if parts is document.parts and mender is document.mender:
        return document
    num_parts = count_parts(num_bytes, config.max_document_bytes)
    return dataclasses.replace(document, parts=parts, num_parts=num_parts, mender=mender)


def _reject_utf8(document: Document, sample: bytes) -> Reject:
    detail = "the document is not UTF-8, and --utf8 is reject"
    return Reject(document.source, document.position, "invalid_utf8", detail, sample)


def _watch(document: Document, mender: Mender) -> Iterator[bytes]:
    for part in document.parts:
        mender.mend(part)
        yield part
    mender.mend(b"", final=True)


def _read_spooled(file: IO[bytes], part_bytes: int) -> Iterator[bytes]:
    with file:
        file.seek(0)
        part = file.read(part_bytes)
        yield part  # an empty document has one part too
        while part := file.read(part_bytes):
            yield part
