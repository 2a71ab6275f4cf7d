"""One unit of `export`: a byte shard and its boundaries to an Arrow file for Meta's trainer."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from blt.dataset.joining import PatchedPart, read_patched_parts
from blt.dataset.plan_file import UNITS_FOLDER
from blt.dataset.rejects import SAMPLE_BYTES, open_rejects
from blt.dataset.storage import atomic_path, sha256_file
from blt.dataset.units import Progress, ShardInfo, UnitResult, no_progress
from blt.errors import UserError
from blt.formats.boundaries import restore_entropies
from blt.formats.meta_arrow import (
    MAX_ROW_TOKENS,
    MetaArrowWriter,
    meta_arrow_name,
    shift_entropies,
)
from blt.tokenizer import tokens_to_bytes


@dataclasses.dataclass
class _Document:
    """A whole document; `too_long` leaves only the beginning of it."""

    index: int  # of its first record
    doc_id: str
    raw: bytes
    entropies: np.ndarray  # nats, entry t about token t
    num_tokens: int

    @property
    def too_long(self) -> bool:
        return self.num_tokens > MAX_ROW_TOKENS


def export_meta_arrow_shard(
    byte_shard: Path,
    boundaries: Path,
    output: Path,
    *,
    name: str | None = None,
    unit_index: int,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> UnitResult:
    """Writes the Arrow file of one byte shard, and `_units/UUUUU.rejects.parquet` if any.

    The parts of a document are joined. A document that is not valid UTF-8 cannot be an Arrow string
    and is rejected, named by its byte shard and the number of its first record there.

    Args:
      byte_shard, boundaries: the files; row i describes record i.
      output: the folder.
      name: that the byte shard goes by, and the new file is called after; its own if not given.
      unit_index: of the plan, names the rejects.
      metadata: strings for the schema.
      progress: called with the document bytes done.

    Returns:
      Counts: `records` (documents read), `documents`, `bytes` and `tokens` written, `rejects`.

    Raises:
      UserError: the boundaries hold no entropies.
      WorkError: a file is damaged, or they do not belong together.
    """
    source = name or byte_shard.name
    name = meta_arrow_name(source)
    counts = {"documents": 0, "bytes": 0, "tokens": 0, "records": 0, "rejects": 0}
    rejects_path = output / UNITS_FOLDER / f"{unit_index:05d}.rejects.parquet"
    with (
        open_rejects(rejects_path) as rejects,
        atomic_path(output / name, is_appended=True) as temporary,
    ):
        with contextlib.closing(MetaArrowWriter(temporary, metadata=metadata or {})) as writer:
            for document in _join(read_patched_parts(byte_shard, boundaries), boundaries):
                counts["records"] += 1
                progress(document.num_tokens - 2)
                try:
                    text = _text(document)
                except _Unfit as unfit:
                    rejects.add(
                        source=source,
                        position=document.index,
                        reason=unfit.reason,
                        detail=f"document {document.doc_id!r:.200}: {unfit.detail}",
                        sample=document.raw[:SAMPLE_BYTES],
                    )
                    continue
                writer.write(document.doc_id, text, shift_entropies(document.entropies))
                counts["documents"] += 1
                counts["bytes"] += len(document.raw)
                counts["tokens"] += document.num_tokens
        sha256 = sha256_file(temporary)
        counts["rejects"] = rejects.num_rejects
    shard = ShardInfo.of_counts(name, counts, sha256)
    return UnitResult(shards=(shard,), counts=counts)


class _Unfit(Exception):
    """A document that the format cannot hold."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def _text(document: _Document) -> str:
    if document.too_long:
        raise _Unfit("too_long", f"{document.num_tokens} tokens; {MAX_ROW_TOKENS} fit into a row")
    try:
        return document.raw.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} is not UTF-8 ({error.reason})"
        raise _Unfit("invalid_utf8", detail) from error


def _join(parts: Iterable[PatchedPart], boundaries: Path) -> Iterator[_Document]:
    """Puts documents together, three bytes of memory a byte; of a document too long, its start."""
    pieces: list[tuple[bytes, np.ndarray]] = []
    num_tokens = 0
    for index, part in enumerate(parts):
        if part.entropies is None:
            raise UserError(no_entropies(boundaries))
        record = part.record
        num_tokens += len(record.tokens)
        if num_tokens <= MAX_ROW_TOKENS or not pieces:
            # float16 is what is written, and holds what was stored as float16 exactly.
            entropies = restore_entropies(part.entropies).astype(np.float16)
            pieces.append((tokens_to_bytes(record.tokens), entropies))
        if record.part == record.num_parts - 1:
            raw, entropies = zip(*pieces, strict=True)
            yield _Document(
                index=index - record.part,
                doc_id=record.doc_id,
                raw=b"".join(raw),
                entropies=np.concatenate(entropies),
                num_tokens=num_tokens,
            )
            pieces, num_tokens = [], 0


def no_entropies(patches: Path | str) -> str:
    """What to say of boundaries without entropies."""
    return (
        f"--patches {patches}: holds no entropies. Run `blt patch` with --keep-entropies f16 and "
        "give what it makes."
    )
