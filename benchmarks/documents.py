"""Documents to measure with: pieces of real text, as long as those of the web."""

import numpy as np

MEDIAN_BYTES = 600
_SPREAD = 1.79  # of the logarithm; makes the mean about 3 KB
_MAX_BYTES = 200_000


def cut_documents(text: bytes, count: int, *, seed: int = 0) -> list[bytes]:
    """Returns pieces from random places of a text, their lengths log-normal."""
    rng = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        length = rng.lognormal(np.log(MEDIAN_BYTES), _SPREAD)
        length = int(np.clip(length, 1, min(len(text), _MAX_BYTES)))
        start = rng.integers(len(text) - length + 1)
        documents.append(text[start : start + length])
    return documents


def sample_by_length(documents: list[bytes], step: int) -> list[bytes]:
    """Returns one of every `step` documents, of all lengths alike, in the order they came."""
    by_length = sorted(range(len(documents)), key=lambda i: (len(documents[i]), i))
    return [documents[i] for i in sorted(by_length[step // 2 :: step])]
