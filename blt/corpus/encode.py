"""`encode`: one unit of the plan to byte shards, a pure function of the files and the config."""

import contextlib
from collections import Counter
from typing import Any

from blt.corpus.admission.admission import Admission
from blt.corpus.admission.duplicates import read_decisions
from blt.corpus.admission.filters import FILTER_COUNTS
from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry, is_first, is_whole
from blt.corpus.files.meter import Meter
from blt.corpus.format_rules import count_rules, rule_for
from blt.corpus.plain import CHANGED_COUNTS
from blt.corpus.planning.field_names import count_fields
from blt.corpus.planning.sources import SourceRow, digest_entry, unit_sources_path, write_sources
from blt.corpus.readers.csv_reader import QUOTED_COUNT
from blt.corpus.readers.warc_reader import UNKNOWN_CODING
from blt.corpus.records import Document, Filtered, Reject
from blt.dataset.plan_file import UNITS_FOLDER
from blt.dataset.rejects import RejectsWriter, open_rejects
from blt.dataset.storage import Place, atomic_path, local_folder
from blt.dataset.units import Progress, ShardInfo, UnitResult, no_progress
from blt.errors import WorkError
from blt.formats.byte_shard import ByteShardWriter, byte_shard_name

COUNTS = (
    "documents",
    "bytes",
    "tokens",
    "records",
    "rejects",
    "filtered",
    *FILTER_COUNTS,
    "invalid_utf8",
    *CHANGED_COUNTS,
    QUOTED_COUNT,
    UNKNOWN_CODING,
    "suffixed_ids",
    "damaged_files",
    "empty_inputs",
    "told_members",
    "json_as_text",
    "input_records",
    "lost_records",
    "input_bytes",
    "lost_bytes",
    "input_members",
    "lost_members",
)


def encode_unit(
    payload: dict[str, Any],
    config: EncodeConfig,
    output: Place,
    unit_index: int,
    progress: Progress = no_progress,
) -> UnitResult:
    """Writes `bytes-UUUUU-RRR.tfrecord` shards, and tables of rejects (if any) and of sources.

    A new shard begins when one holds `config.target_shard_bytes` bytes of documents, never inside a
    document. A unit without documents makes no shard. Where the config asks for duplicates, what
    `find_duplicates` found must lie in `output`.

    Args:
      payload: a unit of `build_plan`.
      config: how to read.
      output: the folder to write into.
      unit_index: the unit's number, which names its shards.
      progress: is told of the input's bytes, as stored; they add up to `payload_bytes(payload)`.

    Returns:
      The shards, and the counts named in `COUNTS`: records read are documents + rejects + filtered,
      for the unit and for each of its files (an archive is one, with all its members);
      `filtered_<reason>` add up to `filtered`; `invalid_utf8` are documents that were not UTF-8 and
      are kept or changed; `changed_<kind>` documents with kept fields that were changed,
      `quotes_as_data` those of TSV that look quoted, `unknown_content_encoding` those of WARC
      whose coding is none; `damaged_files` are files cut short or altered, `empty_inputs` files and
      members of archives without records, `told_members` members that were not told by name alone,
      `json_as_text` files and members that look like JSON Lines but lack the text field;
      and `lost_<what>` of `input_<what>` what could not be read (`blt.dataset.loss`). And
      `with_field.<name>`, documents with a field that the user names
      (`blt.corpus.planning.field_names`);
      `format_of.<rule>`, files and members that a rule of `--format-of` means.

    Raises:
      WorkError: a file changed since it was planned or cannot be read, or a shard not written.
    """
    counts = Counter(dict.fromkeys(COUNTS, 0))
    units = output / UNITS_FOLDER
    decisions = read_decisions(output, unit_index, config)
    rows: list[SourceRow] = []
    found: Counter[tuple[int, tuple[str, ...]]] = Counter()
    last_found, last_counted, num_alike = 0, (), 0  # documents in a row that are alike
    hidden_records = 0  # behind rejects that stand for several
    with (
        open_rejects(units / f"{unit_index:05d}.rejects.parquet") as rejects,
        _Shards(output, unit_index, config) as shards,
    ):
        admission = Admission(payload, config, scratch=local_folder(units))
        for entry in payload["files"]:
            row = SourceRow.of_entry(entry)
            rows.append(row)
            meter = Meter.of_entry(entry, progress)
            for record in admission.read(entry, meter):
                row.records += 1
                if record.source is not row.source:
                    row.see_member(record)
                if decisions is not None and isinstance(record, Document):
                    record = decisions.decide(record)
                if isinstance(record, Document):
                    row.documents += 1
                    row.bytes += shards.write(record)
                    if record.found != last_found or record.counted is not last_counted:
                        found[last_found, last_counted] += num_alike
                        last_found, last_counted, num_alike = record.found, record.counted, 0
                    num_alike += 1
                    # Known only now that its parts were read.
                    if record.mender is not None and not record.mender.is_utf8:
                        row.see_invalid_utf8(record.doc_id)
                elif isinstance(record, Filtered):
                    row.filtered += 1
                    counts[f"filtered_{record.reason}"] += 1
                    row.lost_records += record.reason == "damaged_file"
                else:
                    row.lose(meter.measured(record))
                    hidden_records += record.num_records - 1
                    _add_reject(rejects, record)
            row.finish(meter, drops_damaged=config.on_damaged_file == "drop")
            row.sha256 = digest_entry(entry)
            _count_input(counts, entry, row, meter, config)
        found[last_found, last_counted] += num_alike
        shards.finish()
        for shard in shards.finished:
            counts.update(documents=shard.documents, bytes=shard.bytes, tokens=shard.tokens)
    counts["input_records"] = counts["records"] + hidden_records
    if decisions is not None:
        decisions.finish()
        counts["suffixed_ids"] = decisions.num_suffixed
    counts.update(count_fields(found, config))
    _check_shards(counts, rows)
    write_sources(unit_sources_path(output, unit_index), rows)
    return UnitResult(shards=tuple(shards.finished), counts=dict(counts))


def _count_input(
    counts: Counter[str], entry: Entry, row: SourceRow, meter: Meter, config: EncodeConfig
) -> None:
    """Adds what is counted of an input that is read."""
    counts.update(records=row.records, filtered=row.filtered, rejects=row.rejects)
    counts["damaged_files"] += row.damaged
    counts["empty_inputs"] += meter.empty_members + (row.records == 0 and is_whole(entry))
    counts["told_members"] += len(meter.told)
    counts["json_as_text"] += meter.json_as_text + ("lacks_text" in entry and is_first(entry))
    if config.format_of:
        rule = rule_for(config.format_of, row.source) if is_first(entry) else None
        counts.update(count_rules(config.format_of, (rule, *meter.rules)))
    counts.update(input_bytes=row.stored_bytes, lost_bytes=row.lost_bytes)
    counts.update(input_members=row.members, lost_members=row.lost_members)
    counts.update(lost_records=row.lost_records, invalid_utf8=row.invalid_utf8)


def _check_shards(counts: Counter[str], rows: list[SourceRow]) -> None:
    """Checks that what went into the shards is what the files gave."""
    for name in ("documents", "bytes"):
        given = sum(getattr(row, name) for row in rows)
        if counts[name] != given:
            raise WorkError(
                f"the shards hold {counts[name]} {name}, but {given} were read. This is a bug; "
                "please report it."
            )


def _add_reject(rejects: RejectsWriter, reject: Reject) -> None:
    rejects.add(
        source=reject.source,
        position=reject.position,
        reason=reject.reason,
        detail=reject.detail,
        sample=reject.sample,
    )


class _Shards(contextlib.ExitStack):
    """The shards of a unit, one open at a time, which an error leaves unwritten."""

    def __init__(self, output: Place, unit_index: int, config: EncodeConfig) -> None:
        super().__init__()
        self._output, self._unit_index, self._config = output, unit_index, config
        self._writer: ByteShardWriter | None = None
        self.finished: list[ShardInfo] = []

    def write(self, document: Document) -> int:
        """Appends a document, in a new shard if the open one is full; returns its bytes."""
        if self._writer and self._writer.num_bytes >= self._config.target_shard_bytes:
            self.finish()
        writer = self._writer or self._start()
        before = writer.num_bytes
        for part, raw in enumerate(document.parts):
            writer.write_part(
                raw,
                doc_id=document.doc_id,
                part=part,
                num_parts=document.num_parts,
                source=document.source,
                meta=document.meta,
            )
        return writer.num_bytes - before

    def finish(self) -> None:
        """Puts the open shard in its place."""
        if self._writer is not None:
            self.finished.append(self._writer.close())
            self._writer = None
            self.close()

    def _start(self) -> ByteShardWriter:
        compression = self._config.compression
        name = byte_shard_name(self._unit_index, len(self.finished), compression)
        temporary = self.enter_context(atomic_path(self._output / name, is_appended=True))
        self._writer = ByteShardWriter(temporary, name=name, compression=compression)
        self.callback(self._writer.close)
        return self._writer
