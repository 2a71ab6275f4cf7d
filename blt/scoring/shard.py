"""From a byte shard to its scores: what the score stage does with one unit."""

import json
from collections.abc import Iterator
from pathlib import Path

from blt.dataset.joining import check_boundaries, read_patched_parts
from blt.dataset.splits import DEFAULT_SEED, DEFAULT_VALID_FRACTION, SPLIT_CHOICES, is_in_split
from blt.dataset.storage import atomic_path, sha256_file
from blt.dataset.trained_split import TrainedSplit
from blt.dataset.units import Progress, ShardInfo, UnitResult, no_progress
from blt.engine import Engine, LineEngine
from blt.errors import UserError
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.formats.scores import ScoresWriter, scores_name
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.scoring.blt_scorer import BltScorer
from blt.scoring.documents import Part
from blt.scoring.entropy_scorer import EntropyScorer


def score_shard(
    byte_shard: Path,
    output: Path,
    *,
    scorer: BltScorer | EntropyScorer,
    boundaries: Path | None = None,
    engine: Engine | None = None,
    rule: PatchRule | None = None,
    split: str = "all",
    valid_fraction: float = DEFAULT_VALID_FRACTION,
    seed: int = DEFAULT_SEED,
    trained: TrainedSplit | None = None,
    unit_index: int,
    roll: int,
    progress: Progress = no_progress,
) -> UnitResult:
    """Writes the scores of one byte shard, a row for each document, in its order.

    Patches, which a BLT needs and an entropy model does not, come from `boundaries`, or else from
    `rule` (and `engine`, if the rule needs entropies).

    Args:
      byte_shard: the file.
      output: the folder for `scores-….parquet`.
      scorer: of the model.
      boundaries: those of this byte shard.
      engine: of the entropy model that belongs to the BLT.
      rule: where patches begin.
      split: "valid" scores held-out documents alone, "train" the others alone.
      valid_fraction, seed: of the hash that holds documents out.
      trained: which of the documents the model was trained on; None if that is not known.
      unit_index, roll: of the byte shard, for the name.
      progress: called with the document bytes done.

    Returns:
      Counts: `documents`, `bytes`, `scored_bytes`, `tokens` (bytes and EOS), and `filtered`, the
      documents of the other split; with `trained` also `trained_documents` and `trained_bytes`, of
      those that the model was trained on.

    Raises:
      UserError: the boundaries are of another byte shard or another entropy model, or a BLT has
        neither boundaries nor a rule.
      WorkError: a file is damaged.
    """
    if split not in SPLIT_CHOICES:
        raise UserError(f"--split {split}: not one of {', '.join(SPLIT_CHOICES)}.")
    if boundaries is not None:
        check_boundaries(boundaries, byte_shard, scorer.entropy_fingerprint)
        parts: Iterator[Part] = (
            (part.record, part.patch_lengths) for part in read_patched_parts(byte_shard, boundaries)
        )
    else:
        parts = ((record, None) for record in read_byte_shard(byte_shard))
    counts = {"documents": 0, "bytes": 0, "scored_bytes": 0, "tokens": 0, "filtered": 0}
    if trained is not None:
        counts |= {"trained_documents": 0, "trained_bytes": 0}

    def chosen() -> Iterator[Part]:
        for record, patch_lengths in parts:
            if is_in_split(record.doc_id, split, fraction=valid_fraction, seed=seed):
                yield record, patch_lengths
            else:
                counts["filtered"] += record.part == 0

    wanted: Iterator[Part] = chosen()
    if boundaries is None and isinstance(scorer, BltScorer):
        wanted = cut_parts((record for record, _ in wanted), engine, rule)
    name = scores_name(unit_index, roll)
    metadata = {
        f"{scorer.score_spec['model']}_fingerprint": scorer.fingerprint,
        "entropy_model": scorer.entropy_fingerprint or "",
        "score_spec": json.dumps(scorer.score_spec, sort_keys=True),
        "split": split,
    }
    with atomic_path(output / name, is_appended=True) as temporary:
        writer = ScoresWriter(temporary, metadata=metadata)
        for row in scorer.score(wanted):
            writer.write(row)
            counts["documents"] += 1
            counts["bytes"] += row.num_bytes
            counts["scored_bytes"] += row.scored_bytes
            counts["tokens"] += row.num_bytes + 1
            if trained is not None and trained.holds(row.doc_id):
                counts["trained_documents"] += 1
                counts["trained_bytes"] += row.num_bytes
            progress(row.num_bytes)
        writer.close()
        sha256 = sha256_file(temporary)
    shard = ShardInfo.of_counts(name, counts, sha256)
    return UnitResult(shards=(shard,), counts=counts)


def check_can_cut(engine: Engine | None, rule: PatchRule | None) -> None:
    """Raises UserError unless patches can be cut: there is a rule, and the model that it needs."""
    if rule is None:
        raise UserError(
            "--patches: missing; this BLT does not know the rule that cuts patches. "
            "Make boundaries with `blt patch` and give their folder."
        )
    if rule.snap_utf8:
        raise UserError(
            "--patches: missing; this BLT was trained on patches snapped to UTF-8 characters, "
            "which are not cut while scoring. Make them with `blt patch --snap-utf8`."
        )
    if rule.needs_entropies and engine is None:
        raise UserError(
            f"--entropy-model: missing; the patches of this BLT need one (rule {rule.rule!r}). "
            "Give the one it was trained with, or boundaries by --patches."
        )


def cut_parts(
    records: Iterator[ByteRecord], engine: Engine | None, rule: PatchRule | None
) -> Iterator[Part]:
    """Yields records with the patches that the rule cuts.

    Raises:
      UserError: as `check_can_cut`.
    """
    check_can_cut(engine, rule)
    if not rule.needs_entropies:
        yield from ((record, find_patch_lengths(record.tokens, None, rule)) for record in records)
        return
    engine = LineEngine(engine) if rule.reset_on_newline else engine
    for result in engine.run((record, record.tokens, record.part > 0) for record in records):
        record = result.key
        yield record, find_patch_lengths(record.tokens, result.entropies, rule)
