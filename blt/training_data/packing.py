"""Packing: documents laid end to end into sequences under two budgets, tokens and patches.

    documents    a = 1+3+2 tokens in patches, b = 1+2+4
    seq_len 8, max_patches 4

    sequence 0   a a a a a a | b          patches 1 3 2 | 1
    sequence 1   b b b b b b              patches 2 4

A document that does not fit goes on in the next sequence, cut between patches; inside a patch only
if that patch alone is longer than a sequence. Nothing is lost and nothing comes twice.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from blt.dataset.joining import PatchedDocument
from blt.dataset.splits import DEFAULT_SEED, DEFAULT_VALID_FRACTION, is_held_out, seeded_hash
from blt.dataset.storage import Place, atomic_path
from blt.dataset.units import Progress, UnitResult, no_progress
from blt.errors import UserError
from blt.formats.training_shard import (
    SPLITS,
    PackedSequence,
    TrainingShardWriter,
    training_shard_name,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How documents are packed.

    Attributes:
      seq_len: most tokens in a sequence.
      max_patches: most patches in a sequence.
      valid_fraction: part of the documents, by the hash of their id, that is held out.
      seed: of that hash.
    """

    seq_len: int
    max_patches: int
    valid_fraction: float = DEFAULT_VALID_FRACTION
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        for name in ("seq_len", "max_patches"):
            if getattr(self, name) < 2:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {getattr(self, name)}: must be at least 2.")
        if not 0 <= self.valid_fraction < 1:
            raise UserError(f"--valid-fraction {self.valid_fraction}: must be in [0, 1).")


def shuffle_key(seed: int, shard_name: str, record_index: int) -> int:
    """Returns where a document comes in the global order: a number in [0, 2**64).

    It depends on the seed and on the place of the document's first record alone, so that documents
    with equal ids are kept apart.
    """
    return seeded_hash(seed, "shuffle", shard_name, record_index)


def bucket_of(key: int, num_buckets: int) -> int:
    """Returns the bucket, which becomes one shard, of a shuffle key."""
    return key % num_buckets


class _Sequence:
    """A sequence that is being filled."""

    def __init__(self) -> None:
        self.tokens: list[np.ndarray] = []
        self.patch_lengths: list[np.ndarray] = []
        self.doc_ids: list[str] = []
        self.num_tokens = self.num_patches = 0

    def append(self, doc_id: str, tokens: np.ndarray, patch_lengths: np.ndarray) -> None:
        self.tokens.append(tokens)
        self.patch_lengths.append(patch_lengths)
        self.doc_ids.append(doc_id)
        self.num_tokens += len(tokens)
        self.num_patches += len(patch_lengths)

    def finish(self) -> PackedSequence:
        sizes = [len(tokens) for tokens in self.tokens]
        return PackedSequence(
            tokens=np.concatenate(self.tokens),
            patch_lengths=np.concatenate(self.patch_lengths).astype(np.int32),
            segment_ids=np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes),
            doc_ids=tuple(self.doc_ids),
        )


def pack_documents(
    documents: Iterable[PatchedDocument], *, seq_len: int, max_patches: int
) -> Iterator[PackedSequence]:
    """Packs documents in the order they come.

    Args:
      documents: whole documents; those without tokens leave no trace.
      seq_len: most tokens in a sequence.
      max_patches: most patches in a sequence.

    Yields:
      Sequences. Their tokens, one after the other, are those of the documents.
    """
    sequence = _Sequence()
    for document in documents:
        lengths = _cut_longer(document.patch_lengths, seq_len)
        ends = np.cumsum(lengths)
        patch, token = 0, 0  # the first that is not placed yet
        while patch < len(lengths):
            room = seq_len - sequence.num_tokens
            fitting = int(np.searchsorted(ends, token + room, side="right")) - patch
            fitting = min(fitting, max_patches - sequence.num_patches)
            if fitting > 0:
                end = int(ends[patch + fitting - 1])
                sequence.append(
                    document.doc_id, document.tokens[token:end], lengths[patch : patch + fitting]
                )
                patch, token = patch + fitting, end
            if patch < len(lengths):
                yield sequence.finish()
                sequence = _Sequence()
    if sequence.num_tokens:
        yield sequence.finish()


def _cut_longer(lengths: np.ndarray, most: int) -> np.ndarray:
    """Cuts the patches that no sequence holds into pieces of `most` tokens and a rest."""
    if lengths.max(initial=0) <= most:
        return lengths
    pieces = -(-lengths // most)
    cut = np.full(pieces.sum(), most, lengths.dtype)
    cut[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * most
    return cut


def write_bucket(
    documents: Sequence[PatchedDocument],
    output: Place,
    *,
    bucket: int,
    config: PackConfig,
    progress: Progress = no_progress,
) -> UnitResult:
    """Packs the documents of one bucket into its training shard and its held-out shard.

    Args:
      documents: all documents of the bucket, in the order of `shuffle_key`. Each is asked for
        twice, and none is held.
      output: the folder; a split without documents has no file in it.
      bucket: its number, which names the shards.
      config: how.
      progress: called with the document bytes done.

    Returns:
      Counts: `documents`, `bytes`, `tokens`, `patches`, `sequences`, `held_out_documents`, and
      `cut_patches`, those that are longer than a sequence and became `cut_pieces`.
    """
    by_split: dict[str, list[int]] = {split: [] for split in SPLITS}
    for position, document in enumerate(documents):
        held_out = is_held_out(document.doc_id, fraction=config.valid_fraction, seed=config.seed)
        by_split["valid" if held_out else "train"].append(position)
    names = ("documents", "bytes", "tokens", "patches", "sequences", "cut_patches", "cut_pieces")
    counts = dict.fromkeys(names, 0)

    def of_split(positions: Iterable[int]) -> Iterator[PatchedDocument]:
        for position in positions:
            document = documents[position]
            longer = document.patch_lengths[document.patch_lengths > config.seq_len]
            counts["cut_patches"] += len(longer)
            counts["cut_pieces"] += len(_cut_longer(longer, config.seq_len))
            yield document

    shards = []
    for split, chosen in by_split.items():
        name = training_shard_name(split, bucket)
        if not chosen:
            continue
        with atomic_path(output / name, is_appended=True) as temporary:
            writer = TrainingShardWriter(temporary, name=name)
            for sequence in pack_documents(
                of_split(chosen), seq_len=config.seq_len, max_patches=config.max_patches
            ):
                before = writer.num_bytes
                writer.write(sequence)
                progress(writer.num_bytes - before)
            shard = writer.close(len(chosen))
        shards.append(shard)
        counts["documents"] += shard.documents
        counts["bytes"] += shard.bytes
        counts["tokens"] += shard.tokens
        counts["patches"] += writer.num_patches
        counts["sequences"] += writer.num_sequences
    counts["held_out_documents"] = len(by_split["valid"])
    return UnitResult(shards=tuple(shards), counts=counts)
