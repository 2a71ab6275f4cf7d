"""Where patches begin.

A document is `BOS x_1 … x_n EOS`. BOS is a patch of its own and x_1 opens one. A later token t (a
byte or EOS) opens one iff the rule says so, of H_t, the entropy (nats) of token t given those
before it, or of the bytes before t. So a boundary never depends on a later byte.

    rule       opens a patch at t iff
    entropy    H_t > threshold                                   (arXiv 2412.09871, section 2.3)
    monotonic  H_t - H_(t-1) > threshold                         (the same, "approximate monotonic")
    combined   H_t > threshold and H_t - H_(t-1) > threshold_add
    static     t - 1 is a multiple of patch_size                 (MegaByte's strides)
    space      byte t-1 is space-like and byte t-2 is not        (SpaceByte, arXiv 2404.14408)
    byte       always

With `reset_on_newline` H_t is what the model says after BOS and what stands before t in its own
line; a newline belongs to the line that it ends.

Space-like is every byte but Latin letters, digits and UTF-8 continuation bytes; the patch after a
run of them begins after its first one. Last, `max_patch_length` cuts longer patches from the left.
A long document comes in parts: the first token of each opens a patch too, and strides begin anew.

With `compat="meta"` the first positions are cut as the published models were trained: `static`
strides begin at BOS; of `monotonic` and `combined`, token 2 always opens a patch, and of `combined`
token 3 never does; of `space`, a run of space-like bytes that follows BOS ends no patch.
"""

import dataclasses
import math

import numpy as np

from blt.errors import UserError, near_names
from blt.tokenizer import BOS_ID, BYTE_OFFSET, VOCAB_SIZE

MAX_NATS = math.log(VOCAB_SIZE)  # the entropy of a uniform prediction
RULES = ("entropy", "monotonic", "combined", "static", "space", "byte")
ENTROPY_RULES = ("entropy", "monotonic", "combined")

# Which options a rule needs; no rule takes another's.
_OPTIONS = {
    "entropy": ("threshold_nats",),
    "monotonic": ("threshold_nats",),
    "combined": ("threshold_nats", "threshold_add_nats"),
    "static": ("patch_size",),
    "space": (),
    "byte": (),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchRule:
    """A rule and its numbers, checked when made.

    Attributes:
      rule: one of `RULES`.
      threshold_nats: of `entropy`, `monotonic` and `combined`.
      threshold_add_nats: of the difference, in `combined`.
      patch_size: tokens in a patch of `static`.
      max_patch_length: tokens; longer patches are cut. None for no limit.
      reset_on_newline: the entropies are those of `blt.engine.LineEngine`, for whoever makes them;
        finding patches by them is no different.
      compat: "meta" for the first positions as the reference implementation has them.
    """

    rule: str = "entropy"
    threshold_nats: float | None = None
    threshold_add_nats: float | None = None
    patch_size: int | None = None
    max_patch_length: int | None = None
    reset_on_newline: bool = False
    compat: str | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(
                f"--rule {self.rule}: not one of {', '.join(RULES)}." + near_names(self.rule, RULES)
            )
        for name in ("threshold_nats", "threshold_add_nats", "patch_size"):
            flag = "--" + name.replace("_", "-")
            if name in _OPTIONS[self.rule] and getattr(self, name) is None:
                raise UserError(f"{flag}: missing; rule {self.rule!r} needs it.")
            if name not in _OPTIONS[self.rule] and getattr(self, name) is not None:
                raise UserError(f"{flag}: rule {self.rule!r} does not use it; leave it out.")
        lowest = 0.0 if self.rule == "entropy" else -MAX_NATS
        for name, low in (("threshold_nats", lowest), ("threshold_add_nats", -MAX_NATS)):
            value = getattr(self, name)
            if value is not None and not low <= value <= MAX_NATS:
                raise UserError(
                    f"--{name.replace('_', '-')} {value}: entropies are in nats, "
                    f"so it must be in [{low:.3f}, {MAX_NATS:.3f}]."
                )
        for name in ("patch_size", "max_patch_length"):
            value = getattr(self, name)
            if value is not None and (value < 1 or value != int(value)):
                raise UserError(
                    f"--{name.replace('_', '-')} {value}: must be a whole number, at least 1."
                )
        if self.compat not in (None, "meta"):
            raise UserError(f"compat {self.compat!r}: 'meta' is the only one.")

    @property
    def needs_entropies(self) -> bool:
        return self.rule in ENTROPY_RULES

    @property
    def first_offset(self) -> int:
        """The token of a document, BOS being 0, at which strides begin."""
        return 1 if self.compat is None else 0

    @property
    def runs_from_special(self) -> bool:
        """Whether a run of space-like bytes may begin with a special id."""
        return self.compat is not None

    @property
    def fixed_offsets(self) -> dict[int, bool]:
        """Says which tokens of a document, BOS being 0, open a patch (or do not) by decree."""
        if self.compat is None:
            return {1: True}
        if self.rule == "static":
            return {}
        return {
            "monotonic": {1: True, 2: True},
            "combined": {1: True, 2: True, 3: False},
        }.get(self.rule, {1: True})


def find_patch_lengths(
    tokens: np.ndarray, entropies: np.ndarray | None, rule: PatchRule
) -> np.ndarray:
    """Cuts a document, or a part of one, into patches.

    Args:
      tokens: [num_tokens] integers.
      entropies: [num_tokens] nats; entry t is about token t. None for rules that need none.
      rule: says where.

    Returns:
      [num_patches] int32, tokens in each patch, all at least 1; their sum is num_tokens.

    >>> rule = PatchRule(threshold_nats=1.5)
    >>> find_patch_lengths(np.array([1, 69, 70, 71, 2]), np.array([0, 3, 1, 2, 0.1]), rule)
    array([1, 2, 2], dtype=int32)
    """
    if not len(tokens):
        return np.empty(0, np.int32)
    starts = np.flatnonzero(_find_patch_starts(np.asarray(tokens), entropies, rule))
    lengths = np.diff(starts, append=len(tokens)).astype(np.int32)
    if rule.max_patch_length is not None:
        lengths = _split_long(lengths, rule.max_patch_length)
    return lengths


def _find_patch_starts(
    tokens: np.ndarray, entropies: np.ndarray | None, rule: PatchRule
) -> np.ndarray:
    """[num_tokens] bool."""
    has_bos = int(tokens[0] == BOS_ID)
    if rule.needs_entropies:
        if entropies is None or len(entropies) != len(tokens):
            raise ValueError(f"rule {rule.rule!r} needs an entropy for each token.")
        starts = _starts_of_entropies(np.asarray(entropies), rule)
    elif rule.rule == "static":
        first = rule.first_offset if has_bos else 0
        starts = (np.arange(len(tokens)) - first) % rule.patch_size == 0
    elif rule.rule == "space":
        starts = _starts_after_spaces(tokens, rule)
    else:
        starts = np.ones(len(tokens), bool)
    starts[0] = True
    if has_bos:
        for offset, opens in rule.fixed_offsets.items():
            starts[offset : offset + 1] = opens
    return starts


def _starts_of_entropies(entropies: np.ndarray, rule: PatchRule) -> np.ndarray:
    rises = np.diff(entropies, prepend=entropies[:1])
    if rule.rule == "monotonic":
        return rises > rule.threshold_nats
    starts = entropies > rule.threshold_nats
    if rule.rule == "combined":
        starts &= rises > rule.threshold_add_nats
    return starts


def _space_like_table() -> np.ndarray:
    """[VOCAB_SIZE] bool: which ids are space-like bytes."""
    space_like = np.ones(256, bool)
    for first, last in (b"09", b"AZ", b"az", (0x80, 0xBF)):
        space_like[first : last + 1] = False
    return np.concatenate([np.zeros(BYTE_OFFSET, bool), space_like])


SPACE_LIKE = _space_like_table()  # by id


def _starts_after_spaces(tokens: np.ndarray, rule: PatchRule) -> np.ndarray:
    is_special = tokens < BYTE_OFFSET
    ends = SPACE_LIKE[tokens]
    in_run = ends | is_special if rule.runs_from_special else ends
    ends = ends & ~np.append(False, in_run[:-1]) | is_special
    return np.concatenate([[True], ends[:-1]])


def _split_long(lengths: np.ndarray, most: int) -> np.ndarray:
    """Cuts each length over `most` into `most, most, …, rest`."""
    pieces = -(-lengths // most)
    split = np.full(pieces.sum(), most, np.int32)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * most
    return split


def count_byte_patches(tokens: np.ndarray, patch_lengths: np.ndarray) -> int:
    """Counts the patches that hold a byte of the document.

    The mean patch size, wherever it is stated, is the number of a text's bytes divided by this
    number: patches of BOS or EOS alone are not counted.
    """
    if not len(patch_lengths):
        return 0
    starts = np.cumsum(patch_lengths) - patch_lengths
    is_byte = np.asarray(tokens) >= BYTE_OFFSET
    return int(np.count_nonzero(np.logical_or.reduceat(is_byte, starts)))
