"""Where patches begin.

A document is `BOS x_1 … x_n EOS`. BOS is a patch of its own and x_1 opens one. A later token t (a
byte or EOS) opens one iff the rule says so, of H_t, the entropy (nats) of token t given those
before it, or of the bytes before t. So a boundary never depends on a later byte; `snap_utf8`,
below, is the one exception.

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

With `snap_utf8`, what would begin inside a UTF-8 character begins at the character's first byte
instead. Such patches are not incremental: whether one begins at t then depends on tokens up to
t + 3 (on their entropies, and on whether they make up a character), so a model that goes from byte
to byte cannot cut them, and `Patcher` refuses. `max_patch_length` comes after it and may cut
characters. What is no UTF-8, or a character that the end of a part cuts, stays as the rule has it.

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
# What `count_boundaries_inside_characters` counts, by name in totals and in metadata.
INSIDE_CHARACTERS = "boundaries_inside_characters"

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
      snap_utf8: move what begins inside a UTF-8 character to its first byte.
      compat: "meta" for the first positions as the reference implementation has them.
    """

    rule: str = "entropy"
    threshold_nats: float | None = None
    threshold_add_nats: float | None = None
    patch_size: int | None = None
    max_patch_length: int | None = None
    reset_on_newline: bool = False
    snap_utf8: bool = False
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
    def needs_bytes(self) -> bool:
        """Whether boundaries depend on what the bytes are, besides their entropies and number."""
        return self.rule == "space" or self.snap_utf8

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


def describe_rule(rule: PatchRule) -> dict[str, str]:
    """Returns a rule as strings, for a schema's metadata; numbers as `repr` writes them."""
    described = {
        name: value if isinstance(value, str) else repr(value)
        for name, value in dataclasses.asdict(rule).items()
        if value is not None and value is not False
    }
    return {**described, "entropy_unit": "nats"}


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
    return find_patches(tokens, np.array([len(tokens)]), entropies, rule)[0]


def find_patches(
    tokens: np.ndarray, num_tokens: np.ndarray, entropies: np.ndarray | None, rule: PatchRule
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts documents, or parts of them, that lie one after the other, each as if it were alone.

    Args:
      tokens: [total_tokens] integers. If the rule does not `needs_bytes`, any byte may stand for
        another; BOS and EOS must be there.
      num_tokens: [num_parts] tokens in each part.
      entropies: [total_tokens] nats; None for rules that need none.
      rule: says where.

    Returns:
      [total_patches] int32, tokens in each patch, and [num_parts] int64, patches in each part.
    """
    tokens = np.asarray(tokens)
    if not len(tokens):
        return np.empty(0, np.int32), np.zeros(len(num_tokens), np.int64)
    ends = np.cumsum(num_tokens)
    starts = np.flatnonzero(_find_patch_starts(tokens, ends, entropies, rule))
    lengths = np.diff(starts, append=len(tokens)).astype(np.int32)
    patch_ends = np.searchsorted(starts, ends)
    if rule.max_patch_length is not None:
        pieces = -(-lengths // rule.max_patch_length)
        patch_ends = np.append(0, np.cumsum(pieces))[patch_ends]
        lengths = _split_long(lengths, pieces, rule.max_patch_length)
    return lengths, np.diff(patch_ends, prepend=0)


def _find_patch_starts(
    tokens: np.ndarray, ends: np.ndarray, entropies: np.ndarray | None, rule: PatchRule
) -> np.ndarray:
    """[total_tokens] bool, before long patches are cut; `ends` are those of the parts."""
    num_tokens = np.diff(ends, prepend=0)
    firsts, lasts = (ends - num_tokens)[num_tokens > 0], ends[num_tokens > 0]
    has_bos = tokens[firsts] == BOS_ID
    if rule.needs_entropies:
        if entropies is None or len(entropies) != len(tokens):
            raise ValueError(f"rule {rule.rule!r} needs an entropy for each token.")
        starts = _starts_of_entropies(np.asarray(entropies), rule)
    elif rule.rule == "static":
        begins = firsts + has_bos * rule.first_offset
        places = np.arange(len(tokens), dtype=np.int32)
        places -= np.repeat(begins.astype(np.int32), lasts - firsts)
        starts = places % rule.patch_size == 0
    elif rule.rule == "space":
        starts = _starts_after_spaces(tokens, firsts, rule)
    else:
        starts = np.ones(len(tokens), bool)
    starts[firsts] = True
    for offset, opens in rule.fixed_offsets.items():
        places = firsts[has_bos] + offset
        starts[places[places < lasts[has_bos]]] = opens
    if rule.snap_utf8:
        places, heads = _places_inside_characters(tokens, ends)
        moved = starts[places]
        starts[places[moved]] = False
        starts[heads[moved]] = True
    return starts


def _starts_of_entropies(entropies: np.ndarray, rule: PatchRule) -> np.ndarray:
    if rule.rule == "entropy":
        return entropies > rule.threshold_nats
    rises = np.diff(entropies, prepend=entropies[:1])
    if rule.rule == "monotonic":
        return rises > rule.threshold_nats
    return (entropies > rule.threshold_nats) & (rises > rule.threshold_add_nats)


def _space_like_table() -> np.ndarray:
    """[VOCAB_SIZE] bool: which ids are space-like bytes."""
    space_like = np.ones(256, bool)
    for first, last in (b"09", b"AZ", b"az", (0x80, 0xBF)):
        space_like[first : last + 1] = False
    return np.concatenate([np.zeros(BYTE_OFFSET, bool), space_like])


SPACE_LIKE = _space_like_table()  # by id


def _starts_after_spaces(tokens: np.ndarray, firsts: np.ndarray, rule: PatchRule) -> np.ndarray:
    is_special = tokens < BYTE_OFFSET
    ends = SPACE_LIKE[tokens]
    goes_on = np.roll(ends | is_special if rule.runs_from_special else ends, 1)
    goes_on[firsts] = False
    return np.roll(ends & ~goes_on | is_special, 1)


def _split_long(lengths: np.ndarray, pieces: np.ndarray, most: int) -> np.ndarray:
    """Cuts each length into so many pieces: `most, most, …, rest`."""
    split = np.full(pieces.sum(), most, np.int32)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * most
    return split


def _character_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By id, for the first bytes of UTF-8 characters: bytes to follow, limits of the first of them.

    [VOCAB_SIZE] uint8 each; 0 bytes follow what begins no character, or one of a single byte.
    The limits are ids. (RFC 3629, section 4.)
    """
    following, lowest, highest = np.zeros((3, VOCAB_SIZE), np.uint8)
    for first, last, number, low, high in (
        (0xC2, 0xDF, 1, 0x80, 0xBF),
        (0xE0, 0xE0, 2, 0xA0, 0xBF),
        (0xE1, 0xEC, 2, 0x80, 0xBF),
        (0xED, 0xED, 2, 0x80, 0x9F),
        (0xEE, 0xEF, 2, 0x80, 0xBF),
        (0xF0, 0xF0, 3, 0x90, 0xBF),
        (0xF1, 0xF3, 3, 0x80, 0xBF),
        (0xF4, 0xF4, 3, 0x80, 0x8F),
    ):
        ids = slice(first + BYTE_OFFSET, last + BYTE_OFFSET + 1)
        following[ids], lowest[ids], highest[ids] = number, low + BYTE_OFFSET, high + BYTE_OFFSET
    return following, lowest, highest


_FOLLOWING, _LOWEST, _HIGHEST = _character_tables()
_CONTINUATION = (0x80 + BYTE_OFFSET, 0xBF + BYTE_OFFSET)  # ids, both included


def _places_inside_characters(
    tokens: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the bytes of UTF-8 characters but their first ones.

    Args:
      tokens: [total_tokens] integers.
      ends: [num_parts] where the parts end; characters do not go on from one to the next.

    Returns:
      Their places, in no order, and the place where each one's character begins, both [num] int64.
    """
    heads = np.flatnonzero(tokens >= 0xC2 + BYTE_OFFSET)
    following = _FOLLOWING[tokens[heads]]
    is_whole = heads + following < ends[np.searchsorted(ends, heads, side="right")]
    heads, following = heads[is_whole & (following > 0)], following[is_whole & (following > 0)]
    head_ids, second_ids = tokens[heads], tokens[heads + 1]
    is_valid = (_LOWEST[head_ids] <= second_ids) & (second_ids <= _HIGHEST[head_ids])
    for step in (2, 3):
        reaches = np.flatnonzero(following >= step)
        ids = tokens[heads[reaches] + step]
        is_valid[reaches] &= (_CONTINUATION[0] <= ids) & (ids <= _CONTINUATION[1])
    heads, following = heads[is_valid], following[is_valid]
    by_step = [heads[following >= step] for step in (1, 2, 3)]
    places = [step_heads + step for step, step_heads in enumerate(by_step, 1)]
    return np.concatenate(places), np.concatenate(by_step)


def count_boundaries_inside_characters(
    tokens: np.ndarray, num_tokens: np.ndarray, patch_lengths: np.ndarray
) -> int:
    """Counts the patches that begin inside a valid UTF-8 character.

    Args:
      tokens, num_tokens: as in `find_patches`. A character that the end of a part cuts is none.
      patch_lengths: [total_patches] tokens in each patch.
    """
    places, _ = _places_inside_characters(np.asarray(tokens), np.cumsum(num_tokens))
    if not len(places):
        return 0
    starts = np.zeros(len(tokens), bool)
    starts[np.cumsum(patch_lengths) - patch_lengths] = True
    return int(np.count_nonzero(starts[places]))


def count_byte_patches(tokens: np.ndarray, patch_lengths: np.ndarray) -> int:
    """Counts the patches that hold a byte of the document, or of several that follow one another.

    The mean patch size, wherever it is stated, is the number of a text's bytes divided by this
    number: patches of BOS or EOS alone are not counted.
    """
    specials = np.flatnonzero(np.asarray(tokens) < BYTE_OFFSET)  # few, unlike bytes
    patches = np.searchsorted(np.cumsum(patch_lengths), specials, side="right")
    patches, num_specials = np.unique(patches, return_counts=True)
    return len(patch_lengths) - int(np.count_nonzero(num_specials == patch_lengths[patches]))
