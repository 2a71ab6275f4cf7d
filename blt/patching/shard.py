"""From a byte shard to its boundaries: what the patch stage does with one unit."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from blt.dataset.storage import atomic_path, sha256_file
from blt.dataset.units import Progress, ShardInfo, UnitResult, no_progress
from blt.engine import DocumentEntropies, Engine, LineEngine
from blt.errors import UserError, WorkError
from blt.formats.boundaries import (
    KEEP_ENTROPIES,
    BoundariesRow,
    BoundariesWriter,
    patches_name,
    restore_entropies,
    store_entropies,
)
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.patching.rules import (
    INSIDE_CHARACTERS,
    PatchRule,
    count_boundaries_inside_characters,
    count_byte_patches,
    describe_rule,
    find_patch_lengths,
)
from blt.tokenizer import BYTE_OFFSET, EOS_ID


def patch_shard(
    byte_shard: Path,
    output: Path,
    *,
    engine: Engine | None,
    rule: PatchRule,
    keep_entropies: str | None = None,
    unit_index: int,
    roll: int,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> UnitResult:
    """Writes the boundaries of one byte shard, row i for record i.

    Args:
      byte_shard: the file.
      output: the folder for `patches-….parquet`.
      engine: of the entropy model; None for a rule that needs none.
      rule: where patches begin.
      keep_entropies: "f16" or "u8" to store entropies; boundaries are then made from the stored
        values, so that other rules can be applied later with the same result.
      unit_index, roll: of the byte shard, for the name.
      metadata: strings for the schema beside those about rule and model.
      progress: called with the document bytes done.

    Returns:
      Counts: `documents`, `bytes`, `tokens`, `patches` (those that hold a byte of the document),
      `boundaries_inside_characters` (of UTF-8) and, with a model, `entropy_model_bits`: its -log2 p
      of all bytes, rounded to whole bits. What the engine counted (see `Engine.run`) is `measured`.

    Raises:
      UserError: the rule, or keeping entropies, needs a model and there is none.
      WorkError: the byte shard is damaged.
    """
    check_patch_options(rule, keep_entropies, has_model=engine is not None)
    name = patches_name(unit_index, roll)
    described = {**describe_rule(rule), **(metadata or {})}
    if engine is not None:
        engine = LineEngine(engine) if rule.reset_on_newline else engine
        described["entropy_model"] = engine.fingerprint
        described["precision"] = engine.precision
    counts = dict.fromkeys(("documents", "bytes", "tokens", "patches", INSIDE_CHARACTERS), 0)
    measured: Counter[str] = Counter()
    nats = 0.0
    with atomic_path(output / name, is_appended=True) as temporary:
        writer = BoundariesWriter(temporary, metadata=described, keep_entropies=keep_entropies)
        for record, result in _with_entropies(byte_shard, engine, measured):
            row = make_row(record, result, rule, keep_entropies)
            writer.write(row)
            num_bytes = int(np.count_nonzero(record.tokens >= BYTE_OFFSET))
            counts["documents"] += record.part == 0
            counts["bytes"] += num_bytes
            counts["tokens"] += row.num_tokens
            counts["patches"] += count_byte_patches(record.tokens, row.patch_lengths)
            counts[INSIDE_CHARACTERS] += count_boundaries_inside_characters(
                record.tokens, np.array([row.num_tokens]), row.patch_lengths
            )
            nats += row.nats or 0.0
            progress(num_bytes)
        writer.close({INSIDE_CHARACTERS: str(counts[INSIDE_CHARACTERS])})
        sha256 = sha256_file(temporary)
    shard = ShardInfo.of_counts(name, counts, sha256)
    if engine is not None:
        counts["entropy_model_bits"] = round(nats / math.log(2))
    return UnitResult(shards=(shard,), counts=counts, measured=dict(measured))


def check_patch_options(rule: PatchRule, keep_entropies: str | None, *, has_model: bool) -> None:
    """Raises UserError unless the options can be had together."""
    if rule.needs_entropies and not has_model:
        raise UserError(f"--entropy-model: missing; rule {rule.rule!r} needs one.")
    if rule.reset_on_newline and not has_model:
        raise UserError("--reset-on-newline: needs --entropy-model, whose context it cuts.")
    if keep_entropies is not None:
        if keep_entropies not in KEEP_ENTROPIES:
            raise UserError(
                f"--keep-entropies {keep_entropies}: not one of {', '.join(KEEP_ENTROPIES)}."
            )
        if not has_model:
            raise UserError("--keep-entropies: needs --entropy-model, or there are none to keep.")


def _with_entropies(
    byte_shard: Path, engine: Engine | None, measured: Counter
) -> Iterator[tuple[ByteRecord, DocumentEntropies | None]]:
    records = read_byte_shard(byte_shard)
    if engine is None:
        yield from ((record, None) for record in records)
        return
    parts = ((record, record.tokens, record.part > 0) for record in records)
    for result in engine.run(parts, counters=measured):
        yield result.key, result


def make_row(
    record: ByteRecord,
    result: DocumentEntropies | None,
    rule: PatchRule,
    keep_entropies: str | None = None,
) -> BoundariesRow:
    """Returns the boundaries of one record.

    Args:
      record: the document or part.
      result: what the engine says about it; None without a model.
      rule, keep_entropies: as in `patch_shard`.

    Raises:
      WorkError: the model gave no finite numbers.
    """
    stored = nats = eos_nats = entropies = None
    if result is not None:
        entropies = result.entropies
        if keep_entropies:
            stored = store_entropies(entropies, keep_entropies)
            entropies = restore_entropies(stored)
        token_nats = result.token_nats.astype(np.float64)
        nats = float(token_nats[record.tokens >= BYTE_OFFSET].sum())
        eos_nats = float(token_nats[record.tokens == EOS_ID].sum())
        if not math.isfinite(nats + eos_nats) or np.isnan(entropies).any():
            raise WorkError(
                f"document {record.doc_id!r}: the entropy model gives it NaN or an infinity, of "
                "which no patches can be cut. Use --precision float32, or another model."
            )
    return BoundariesRow(
        doc_id=record.doc_id,
        part=record.part,
        num_tokens=len(record.tokens),
        patch_lengths=find_patch_lengths(record.tokens, entropies, rule),
        nats=nats,
        eos_nats=eos_nats,
        entropies=stored,
    )
