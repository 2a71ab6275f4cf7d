"""The beginnings of documents with their patch boundaries, from byte shards and boundaries.

Only what is asked for is held: shards are streamed, and those that are not needed are not opened.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blt.dataset.manifest import Manifest, read_manifest
from blt.dataset.several import Datasets
from blt.dataset.storage import Place, subfolders
from blt.dataset.units import ShardInfo
from blt.errors import WorkError
from blt.formats.boundaries import (
    BoundariesRow,
    patches_name,
    read_boundaries,
    read_boundaries_metadata,
    restore_entropies,
)
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.formats.parquet import open_parquet
from blt.inspection.artefacts import is_dataset
from blt.tokenizer import BYTE_OFFSET, tokens_to_bytes
from blt.training_data.packing import PackedSequence

Numbers = tuple[int, int]  # of a shard: unit and roll


@dataclasses.dataclass(frozen=True)
class Patch:
    """A patch of a document's beginning.

    Attributes:
      raw_bytes: its bytes; never empty (patches of BOS or EOS alone are left out).
      nats: [num_bytes] float32, the entropies of these bytes; None if they are not known.
    """

    raw_bytes: bytes
    nats: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Document:
    """The beginning of a document.

    Attributes:
      doc_id, source: as in its byte shard.
      num_bytes: of the whole record (the document, or the first part of a long one).
      num_parts: parts of the document.
      tokens: [num_tokens] uint16, of the beginning, BOS first.
      patch_lengths: [num_patches] of the same tokens, the last one cut; None without boundaries.
      entropies: [num_tokens] float32 nats; None if they were not kept.
    """

    doc_id: str
    source: str
    num_bytes: int
    num_parts: int
    tokens: np.ndarray
    patch_lengths: np.ndarray | None = None
    entropies: np.ndarray | None = None

    def patches(self) -> Iterator[Patch]:
        """Yields the patches that hold bytes; the whole beginning as one without boundaries."""
        lengths = [len(self.tokens)] if self.patch_lengths is None else self.patch_lengths
        start = 0
        for length in lengths:
            tokens = self.tokens[start : start + length]
            if raw_bytes := tokens_to_bytes(tokens):
                nats = None
                if self.entropies is not None:
                    nats = self.entropies[start : start + length][tokens >= BYTE_OFFSET]
                yield Patch(raw_bytes, nats)
            start += length


def shard_numbers(name: str) -> Numbers | None:
    """Returns (unit, roll) of a shard's name, None if it has none.

    >>> shard_numbers("bytes-00012-003.tfrecord.gz")
    (12, 3)
    """
    parts = name.partition(".")[0].split("-")
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return int(parts[1]), int(parts[2])


def first_documents(
    data: Manifest | Datasets, patches: Manifest | Datasets | None, *, count: int, num_bytes: int
) -> Iterator[Document]:
    """Yields the beginnings of a dataset's first documents.

    Args:
      data: byte shards.
      patches: their boundaries, or None.
      count: documents.
      num_bytes: bytes of each, at most.

    Raises:
      WorkError: a shard is damaged, or boundaries are not those of these byte shards.
    """
    left = count
    for shard in data.shards:
        if left <= 0:
            return
        rows = _rows_for(shard, patches)
        for record in read_byte_shard(data.shard_path(shard)):
            row = next(rows, None) if rows is not None else None
            if record.part:
                continue
            yield beginning(record, row, num_bytes)
            left -= 1
            if left <= 0:
                return


def find_documents(
    data: Manifest | Datasets,
    patches: Manifest | Datasets,
    wanted: Sequence[tuple[str, int]],
    *,
    num_bytes: int,
) -> dict[tuple[str, int], Document]:
    """Finds documents by id and size in byte shards, with their boundaries.

    Args:
      data, patches: byte shards and boundaries of one another.
      wanted: (doc_id, bytes of the document) of each; the first such document is taken.
      num_bytes: bytes of each beginning, at most.

    Returns:
      What was found, by (doc_id, bytes).
    """
    found: dict[tuple[str, int], Document] = {}
    missing = set(wanted)
    shards = {shard_numbers(shard.name): shard for shard in data.shards}
    for info in patches.shards:
        numbers = shard_numbers(info.name)
        if not missing or numbers not in shards:
            continue
        positions = _positions(patches.shard_path(info), {doc_id for doc_id, _ in missing})
        if not positions:
            continue
        rows = read_boundaries(patches.shard_path(info))
        open_ids: dict[str, Document] = {}
        for index, record in enumerate(read_byte_shard(data.shard_path(shards[numbers]))):
            row = next(rows, None)
            if index in positions:
                if record.part == 0:
                    open_ids[record.doc_id] = beginning(record, row, num_bytes)
                    size = 0
                size += _count_bytes(record)
                if record.part == record.num_parts - 1:
                    key = (record.doc_id, size)
                    document = open_ids.pop(record.doc_id)
                    if key in missing:
                        found[key] = document
                        missing.discard(key)
            if index >= positions[-1]:
                break
    return found


def matching_records(
    path: Place, data: Sequence[Place] | None
) -> Iterator[tuple[ByteRecord, BoundariesRow]] | None:
    """Pairs the rows of one shard of boundaries with the records of its byte shard.

    Args:
      path: the shard of boundaries.
      data: datasets of byte shards; None to look for them beside the shard's folder.

    Returns:
      None if the byte shards were not found.
    """
    digest = read_boundaries_metadata(path).get("byte_shard_sha256")
    folder = path.resolve().parent
    candidates = data if data is not None else subfolders(folder.parent)
    for candidate in candidates:
        if not is_dataset(candidate):
            continue
        manifest = read_manifest(candidate)
        for shard in manifest.shards:
            if shard.sha256 == digest:
                records = read_byte_shard(manifest.shard_path(shard))
                return zip(records, read_boundaries(path), strict=False)
    return None


def _positions(path: Place, doc_ids: set[str]) -> list[int]:
    """Returns the rows of a shard of boundaries that have one of these ids."""
    positions, first = [], 0
    with open_parquet(path) as file:
        for batch in file.iter_batches(columns=["doc_id"]):
            is_wanted = pc.is_in(batch["doc_id"], pa.array(sorted(doc_ids), pa.string()))
            positions += (np.flatnonzero(is_wanted.to_numpy(zero_copy_only=False)) + first).tolist()
            first += batch.num_rows
    return positions


def _rows_for(
    shard: ShardInfo, patches: Manifest | Datasets | None
) -> Iterator[BoundariesRow] | None:
    numbers = shard_numbers(shard.name)
    if patches is None or numbers is None:
        return None
    path = patches.folder / patches_name(*numbers)
    return read_boundaries(path) if path.is_file() else None


def beginning(record: ByteRecord, row: BoundariesRow | None, num_bytes: int) -> Document:
    """Returns a record's beginning, with its boundaries if `row` is given.

    Raises:
      WorkError: the row is another record's.
    """
    tokens = record.tokens[: num_bytes + 1]
    lengths = entropies = None
    if row is not None:
        if (row.doc_id, row.part, row.num_tokens) != (
            record.doc_id,
            record.part,
            len(record.tokens),
        ):
            raise WorkError(
                f"boundaries of document {row.doc_id!a:.80} do not fit document "
                f"{record.doc_id!a:.80}: they were made from other byte shards. Run `blt patch` "
                "again, or give the byte shards they were made from with --data."
            )
        lengths = cut_lengths(row.patch_lengths, len(tokens))
        if row.entropies is not None:
            entropies = restore_entropies(row.entropies[: len(tokens)])
    return Document(
        doc_id=record.doc_id,
        source=record.source,
        num_bytes=_count_bytes(record),
        num_parts=record.num_parts,
        tokens=tokens,
        patch_lengths=lengths,
        entropies=entropies,
    )


def cut_lengths(patch_lengths: np.ndarray, num_tokens: int) -> np.ndarray:
    """Returns the lengths of the patches of the first `num_tokens` tokens.

    >>> cut_lengths(np.array([1, 4, 3]), 6).tolist()
    [1, 4, 1]
    """
    ends = np.minimum(np.cumsum(patch_lengths), num_tokens)
    lengths = np.diff(ends, prepend=0)
    return lengths[lengths > 0]


def _count_bytes(record: ByteRecord) -> int:
    return int(np.count_nonzero(record.tokens >= BYTE_OFFSET))


def sequence_documents(sequence: PackedSequence, num_bytes: int) -> Iterator[Document]:
    """Yields the documents (or their pieces) in a training sequence, `num_bytes` tokens in all."""
    lengths = sequence.patch_lengths
    patch_starts = np.cumsum(lengths) - lengths
    for number, doc_id in enumerate(sequence.doc_ids, 1):
        places = np.flatnonzero(sequence.segment_ids == number)
        if not len(places) or places[0] >= num_bytes:
            return
        start, end = int(places[0]), min(int(places[-1]) + 1, num_bytes)
        inside = (patch_starts >= start) & (patch_starts <= places[-1])
        yield Document(
            doc_id=doc_id,
            source="",
            num_bytes=int(np.count_nonzero(sequence.tokens[places] >= BYTE_OFFSET)),
            num_parts=1,
            tokens=sequence.tokens[start:end],
            patch_lengths=cut_lengths(lengths[inside], end - start),
        )
