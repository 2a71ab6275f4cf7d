"""From boundaries to those of another rule, by the entropies that were kept: no model is run.

Rows are worked on as they lie in the file, a row group at a time, all documents at once.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blt.dataset.storage import atomic_path, sha256_file
from blt.dataset.units import Progress, ShardInfo, UnitResult, no_progress
from blt.errors import UserError, WorkError
from blt.formats.boundaries import (
    BoundariesBatch,
    BoundariesWriter,
    read_boundaries_metadata,
    read_boundary_batches,
    restore_entropies,
)
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.patching.rules import (
    INSIDE_CHARACTERS,
    PatchRule,
    count_boundaries_inside_characters,
    count_byte_patches,
    describe_rule,
    find_patches,
)
from blt.tokenizer import BOS_ID, BYTE_OFFSET, EOS_ID

_TOKENS_AT_A_TIME = 1 << 16

# In the metadata of boundaries: what the writer says itself, and what does not outlive a new rule.
_WRITTEN_ANEW = {
    "format_version",
    "kind",
    "entropies",
    "entropies_scale_nats",
    "entropy_unit",
    INSIDE_CHARACTERS,
    *(field.name for field in dataclasses.fields(PatchRule)),
}


def repatch_shard(
    boundaries: Path,
    output: Path,
    *,
    rule: PatchRule,
    byte_shard: Path | None = None,
    name: str | None = None,
    drop_entropies: bool = False,
    progress: Progress = no_progress,
) -> UnitResult:
    """Writes the boundaries that another rule gives.

    It is the very file that `patch_shard` would have made by this rule.

    Args:
      boundaries: the file; for a rule of entropies, with entropies kept.
      output: the folder for the new file.
      rule: where patches begin.
      byte_shard: what the boundaries are of; only a rule that `needs_bytes` needs it. With it,
        boundaries inside characters are counted.
      name: of the new file; that of `boundaries` if not given.
      drop_entropies: leave the kept entropies out.
      progress: called with the document bytes done.

    Returns:
      Counts, as of `patch_shard`; `boundaries_inside_characters` only with a byte shard.

    Raises:
      UserError: the rule needs entropies or bytes that are not there.
      WorkError: a file is damaged, or they do not belong together.
    """
    found = read_boundaries_metadata(boundaries)
    kept_as = found.get("entropies")
    rule = with_kept_context(rule, was_reset="reset_on_newline" in found)
    check_repatch_options(rule, kept_as, has_bytes=byte_shard is not None)
    metadata = {
        **describe_rule(rule),
        **{name: value for name, value in found.items() if name not in _WRITTEN_ANEW},
    }
    names = ["documents", "bytes", "tokens", "patches"]
    counts = dict.fromkeys(names if byte_shard is None else [*names, INSIDE_CHARACTERS], 0)
    nats: float | None = 0.0
    source = _TokenSource(boundaries, byte_shard)
    name = name or boundaries.name
    with atomic_path(output / name, is_appended=True) as temporary:
        writer = BoundariesWriter(
            temporary, metadata=metadata, keep_entropies=None if drop_entropies else kept_as
        )
        for batch in read_boundary_batches(boundaries):
            tokens = source.take(batch)
            lengths, num_patches = _cut(tokens, batch, rule)
            writer.write_batch(
                dataclasses.replace(batch, patch_lengths=lengths, num_patches=num_patches)
            )
            num_bytes = int(np.count_nonzero(tokens >= BYTE_OFFSET))
            counts["documents"] += int(np.count_nonzero(batch.part == 0))
            counts["bytes"] += num_bytes
            counts["tokens"] += len(tokens)
            counts["patches"] += count_byte_patches(tokens, lengths)
            if byte_shard is not None:
                counts[INSIDE_CHARACTERS] += count_boundaries_inside_characters(
                    tokens, batch.num_tokens, lengths
                )
            nats = _add_nats(nats, batch)
            progress(num_bytes)
        source.end()
        writer.close(
            {name: str(value) for name, value in counts.items() if name == INSIDE_CHARACTERS}
        )
        sha256 = sha256_file(temporary)
    if nats is not None:
        counts["entropy_model_bits"] = round(nats / math.log(2))
    shard = ShardInfo.of_counts(name, counts, sha256)
    return UnitResult(shards=(shard,), counts=counts)


def with_kept_context(rule: PatchRule, *, was_reset: bool) -> PatchRule:
    """Returns the rule with the context that the kept entropies have, as no rule changes it.

    Raises:
      UserError: the rule asks for `reset_on_newline`, and they were made without.
    """
    if rule.reset_on_newline and not was_reset:
        raise UserError(
            "--reset-on-newline: the entropies of these boundaries are of whole documents. "
            "Run `blt patch` with --reset-on-newline."
        )
    return dataclasses.replace(rule, reset_on_newline=was_reset)


def check_repatch_options(rule: PatchRule, kept_as: str | None, *, has_bytes: bool) -> None:
    """Raises UserError unless there is what the rule needs."""
    if rule.needs_entropies and kept_as is None:
        raise UserError(
            f"--patches: no entropies were kept with these, and rule {rule.rule!r} needs them. "
            "Run `blt patch` with --keep-entropies f16."
        )
    if rule.needs_bytes and not has_bytes:
        what = "--snap-utf8" if rule.snap_utf8 else f"rule {rule.rule!r}"
        raise UserError(f"--data: missing; {what} looks at the bytes. Give the byte shards.")


def _cut(
    tokens: np.ndarray, batch: BoundariesBatch, rule: PatchRule
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts all rows: [total_patches] lengths and [num_rows] patches, as of `find_patches`."""
    ends = np.cumsum(batch.num_tokens)
    # Rows at a time whose numbers stay in the caches.
    until = np.unique(
        np.searchsorted(ends, np.arange(_TOKENS_AT_A_TIME, ends[-1], _TOKENS_AT_A_TIME))
    )
    found = []
    for rows in np.split(np.arange(len(ends)), until):
        if not len(rows):
            continue
        here = slice(ends[rows[0]] - batch.num_tokens[rows[0]], ends[rows[-1]])
        entropies = restore_entropies(batch.entropies[here]) if rule.needs_entropies else None
        found.append(find_patches(tokens[here], batch.num_tokens[rows], entropies, rule))
    lengths, num_patches = zip(*found, strict=True)
    return np.concatenate(lengths), np.concatenate(num_patches)


class _TokenSource:
    """Yields the tokens of batches: those of the byte shard, or others in their place."""

    def __init__(self, boundaries: Path, byte_shard: Path | None) -> None:
        self._boundaries = boundaries
        self._byte_shard = byte_shard
        self._records: Iterator[ByteRecord] | None = None
        if byte_shard is not None:
            self._records = read_byte_shard(byte_shard)

    def take(self, batch: BoundariesBatch) -> np.ndarray:
        """[sum of num_tokens] uint16."""
        if self._records is None:
            return _stand_in_tokens(batch)
        tokens = []
        rows = zip(batch.doc_id.to_pylist(), batch.part, batch.num_tokens, strict=True)
        for row in rows:
            record = next(self._records, None)
            if record is None or (record.doc_id, record.part, len(record.tokens)) != row:
                raise self._mismatch(f"row {row[0]!r:.80}, part {row[1]}, is not the next record")
            tokens.append(record.tokens)
        return np.concatenate(tokens)

    def end(self) -> None:
        """Checks that no records are left over."""
        if self._records is not None and next(self._records, None) is not None:
            raise self._mismatch("it holds more records")

    def _mismatch(self, why: str) -> WorkError:
        return WorkError(
            f"{self._boundaries}: does not belong to {self._byte_shard}: {why}. "
            "Run `blt patch` again."
        )


def _stand_in_tokens(batch: BoundariesBatch) -> np.ndarray:
    """Tokens as the rows must have them, but for what the bytes are."""
    tokens = np.full(batch.num_tokens.sum(), BYTE_OFFSET, np.uint16)
    ends = np.cumsum(batch.num_tokens)
    tokens[(ends - batch.num_tokens)[batch.part == 0]] = BOS_ID
    tokens[ends[batch.ends_document] - 1] = EOS_ID
    return tokens


def _add_nats(nats: float | None, batch: BoundariesBatch) -> float | None:
    """Adds row after row, as `patch_shard` does, so that the sum is the same."""
    if nats is None or batch.nats.null_count:
        return None
    return float(np.cumsum(np.append(nats, batch.nats.to_numpy()))[-1])
