"""From a wanted mean patch size to the threshold that gives it, on a sample of the documents.

The mean patch size is a text's bytes over its patches that hold a byte
(`blt.patching.rules.count_byte_patches`). It grows with the threshold, so the threshold is found by
bisection over the true rule, which cuts the whole sample at once.

The sample is short pieces of many documents rather than a few documents: those differ more from one
another than the pieces of one do. A piece is chosen by a hash of the document's id and its place;
the model also reads some text before it, in which nothing is counted. A corpus that is not larger
than the sample is looked at whole, and of one that is very much larger only some shards are read.
How sure the mean is: its spread over documents drawn anew from the sample (a bootstrap).
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from blt.dataset.groups import group_name, input_group
from blt.dataset.manifest import Manifest
from blt.dataset.several import Datasets, as_datasets
from blt.dataset.splits import DEFAULT_SEED, DEFAULT_VALID_FRACTION, is_in_split, seeded_hash
from blt.engine import Engine, LineEngine
from blt.errors import UserError, near_names
from blt.formats.boundaries import restore_entropies, store_entropies
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.patching.rules import (
    ENTROPY_RULES,
    MAX_NATS,
    PatchRule,
    count_boundaries_inside_characters,
    count_byte_patches,
    find_patches,
)
from blt.tokenizer import BYTE_OFFSET

DEFAULT_SAMPLE_BYTES = 1_000_000
DEFAULT_MIN_GROUP_BYTES = 20_000
MAX_GROUPS = 100  # that are told of
# At most so much is read, of so many shards.
MIN_READ_BYTES = 1 << 28
READ_PER_SAMPLE = 64
MAX_SHARDS = 64
PIECE_TOKENS = 2048
LEAD_TOKENS = 512  # before a piece, for the model to read; the published model's window
_THRESHOLD_DECIMALS = 6
_BISECTIONS = 25  # which narrow 2 ln 260 nats down to less than the last decimal
_CURVE_POINTS = 41
_BOOTSTRAP_DRAWS = 1000
_INTERVAL_PERCENT = (2.5, 97.5)


def calibrate(
    data: Manifest | Datasets,
    engine: Engine,
    *,
    target_patch_bytes: Sequence[float],
    rule: str = "entropy",
    threshold_add_nats: float | None = None,
    max_patch_length: int | None = None,
    reset_on_newline: bool | None = None,
    snap_utf8: bool | None = None,
    compat: str | None = None,
    keep_entropies: str | None = None,
    sample_bytes: int = DEFAULT_SAMPLE_BYTES,
    by: str | None = None,
    min_group_bytes: int = DEFAULT_MIN_GROUP_BYTES,
    split: str = "all",
    valid_fraction: float = DEFAULT_VALID_FRACTION,
    seed: int = DEFAULT_SEED,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Finds the threshold for each wanted mean patch size.

    Args:
      data: byte shards.
      engine: of the entropy model.
      target_patch_bytes: wanted means, bytes in a patch.
      rule: `entropy`, `monotonic` or `combined`; the last needs `threshold_add_nats`.
      max_patch_length, reset_on_newline, snap_utf8, compat: as in `PatchRule`.
      keep_entropies: "f16" or "u8" if boundaries will be made from stored entropies.
      sample_bytes: about how much text to look at.
      by: also find thresholds for groups of documents: "source", or a key of their `meta`.
      min_group_bytes: a group with less text in the sample is named, but gets no threshold.
      split: "all" documents, or those that training held out ("valid") or had ("train").
      valid_fraction: of the documents, that training held out.
      seed: of the hashes that choose and hold out, and of the bootstrap.
      report: takes lines of progress.

    Returns:
      What `write_calibration` writes: `entropy_model` (its fingerprint), `sample`, `targets` (with
      `groups` if asked for: the `MAX_GROUPS` with the most text; the sample's `groups_left_out` are
      the others) and `curve`: means at many thresholds.

    Raises:
      UserError: the rule has no threshold, there is no text, no document has `by`, or a target is
        out of reach.
    """
    if rule not in ENTROPY_RULES:
        raise UserError(f"--rule {rule}: has no threshold; calibrate one of {ENTROPY_RULES}.")
    if reset_on_newline:
        engine = LineEngine(engine)
    data = as_datasets(data)
    pieces = _choose_pieces(data, sample_bytes, split, valid_fraction, seed)
    sample = _take_sample(data, engine, pieces, keep_entropies, by)
    if not sample.num_bytes.sum():
        raise UserError(f"{data.where}: no text to calibrate on. Encode some, or take more of it.")
    report(
        f"calibrating on pieces of {sample.num_documents} documents, {sample.total_bytes:,} bytes"
    )
    options = {
        "rule": rule,
        "threshold_add_nats": threshold_add_nats,
        "max_patch_length": max_patch_length,
        "reset_on_newline": bool(reset_on_newline),
        "snap_utf8": bool(snap_utf8),
        "compat": compat,
    }
    groups, left_out = sample.largest_groups(MAX_GROUPS) if by is not None else ({}, None)
    targets = []
    for target in target_patch_bytes:
        found = _find_threshold(sample, target, options)
        targets.append(
            {
                **{
                    name: value
                    for name, value in dataclasses.asdict(found).items()
                    if value is not None and value is not False
                },
                "target_patch_bytes": float(target),
                **_describe_mean(sample, found, seed),
                "share_inside_characters": round(sample.share_inside_characters(found), 6),
            }
        )
        if by is not None:
            targets[-1]["groups"] = [
                _describe_group(name, group, target, found, options, min_group_bytes, seed)
                for name, group in groups.items()
            ]
        report(f"{target:g} bytes a patch: threshold {found.threshold_nats:.4f} nats")
    described = {"documents": sample.num_documents, "bytes": sample.total_bytes, "seed": seed}
    if split != "all":
        described |= {"split": split, "valid_fraction": valid_fraction}
    if by is not None:
        described |= {"by": by, "min_group_bytes": min_group_bytes}
    if left_out:
        described["groups_left_out"] = left_out
    return {
        "entropy_model": engine.fingerprint,
        "sample": described,
        "targets": targets,
        "curve": _curve(sample, 2 * max(target_patch_bytes), options),
    }


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Pieces of documents, one after the other.

    Attributes:
      tokens: [total_tokens] uint16, those read before each piece included.
      entropies: [total_tokens] float32, nats.
      is_counted: [total_tokens] bool; False for what was only read before a piece.
      num_tokens: [num_pieces] tokens of each.
      num_bytes: [num_pieces] bytes that are counted.
      document: [num_pieces] which document it is of.
      group: [num_pieces] the name of its group.
    """

    tokens: np.ndarray
    entropies: np.ndarray
    is_counted: np.ndarray
    num_tokens: np.ndarray
    num_bytes: np.ndarray
    document: np.ndarray
    group: np.ndarray

    @property
    def total_bytes(self) -> int:
        return int(self.num_bytes.sum())

    @property
    def num_documents(self) -> int:
        return len(np.unique(self.document))

    def count_patches(self, rule: PatchRule) -> np.ndarray:
        """[num_pieces] patches that begin in each piece and hold a byte."""
        lengths, num_patches = find_patches(self.tokens, self.num_tokens, self.entropies, rule)
        starts = np.cumsum(lengths) - lengths
        holds_byte = np.logical_or.reduceat(self.tokens >= BYTE_OFFSET, starts)
        until = np.append(0, np.cumsum(holds_byte & self.is_counted[starts]))
        return np.diff(until[np.append(0, np.cumsum(num_patches))])

    def mean_patch_bytes(self, rule: PatchRule) -> float:
        return self.total_bytes / max(1, int(self.count_patches(rule).sum()))

    def share_inside_characters(self, rule: PatchRule) -> float:
        """The share of patches that begin inside a UTF-8 character, those of the leads too."""
        lengths, _ = find_patches(self.tokens, self.num_tokens, self.entropies, rule)
        inside = count_boundaries_inside_characters(self.tokens, self.num_tokens, lengths)
        return inside / max(1, count_byte_patches(self.tokens, lengths))

    def largest_groups(self, max_groups: int) -> "tuple[dict[str, _Sample], dict[str, int]]":
        """Returns the sample of each of the groups with the most text, by name.

        And of the others: how many `groups` they are, and their `bytes`; {} if there are none.
        """
        groups = self.split()
        order = sorted(groups, key=lambda name: (-groups[name].total_bytes, name))
        rest = order[max_groups:]
        left_out = {"groups": len(rest), "bytes": sum(groups[name].total_bytes for name in rest)}
        return {name: groups[name] for name in sorted(order[:max_groups])}, left_out if rest else {}

    def split(self) -> "dict[str, _Sample]":
        """Returns the sample of each group, by name."""
        names, number = np.unique(self.group, return_inverse=True)
        by_token = (self.tokens, self.entropies, self.is_counted)
        by_piece = (self.num_tokens, self.num_bytes, self.document, self.group)
        split = []
        for columns, numbers in (
            (by_token, np.repeat(number, self.num_tokens)),
            (by_piece, number),
        ):
            order = np.argsort(numbers, kind="stable")
            ends = np.cumsum(np.bincount(numbers, minlength=len(names)))[:-1]
            split += [np.split(column[order], ends) for column in columns]
        return {str(name): _Sample(*columns) for name, *columns in zip(names, *split, strict=True)}


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """Where a piece of the sample comes from; `lead` tokens of it are read, but not counted."""

    record: ByteRecord
    tokens: np.ndarray
    lead: int
    is_continuation: bool


def _take_sample(
    data: Datasets,
    engine: Engine,
    pieces: Iterable[_Piece],
    keep: str | None,
    by: str | None,
) -> _Sample:
    """Runs the model over the pieces that are chosen."""
    columns: dict[str, list[Any]] = {
        field.name: [] for field in dataclasses.fields(_Sample) if field.name != "num_tokens"
    }
    documents: dict[str, int] = {}
    labels = _GroupLabels(by, data.config.get("keep_fields", ()))
    for result in engine.run((piece, piece.tokens, piece.is_continuation) for piece in pieces):
        piece: _Piece = result.key
        entropies = result.entropies
        if keep is not None:
            entropies = restore_entropies(store_entropies(entropies, keep))
        is_counted = np.arange(len(piece.tokens)) >= piece.lead
        doc_id = piece.record.doc_id
        columns["tokens"].append(piece.tokens)
        columns["entropies"].append(entropies)
        columns["is_counted"].append(is_counted)
        columns["num_bytes"].append(np.count_nonzero(is_counted & (piece.tokens >= BYTE_OFFSET)))
        columns["document"].append(documents.setdefault(doc_id, len(documents)))
        columns["group"].append(labels.of(piece.record))
    if not columns["tokens"]:
        raise UserError(f"{data.where}: no text to calibrate on. Encode some, or take more of it.")
    labels.check()
    return _Sample(
        num_tokens=np.array([len(tokens) for tokens in columns["tokens"]]),
        **{
            name: (np.concatenate if isinstance(values[0], np.ndarray) else np.array)(values)
            for name, values in columns.items()
        },
    )


def _choose_pieces(
    data: Datasets, sample_bytes: int, split: str, valid_fraction: float, seed: int
) -> Iterator[_Piece]:
    """Yields the pieces that make the sample, in the order of the dataset.

    Of a dataset that is many times the sample's size, some shards are looked at, each from its
    beginning on: to read a terabyte for a megabyte takes hours.
    """
    most_bytes = max(MIN_READ_BYTES, READ_PER_SAMPLE * sample_bytes)
    shards, quota = list(data.shards), most_bytes
    if data.totals["bytes"] > most_bytes:
        order = sorted(shards, key=lambda shard: seeded_hash(seed, "calibrate", shard.name))
        shards = sorted(order[:MAX_SHARDS], key=lambda shard: shard.name)
        quota = most_bytes // len(shards)
    wanted = {"all": 1.0, "valid": valid_fraction, "train": 1 - valid_fraction}[split]
    share = sample_bytes / max(1.0, wanted * sum(min(shard.bytes, quota) for shard in shards))
    for shard in shards:
        num_tokens = 0
        for record in read_byte_shard(data.shard_path(shard)):
            if num_tokens >= quota:
                break
            num_tokens += len(record.tokens)
            if is_in_split(record.doc_id, split, fraction=valid_fraction, seed=seed):
                yield from _pieces_of(record, share, seed)


def _pieces_of(record: ByteRecord, share: float, seed: int) -> Iterator[_Piece]:
    """Yields the chosen pieces of a record; the whole record where all of the text is wanted."""
    tokens = record.tokens
    if share >= 1:
        yield _Piece(record, tokens, 0, record.part > 0)
        return
    for number, start in enumerate(range(0, len(tokens), PIECE_TOKENS)):
        chosen = seeded_hash(seed, "calibrate", record.doc_id, record.part, number)
        if chosen < share * 2**64:
            first = max(0, start - LEAD_TOKENS)
            yield _Piece(record, tokens[first : start + PIECE_TOKENS], start - first, False)


class _GroupLabels:
    """Names the group of each record, and remembers what else there would have been."""

    def __init__(self, by: str | None, kept: Collection[str]) -> None:
        self._by, self._input = by, input_group(kept)
        self._seen: set[str] = set()
        self._has_any = False

    def of(self, record: ByteRecord) -> str:
        """Returns the group's name; "" if the record has none."""
        if self._by is None:
            return ""
        if self._by == self._input:
            self._has_any = True
            return record.source
        meta = json.loads(record.meta) if record.meta else {}
        self._seen.update(meta)
        value = meta.get(self._by)
        self._has_any |= value is not None
        return group_name(value)

    def check(self) -> None:
        """Raises UserError if no record had what was asked for."""
        if self._by is None or self._has_any:
            return
        names = sorted(self._seen)
        kept = f"they have {', '.join(names)}" if names else "none were kept"
        hint = near_names(self._by, [self._input, *names])
        raise UserError(
            f"--by {self._by}: no document has this field ({kept}). Give {self._input!r}, or a "
            f"field that `blt encode --keep-fields` kept.{hint}"
        )


def _find_threshold(sample: _Sample, target: float, options: dict[str, Any]) -> PatchRule:
    """Returns the rule of this mean; raises UserError if no threshold gives it."""
    low, high = _limits(options)
    means = [sample.mean_patch_bytes(_rule(limit, options)) for limit in (low, high)]
    if not means[0] <= target <= means[1]:
        raise UserError(
            f"--target-patch-bytes {target:g}: rule {options['rule']!r} gives means from "
            f"{means[0]:.2f} to {means[1]:.2f} bytes on this text; choose one between them."
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if sample.mean_patch_bytes(_rule(middle, options)) < target:
            low = middle
        else:
            high = middle
    # Two numbers beside each other are left; people read and copy them, so they are short.
    candidates = [_rule(_shorten(threshold), options) for threshold in (low, high)]
    return min(candidates, key=lambda rule: abs(sample.mean_patch_bytes(rule) - target))


def _rule(threshold: float, options: dict[str, Any]) -> PatchRule:
    return PatchRule(threshold_nats=threshold, **options)


def _shorten(threshold: float) -> float:
    return min(round(float(threshold), _THRESHOLD_DECIMALS), MAX_NATS)


def _limits(options: dict[str, Any]) -> tuple[float, float]:
    return (0.0 if options["rule"] == "entropy" else -MAX_NATS), MAX_NATS


def _describe_mean(sample: _Sample, rule: PatchRule, seed: int) -> dict[str, Any]:
    low, high = _bootstrap_interval(sample, rule, seed)
    return {
        "mean_patch_bytes": round(sample.mean_patch_bytes(rule), 4),
        "interval_95_percent": [round(low, 4), round(high, 4)],
    }


def _describe_group(
    name: str,
    group: _Sample,
    target: float,
    common: PatchRule,
    options: dict[str, Any],
    min_bytes: int,
    seed: int,
) -> dict[str, Any]:
    """Says what threshold a group needs, and what it gets at the common one."""
    described: dict[str, Any] = {
        "group": name,
        "documents": group.num_documents,
        "bytes": group.total_bytes,
    }
    if group.total_bytes < min_bytes:
        return {**described, "refused": "too little text"}
    described["mean_at_common_threshold"] = round(group.mean_patch_bytes(common), 4)
    try:
        found = _find_threshold(group, target, options)
    except UserError:
        return {**described, "refused": "the target is out of reach"}
    return {
        **described,
        "threshold_nats": found.threshold_nats,
        **_describe_mean(group, found, seed),
    }


def _bootstrap_interval(sample: _Sample, rule: PatchRule, seed: int) -> tuple[float, float]:
    """The middle 95 % of the mean patch size over documents drawn with replacement."""
    _, document = np.unique(sample.document, return_inverse=True)
    patches = np.bincount(document, weights=sample.count_patches(rule))
    num_bytes = np.bincount(document, weights=sample.num_bytes)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(_BOOTSTRAP_DRAWS):
        drawn = rng.integers(len(patches), size=len(patches))
        means.append(num_bytes[drawn].sum() / max(1.0, patches[drawn].sum()))
    low, high = np.percentile(means, _INTERVAL_PERCENT)
    return float(low), float(high)


def _curve(sample: _Sample, largest: float, options: dict[str, Any]) -> dict[str, list[float]]:
    """Means at evenly spaced thresholds, from where they begin to grow to where they are largest.

    Args:
      sample: of the text.
      largest: the mean at which the curve ends, if it comes so far.
      options: of the rule.
    """
    first, last = _limits(options)
    means = [sample.mean_patch_bytes(_rule(limit, options)) for limit in (first, last)]
    if means[1] > largest > means[0]:
        last = _find_threshold(sample, largest, options).threshold_nats
    if means[1] > 1.02 * means[0]:
        first = _find_threshold(sample, 1.02 * means[0], options).threshold_nats
    thresholds = np.linspace(first, max(first, last), _CURVE_POINTS)
    rounded = [_shorten(threshold) for threshold in thresholds]
    return {
        "threshold_nats": rounded,
        "mean_patch_bytes": [
            round(sample.mean_patch_bytes(_rule(threshold, options)), 4) for threshold in rounded
        ],
    }
