"""Byte shards and their boundaries, side by side: record i with row i."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from blt.dataset.manifest import Manifest
from blt.dataset.several import Datasets, as_datasets, check_boundaries_of
from blt.dataset.storage import sha256_file
from blt.errors import UserError, WorkError
from blt.formats.boundaries import read_boundaries, read_boundaries_metadata
from blt.formats.byte_shard import ByteRecord, read_byte_shard

# Keys in the metadata of boundaries.
BYTE_SHARD_KEY = "byte_shard_sha256"
ENTROPY_MODEL_KEY = "entropy_model"


@dataclasses.dataclass(frozen=True, slots=True)
class PatchedPart:
    """A document, or a part of one, cut into patches.

    Attributes:
      record: as in the byte shard.
      patch_lengths: [num_patches] int32; sums to the record's tokens.
      entropies: [num_tokens], as stored (see `restore_entropies`); None if none are kept.
    """

    record: ByteRecord
    patch_lengths: np.ndarray
    entropies: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PatchedDocument:
    """A whole document, cut into patches.

    Attributes:
      index: of the document's first record in its byte shard.
      doc_id: its id.
      tokens: [num_tokens] uint16, `BOS bytes EOS`.
      patch_lengths: [num_patches] int32; sums to num_tokens.
    """

    index: int
    doc_id: str
    tokens: np.ndarray
    patch_lengths: np.ndarray


def read_patched_parts(byte_shard: Path, boundaries: Path) -> Iterator[PatchedPart]:
    """Yields the records of a byte shard with their patches, one at a time.

    Raises:
      WorkError: a file is damaged, or row i does not describe record i.
    """
    pairs = itertools.zip_longest(read_byte_shard(byte_shard), read_boundaries(boundaries))
    for index, (record, row) in enumerate(pairs):
        if record is None or row is None:
            longer = boundaries if record is None else byte_shard
            raise WorkError(
                f"{boundaries}: does not belong to {byte_shard}: {longer.name} goes on after "
                f"{index} records and the other does not. Run `blt patch` again."
            )
        described = (row.doc_id, row.part, row.num_tokens, int(row.patch_lengths.sum()))
        found = (record.doc_id, record.part, len(record.tokens), len(record.tokens))
        if described != found or row.patch_lengths.min(initial=1) < 1:
            raise WorkError(
                f"{boundaries}: row {index} describes part {row.part} of document "
                f"{row.doc_id!r:.80}, {row.num_tokens} tokens; record {index} of {byte_shard} is "
                f"another, or its patch lengths are wrong. Run `blt patch` again."
            )
        yield PatchedPart(record, row.patch_lengths, row.entropies)


def join_documents(parts: Iterable[PatchedPart]) -> Iterator[PatchedDocument]:
    """Puts the parts of each document together; they follow one another, as in byte shards."""
    pending: list[PatchedPart] = []
    for index, part in enumerate(parts):
        pending.append(part)
        if part.record.part == part.record.num_parts - 1:
            yield PatchedDocument(
                index=index - len(pending) + 1,
                doc_id=part.record.doc_id,
                tokens=np.concatenate([p.record.tokens for p in pending]),
                patch_lengths=np.concatenate([p.patch_lengths for p in pending]),
            )
            pending = []


def check_related(patches: Manifest | Datasets, data: Manifest | Datasets) -> None:
    """Checks that these byte shards are those that boundaries were made from, in the same order.

    Raises:
      UserError: they are not; blames --data.
    """
    patches, data = as_datasets(patches), as_datasets(data)
    if patches.parents.get("byte_shards") == data.sha256:
        return
    if max(len(patches.members), len(data.members)) > 1:
        check_boundaries_of(patches, data)
    raise UserError(
        f"--data {data.where}: not the byte shards that {patches.where} was made from "
        "(another manifest). Give those."
    )


def check_boundaries(boundaries: Path, byte_shard: Path, entropy_fingerprint: str | None) -> None:
    """Checks that boundaries were made from this byte shard and by this entropy model.

    Args:
      boundaries: the file.
      byte_shard: the file that they must describe.
      entropy_fingerprint: of the entropy model; None if it must have been a rule without one.

    Raises:
      UserError: they were made from another byte shard or by another model.
      WorkError: the file is damaged.
    """
    check_made_from(boundaries, byte_shard, sha256_file(byte_shard))
    found = read_boundaries_metadata(boundaries).get(ENTROPY_MODEL_KEY)
    check_entropy_fingerprint(str(boundaries), found, entropy_fingerprint)


def check_made_from(boundaries: Path, byte_shard: Path, sha256: str) -> None:
    """Raises UserError unless boundaries were made from this byte shard, whose sha256 is given."""
    if read_boundaries_metadata(boundaries).get(BYTE_SHARD_KEY, "") not in ("", sha256):
        raise UserError(
            f"{boundaries}: made from another {byte_shard.name} than {byte_shard} (its sha256 "
            "differs). Run `blt patch` on these byte shards."
        )


def check_entropy_fingerprint(what: str, found: str | None, needed: str | None) -> None:
    """Raises UserError unless boundaries were made by the entropy model that is needed."""
    if found != needed:
        found_text, needed_text = (
            f"entropy model {value[:12]}…" if value else "a rule without an entropy model"
            for value in (found, needed)
        )
        raise UserError(
            f"{what}: its boundaries were made by {found_text}, but {needed_text} is needed here. "
            "Use that model for all stages, or run `blt patch`, `blt pack` and `blt train` anew."
        )
