"""From a wanted mean patch size to the threshold that gives it, on a sample of the documents.

The mean patch size is the sample's bytes over its patches that hold a byte
(`blt.patching.rules.count_byte_patches`); it grows with the threshold, so the threshold is found by
bisection over the true rule. How sure it is: the mean, at that threshold, of documents drawn anew
from the sample (a bootstrap).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from blt.engine import Engine, LineEngine
from blt.errors import UserError
from blt.formats.boundaries import restore_entropies, store_entropies
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.manifest import Manifest
from blt.patching.rules import (
    ENTROPY_RULES,
    MAX_NATS,
    PatchRule,
    count_byte_patches,
    find_patch_lengths,
)
from blt.splits import seeded_hash
from blt.storage import atomic_path
from blt.tokenizer import BYTE_OFFSET

DEFAULT_SAMPLE_BYTES = 500_000
_BISECTIONS = 40
_THRESHOLD_DECIMALS = 6
_BOOTSTRAP_DRAWS = 1000
_INTERVAL_PERCENT = (2.5, 97.5)


@dataclasses.dataclass(frozen=True, slots=True)
class _Sampled:
    """A document of the sample, or a part of one."""

    doc_id: str
    tokens: np.ndarray
    entropies: np.ndarray
    num_bytes: int


def calibrate(
    data: Manifest,
    engine: Engine,
    *,
    target_patch_bytes: Sequence[float],
    rule: str = "entropy",
    threshold_add_nats: float | None = None,
    max_patch_length: int | None = None,
    reset_on_newline: bool | None = None,
    keep_entropies: str | None = None,
    sample_bytes: int = DEFAULT_SAMPLE_BYTES,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Finds the threshold for each wanted mean patch size.

    Args:
      data: byte shards.
      engine: of the entropy model.
      target_patch_bytes: wanted means, bytes in a patch.
      rule: `entropy`, `monotonic` or `combined`; the last needs `threshold_add_nats`.
      max_patch_length, reset_on_newline: as in `PatchRule`.
      keep_entropies: "f16" or "u8" if boundaries will be made from stored entropies.
      sample_bytes: about how much text to look at; documents are chosen by the hash of their id.
      seed: of that hash and of the bootstrap.
      report: takes lines of progress.

    Returns:
      What `write_calibration` writes: `entropy_model` (its fingerprint), `sample` and `targets`.

    Raises:
      UserError: the rule has no threshold, there is no text, or a target is out of reach.
    """
    if rule not in ENTROPY_RULES:
        raise UserError(f"--rule {rule}: has no threshold; calibrate one of {ENTROPY_RULES}.")
    if reset_on_newline:
        engine = LineEngine(engine)
    sample = _take_sample(data, engine, sample_bytes, seed, keep_entropies)
    num_bytes = sum(part.num_bytes for part in sample)
    if not num_bytes:
        raise UserError(f"{data.folder}: no text to calibrate on. Encode some, or take more of it.")
    num_documents = len({part.doc_id for part in sample})
    report(f"calibrating on {num_documents} documents, {num_bytes:,} bytes")
    options = {
        "rule": rule,
        "threshold_add_nats": threshold_add_nats,
        "max_patch_length": max_patch_length,
        "reset_on_newline": bool(reset_on_newline),
    }
    targets = []
    for target in target_patch_bytes:
        found = _find_threshold(sample, num_bytes, target, options)
        low, high = _bootstrap_interval(sample, found, seed)
        mean = num_bytes / _count_patches(sample, found).sum()
        targets.append(
            {
                **{
                    name: value
                    for name, value in dataclasses.asdict(found).items()
                    if value is not None and value is not False
                },
                "target_patch_bytes": float(target),
                "mean_patch_bytes": round(float(mean), 4),
                "interval_95_percent": [round(low, 4), round(high, 4)],
            }
        )
        report(f"{target:g} bytes a patch: threshold {found.threshold_nats:.4f} nats")
    return {
        "entropy_model": engine.fingerprint,
        "sample": {"documents": num_documents, "bytes": num_bytes, "seed": seed},
        "targets": targets,
    }


def _take_sample(
    data: Manifest, engine: Engine, sample_bytes: int, seed: int, keep: str | None
) -> list[_Sampled]:
    """Runs the model over documents chosen by the hash of their id, until there is enough."""
    share = min(1.0, sample_bytes / max(1, data.totals["bytes"]))

    def chosen_records() -> Any:
        taken = 0
        for shard in data.shards:
            for record in read_byte_shard(data.shard_path(shard)):
                # Twice the wanted size ends it: one huge document is not to hold the machine up.
                is_chosen = seeded_hash(seed, "calibrate", record.doc_id) < share * 2**64
                if is_chosen and taken <= 2 * sample_bytes:
                    taken += len(record.tokens)
                    yield record, record.tokens, record.part > 0

    sample = []
    for result in engine.run(chosen_records()):
        record: ByteRecord = result.key
        entropies = result.entropies
        if keep is not None:
            entropies = restore_entropies(store_entropies(entropies, keep))
        num_bytes = int(np.count_nonzero(record.tokens >= BYTE_OFFSET))
        sample.append(_Sampled(record.doc_id, record.tokens, entropies, num_bytes))
    return sample


def _count_patches(sample: list[_Sampled], rule: PatchRule) -> np.ndarray:
    """[len(sample)] int64: patches of each that hold a byte."""
    counts = [
        count_byte_patches(part.tokens, find_patch_lengths(part.tokens, part.entropies, rule))
        for part in sample
    ]
    return np.array(counts, np.int64)


def _find_threshold(
    sample: list[_Sampled], num_bytes: int, target: float, options: dict[str, Any]
) -> PatchRule:
    def mean_at(threshold: float) -> float:
        rule = PatchRule(threshold_nats=threshold, **options)
        return num_bytes / _count_patches(sample, rule).sum()

    low = 0.0 if options["rule"] == "entropy" else -MAX_NATS
    high = MAX_NATS
    smallest, largest = mean_at(low), mean_at(high)
    if not smallest <= target <= largest:
        raise UserError(
            f"--target-patch-bytes {target:g}: rule {options['rule']!r} gives means from "
            f"{smallest:.2f} to {largest:.2f} bytes on this text; choose one between them."
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if mean_at(middle) < target:
            low = middle
        else:
            high = middle
    # Two numbers beside each other are left; people read and copy them, so they are short.
    candidates = sorted({round(low, _THRESHOLD_DECIMALS), round(high, _THRESHOLD_DECIMALS)})
    best = min(candidates, key=lambda threshold: abs(mean_at(threshold) - target))
    return PatchRule(threshold_nats=best, **options)


def _bootstrap_interval(sample: list[_Sampled], rule: PatchRule, seed: int) -> tuple[float, float]:
    """The middle 95 % of the mean patch size over documents drawn with replacement."""
    patches = _count_patches(sample, rule).astype(np.float64)
    num_bytes = np.array([part.num_bytes for part in sample], np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(_BOOTSTRAP_DRAWS):
        drawn = rng.integers(len(sample), size=len(sample))
        means.append(num_bytes[drawn].sum() / max(1.0, patches[drawn].sum()))
    low, high = np.percentile(means, _INTERVAL_PERCENT)
    return float(low), float(high)


def write_calibration(path: str | Path, calibration: dict[str, Any]) -> None:
    """Writes what `calibrate` found as YAML, atomically."""
    text = yaml.safe_dump(calibration, sort_keys=False)
    with atomic_path(path) as temporary:
        temporary.write_text(
            "# Made by `blt calibrate`; `blt patch --calibration` takes it.\n" + text,
            encoding="utf-8",
        )


def read_calibration(
    path: str | Path,
    fingerprint: str | None,
    *,
    target_patch_bytes: float | None = None,
    **given: Any,
) -> PatchRule:
    """Reads the rule that a calibration found.

    Args:
      path: the file.
      fingerprint: of the entropy model that the rule will be used with.
      target_patch_bytes: which of the calibration's targets; may be None if it has one.
      **given: what the user asked for besides, by the names of `PatchRule`; it must agree.

    Raises:
      UserError: the file is missing or of another kind, was made with another entropy model, lacks
        the target, or says something else than `given`.
    """
    path = Path(path)
    try:
        calibration = yaml.safe_load(path.read_text(encoding="utf-8"))
        made_with = calibration["entropy_model"]
        targets = {float(target["target_patch_bytes"]): target for target in calibration["targets"]}
    except OSError as error:
        raise UserError(f"--calibration {path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"--calibration {path}: not a file that `blt calibrate` wrote. Make it again."
        ) from error
    if made_with != fingerprint:
        raise UserError(
            f"--calibration {path}: made with the entropy model {made_with:.12}…, not with "
            f"{(fingerprint or 'none'):.12}…. Calibrate again with the model that you give."
        )
    if target_patch_bytes is None and len(targets) == 1:
        target_patch_bytes = next(iter(targets))
    if target_patch_bytes not in targets:
        raise UserError(
            f"--calibration {path}: choose one of its targets with --target-patch-bytes: "
            f"{', '.join(f'{target:g}' for target in targets)}."
        )
    names = [field.name for field in dataclasses.fields(PatchRule)]
    chosen = {k: v for k, v in targets[target_patch_bytes].items() if k in names}
    for name, value in given.items():
        if value != chosen.get(name):
            raise UserError(
                f"--{name.replace('_', '-')} {value}: the calibration {path} says "
                f"{chosen.get(name)}. Leave one of them out."
            )
    return PatchRule(**chosen)
