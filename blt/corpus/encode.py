"""`encode`: one unit of the plan to byte shards, a pure function of the files and the config."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from blt.corpus.config import EncodeConfig
from blt.corpus.readers import read_records
from blt.corpus.records import Document, Filtered, Reject
from blt.formats.byte_shard import ByteShardWriter, byte_shard_name
from blt.formats.rejects import RejectsWriter, open_rejects
from blt.storage import atomic_path
from blt.units import Progress, ShardInfo, UnitResult, no_progress

COUNTS = ("documents", "bytes", "tokens", "records", "rejects", "filtered", "damaged_files")


def encode_unit(
    payload: dict[str, Any],
    config: EncodeConfig,
    output: Path,
    unit_index: int,
    progress: Progress = no_progress,
) -> UnitResult:
    """Writes `bytes-UUUUU-RRR.tfrecord` shards, and `units/UUUUU.rejects.parquet` if any.

    A new shard begins when one holds `config.target_shard_bytes` bytes of documents, never inside a
    document. A unit without documents makes no shard.

    Args:
      payload: a unit of `build_plan`.
      config: how to read.
      output: the folder to write into.
      unit_index: the unit's number, which names its shards.
      progress: is told of the input's bytes, as stored; they add up to `payload_bytes(payload)`.

    Returns:
      The shards, and the counts named in `COUNTS`: records read are documents + rejects + filtered;
      `damaged_files` are files given up before their end.

    Raises:
      WorkError: a file changed since it was planned or cannot be read, or a shard not written.
    """
    counts = Counter(dict.fromkeys(COUNTS, 0))
    rejects_path = output / "units" / f"{unit_index:05d}.rejects.parquet"
    with open_rejects(rejects_path) as rejects, _Shards(output, unit_index, config) as shards:
        for entry in payload["files"]:
            for record in read_records(entry, config, progress):
                counts["records"] += 1
                if isinstance(record, Document):
                    shards.write(record)
                elif isinstance(record, Filtered):
                    counts["filtered"] += 1
                else:
                    _add_reject(rejects, record)
                    counts["damaged_files"] += record.ends_input
        shards.finish()
        for shard in shards.finished:
            counts.update(documents=shard.documents, bytes=shard.bytes, tokens=shard.tokens)
        counts["rejects"] = rejects.num_rejects
    assert counts["records"] == counts["documents"] + counts["rejects"] + counts["filtered"]
    return UnitResult(shards=tuple(shards.finished), counts=dict(counts))


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

    def __init__(self, output: Path, unit_index: int, config: EncodeConfig) -> None:
        super().__init__()
        self._output, self._unit_index, self._config = output, unit_index, config
        self._writer: ByteShardWriter | None = None
        self.finished: list[ShardInfo] = []

    def write(self, document: Document) -> None:
        """Appends a document, in a new shard if the open one is full."""
        if self._writer and self._writer.num_bytes >= self._config.target_shard_bytes:
            self.finish()
        writer = self._writer or self._start()
        for part, raw in enumerate(document.parts):
            writer.write_part(
                raw,
                doc_id=document.doc_id,
                part=part,
                num_parts=document.num_parts,
                source=document.source,
                meta=document.meta,
            )

    def finish(self) -> None:
        """Puts the open shard in its place."""
        if self._writer is not None:
            self.finished.append(self._writer.close())
            self._writer = None
            self.close()

    def _start(self) -> ByteShardWriter:
        compression = self._config.compression
        name = byte_shard_name(self._unit_index, len(self.finished), compression)
        temporary = self.enter_context(atomic_path(self._output / name))
        self._writer = ByteShardWriter(temporary, name=name, compression=compression)
        self.callback(self._writer.close)
        return self._writer
