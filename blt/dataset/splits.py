"""Which documents are held out: one rule for every stage, by the document's id alone."""

import hashlib

DEFAULT_VALID_FRACTION = 0.1
DEFAULT_SEED = 0
SPLIT_CHOICES = ("all", "valid", "train")  # held-out documents are "valid"
_RANGE = 2**64


def seeded_hash(seed: int, *parts: str | int) -> int:
    """Returns a number in [0, 2**64) that depends on nothing but `seed` and `parts`.

    Each part is prefixed with its length, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *parts):
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")


def is_held_out(
    doc_id: str, *, fraction: float = DEFAULT_VALID_FRACTION, seed: int = DEFAULT_SEED
) -> bool:
    """Tells whether a document belongs to the held-out (valid) split.

    The entropy model, the BLT and the scores of one run must use the same `fraction` and `seed`,
    or a model would be judged on what it was trained on.
    """
    return seeded_hash(seed, "split", doc_id) < fraction * _RANGE


def is_in_split(doc_id: str, split: str, *, fraction: float, seed: int) -> bool:
    """Tells whether a document belongs to `split`, one of `SPLIT_CHOICES`."""
    return split == "all" or (split == "valid") == is_held_out(doc_id, fraction=fraction, seed=seed)
