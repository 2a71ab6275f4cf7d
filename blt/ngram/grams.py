"""Grams: up to seven token ids packed into 64 bits, the newest in the lowest nine.

    gram (a, b, c)   a << 18 | b << 9 | c

So the last k ids of a gram are its low 9 k bits, its context (all but the newest id) is the gram
shifted right, and sorted grams lie together by context. PAD stands for what is before a document:
no document holds it, and a gram whose oldest id is PAD is a shorter gram.
"""

import numpy as np

from blt.tokenizer import PAD_ID, VOCAB_SIZE

ID_BITS = 9
MAX_LENGTH = 64 // ID_BITS
MAX_ORDER = MAX_LENGTH - 1

assert PAD_ID == 0 and VOCAB_SIZE <= 1 << ID_BITS


def pack_grams(tokens: np.ndarray, length: int) -> np.ndarray:
    """[num_tokens] -> [num_tokens] uint64: for each token, the gram of `length` ids it ends.

    What lies before the first token counts as PAD.
    """
    newest = tokens.astype(np.uint64)
    grams = newest.copy()
    for back in range(1, min(length, len(tokens))):
        grams[back:] |= newest[:-back] << np.uint64(ID_BITS * back)
    return grams


def append_ids(grams: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns the grams with an id each behind them, which may be longer by one."""
    return grams << np.uint64(ID_BITS) | ids.astype(np.uint64)


def last_ids(grams: np.ndarray, length: int) -> np.ndarray:
    """Returns the grams' last `length` ids, as grams."""
    return grams & np.uint64((1 << ID_BITS * length) - 1)


def contexts_of(grams: np.ndarray) -> np.ndarray:
    """Returns the grams without their newest ids."""
    return grams >> np.uint64(ID_BITS)


def newest_ids(grams: np.ndarray) -> np.ndarray:
    """Returns the grams' newest ids, int64."""
    return last_ids(grams, 1).astype(np.int64)


def oldest_ids(grams: np.ndarray, length: int) -> np.ndarray:
    """Returns the oldest of the grams' last `length` ids, int64."""
    return last_ids(grams >> np.uint64(ID_BITS * (length - 1)), 1).astype(np.int64)
