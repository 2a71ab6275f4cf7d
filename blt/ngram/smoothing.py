"""From counts to probabilities and entropies: interpolated Kneser-Ney smoothing, three discounts.

Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998). With
c a context, c' the same without its oldest id, and n the counts of the longest grams but, for
shorter ones, the number of different ids seen before them:

    p(v | c) = (n(c v) - D(n(c v))) / n(c) + lambda(c) p(v | c')
    p(v | no context at all) = 1 / 260

D has one value for counts of 1, of 2 and of more, found from the counts of each length. lambda(c)
is what makes the sum over all ids 1, also where grams were left out.

The entropy of a context follows from that of the shorter one by a sum over the ids seen after it
alone. With P = p(v | c), Q = p(v | c'), L = lambda(c), H' the entropy of c', sums over ids seen:

    H(c) = - sum P ln P - L ln L (1 - sum Q) + L (H' + sum Q ln Q)
"""

import dataclasses

import numpy as np

from blt.ngram.counting import GramCounts, sum_by_gram
from blt.ngram.grams import contexts_of, last_ids, newest_ids, oldest_ids
from blt.tokenizer import BOS_ID, PAD_ID, VOCAB_SIZE

FREE_LENGTH = 2  # grams up to this length have a place in any case, and are never left out
_MIN_DISCOUNT = 0.05

Counted = tuple[np.ndarray, np.ndarray]  # grams, sorted, and how often each was seen


@dataclasses.dataclass
class Level:
    """All grams of one length, float64.

    Attributes:
      grams: [n] uint64, sorted.
      log_probability: [n], ln p(newest id | the others).
      log_share: [n], the same less `log_backoff` of the others: to be added to the `log_backoff`
        of the longest context that is known, it gives ln p wherever this is the longest gram known.
      log_backoff: [n], of the gram as a context: the sum of ln lambda over it and all its suffixes,
        the empty one included.
      entropy: [n], of the id after it, nats.
    """

    grams: np.ndarray
    log_probability: np.ndarray
    log_share: np.ndarray
    log_backoff: np.ndarray
    entropy: np.ndarray


def count_lengths(counts: GramCounts, order: int) -> list[Counted]:
    """Returns the grams of 1, 2, … order + 1 ids and how often each was seen.

    Args:
      counts: of grams of order + 1 ids.
      order: ids of context.
    """
    return [_count_length(counts, length) for length in range(1, order + 2)]


def smooth(counted: list[Counted], min_count: int) -> list[Level]:
    """Returns the levels of a model: index k holds the grams of k ids, index 0 the empty gram.

    Args:
      counted: what `count_lengths` gave.
      min_count: grams of more than `FREE_LENGTH` ids that were seen less often are left out.
    """
    uniform = -np.log(VOCAB_SIZE)
    zero = np.zeros(1)
    levels = [Level(zero.astype(np.uint64), zero + uniform, zero + uniform, zero, zero - uniform)]
    for length, (grams, seen) in enumerate(counted, 1):
        weights = seen
        if length < len(counted):
            weights = _count_ids_before(grams, seen, counted[length][0], length)
        keep = seen >= (min_count if length > FREE_LENGTH else 1)
        if length == 1:  # every id has a place; those that were not seen have weight 0
            all_weights = np.zeros(VOCAB_SIZE, np.int64)
            all_weights[newest_ids(grams)] = weights
            grams, weights = np.arange(VOCAB_SIZE, dtype=np.uint64), all_weights
            keep = np.ones(VOCAB_SIZE, bool)
        levels.append(_next_level(levels[-1], grams, weights, keep, length))
    return levels


def min_count_that_fits(counted: list[Counted], min_count: int, max_grams: int) -> int:
    """Returns the least `min_count`, not below the given one, that keeps at most `max_grams`.

    Grams of up to `FREE_LENGTH` ids are not among them.
    """
    seen = np.sort(np.concatenate([seen for _, seen in counted[FREE_LENGTH:]] or [np.zeros(0)]))
    if len(seen) <= max_grams:
        return min_count
    return max(min_count, int(seen[len(seen) - max_grams - 1]) + 1)


def _count_length(counts: GramCounts, length: int) -> Counted:
    """Grams of `length` ids and how often each was seen."""
    whole = oldest_ids(counts.grams, length) != PAD_ID
    return sum_by_gram(last_ids(counts.grams[whole], length), counts.counts[whole])


def _count_ids_before(
    grams: np.ndarray, seen: np.ndarray, longer: np.ndarray, length: int
) -> np.ndarray:
    """The number of different ids before each gram; where BOS opens it, how often it was seen."""
    weights = np.where(oldest_ids(grams, length) == BOS_ID, seen, 0)
    suffixes = np.searchsorted(grams, last_ids(longer, length))
    return weights + np.bincount(suffixes, minlength=len(grams))


def _discounts(weights: np.ndarray) -> np.ndarray:
    """[4]: what is taken from counts of 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (float(np.count_nonzero(weights == i)) for i in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2) if n1 else 0.5
    following = ((1, n1, n2), (2, n2, n3), (3, n3, n4))
    found = [i - (i + 1) * y * more / n if n else i / 2 for i, n, more in following]
    return np.array([0.0, *(np.clip(d, _MIN_DISCOUNT, i) for i, d in enumerate(found, 1))])


def _next_level(
    shorter: Level, grams: np.ndarray, weights: np.ndarray, keep: np.ndarray, length: int
) -> Level:
    """Returns the level of `length` ids, and sets what `shorter` says of its grams as contexts."""
    num_contexts = len(shorter.grams)
    if not num_contexts:  # all were left out, and so is what contains them
        return Level(*(np.zeros(0, array.dtype) for array in dataclasses.astuple(shorter)))
    context = np.searchsorted(shorter.grams, contexts_of(grams))
    context = np.minimum(context, num_contexts - 1)
    known = shorter.grams[context] == contexts_of(grams)  # else the context was left out
    totals = np.bincount(context[known], weights[known], num_contexts)
    seen = (weights - _discounts(weights)[np.minimum(weights, 3)]) / np.maximum(totals[context], 1)
    keep = keep & known
    grams, context, seen = grams[keep], context[keep], seen[keep]

    backoff = 1.0 - np.bincount(context, seen, num_contexts)
    suffix = np.searchsorted(shorter.grams, last_ids(grams, length - 1))
    log_before = shorter.log_probability[suffix]
    before = np.exp(log_before)
    probability = seen + backoff[context] * before
    log_probability = np.log(probability)
    log_share = log_probability - shorter.log_backoff[context] - np.log(backoff[context])

    def sum_seen(values: np.ndarray) -> np.ndarray:
        return np.bincount(context, values, num_contexts)

    shorter.entropy = (
        -sum_seen(probability * log_probability)
        - backoff * np.log(backoff) * (1.0 - sum_seen(before))
        + backoff * (shorter.entropy + sum_seen(before * log_before))
    )
    shorter.log_backoff = shorter.log_backoff + np.log(backoff)
    # As contexts the new grams say what their suffixes do, until longer grams say more.
    return Level(
        grams, log_probability, log_share, shorter.log_backoff[suffix], shorter.entropy[suffix]
    )
