"""Counts of grams: what one byte shard gives, and how such counts are added up.

Counts hold the longest grams alone: those that are shorter are suffixes of them (grams at the
beginning of a document are filled up with PAD), so that one sorted table says all. Adding up is
associative and commutative, to the bit: neither the order nor the number of workers shows.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from blt.dataset.splits import is_held_out, seeded_hash
from blt.formats.byte_shard import ByteRecord
from blt.ngram.config import NgramConfig
from blt.ngram.grams import pack_grams
from blt.tokenizer import BYTE_OFFSET

_BATCH_TOKENS = 4 << 20


@dataclasses.dataclass(frozen=True)
class GramCounts:
    """How often each gram was seen.

    Attributes:
      grams: [n] uint64, sorted, each once; see `blt.ngram.grams`.
      counts: [n] int64, each at least 1.
      num_documents, num_bytes: of the text that was counted.
    """

    grams: np.ndarray
    counts: np.ndarray
    num_documents: int = 0
    num_bytes: int = 0


NO_COUNTS = GramCounts(np.empty(0, np.uint64), np.empty(0, np.int64))


def sum_by_gram(grams: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the grams, sorted and each once, and the sums of their counts."""
    if not len(grams):
        return grams.astype(np.uint64), counts.astype(np.int64)
    order = np.argsort(grams, kind="stable")
    grams, counts = grams[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]]))
    return grams[first], np.add.reduceat(counts, first, dtype=np.int64)


def merge_counts(parts: Iterable[GramCounts]) -> GramCounts:
    """Adds counts up."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NO_COUNTS
    grams, counts = sum_by_gram(
        np.concatenate([part.grams for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )
    return GramCounts(
        grams,
        counts,
        sum(part.num_documents for part in parts),
        sum(part.num_bytes for part in parts),
    )


def count_documents(documents: Iterable[np.ndarray], length: int) -> GramCounts:
    """Counts the grams of `length` ids that end at each token of documents but their first.

    Args:
      documents: [num_tokens] ids of each, BOS first; BOS is given and so is not counted.
      length: ids in a gram.
    """
    return count_parts(((tokens, False) for tokens in documents), length)


def count_parts(parts: Iterable[tuple[np.ndarray, bool]], length: int) -> GramCounts:
    """Counts grams as `count_documents`, of documents that may come in parts.

    Args:
      parts: (tokens, is_continuation); the parts of a document follow one another.
      length: ids in a gram.
    """
    summed: list[GramCounts] = []
    batch: list[np.ndarray] = []
    batch_tokens = num_documents = num_bytes = 0
    carried = np.empty(0, np.uint16)
    for tokens, is_continuation in parts:
        if not is_continuation:
            carried = tokens[:0]
            num_documents += 1
        num_bytes += int(np.count_nonzero(tokens >= BYTE_OFFSET))
        together = np.concatenate([carried, tokens])
        batch.append(pack_grams(together, length)[max(1, len(carried)) :])
        batch_tokens += len(tokens)
        carried = together[max(0, len(together) - length + 1) :]
        if batch_tokens >= _BATCH_TOKENS:
            summed.append(_count(batch))
            batch, batch_tokens = [], 0
            if len(summed) > 8:
                summed = [merge_counts(summed)]
    merged = merge_counts([*summed, _count(batch)])
    return dataclasses.replace(merged, num_documents=num_documents, num_bytes=num_bytes)


def _count(batch: list[np.ndarray]) -> GramCounts:
    if not batch:
        return NO_COUNTS
    grams = np.sort(np.concatenate(batch))
    first = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]])[: len(grams)])
    counts = np.diff(np.append(first, len(grams)))
    return GramCounts(grams[first], counts.astype(np.int64))


def chosen_parts(
    records: Iterable[ByteRecord], config: NgramConfig, total_bytes: int
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yields (tokens, is_continuation) of the records that are to be counted.

    These are documents that are not held out and, where there is more text than
    `config.sample_bytes`, a share of them that a hash of their id chooses.

    Args:
      records: of a byte shard.
      config: how to choose.
      total_bytes: of the whole dataset.
    """
    share = min(1.0, config.sample_bytes / max(1, total_bytes))
    for record in records:
        held_out = is_held_out(record.doc_id, fraction=config.valid_fraction, seed=config.seed)
        is_chosen = seeded_hash(config.seed, "ngram", record.doc_id) < share * 2**64
        if is_chosen and not held_out:
            yield record.tokens, record.part > 0
