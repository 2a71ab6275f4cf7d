"""Percentiles of any number of figures, in bounded memory."""

import numpy as np

EXACT_FIGURES = 1_000_000  # so many are held as they are, 8 MB of them
BIN_BITS = 0.001
MAX_BITS = 256.0  # the last bin takes all above


class Percentiles:
    """The percentiles of figures in bits per byte, which are added in any order.

    Up to `EXACT_FIGURES` of them the percentiles are exact. Beyond, the figures are counted in bins
    of `BIN_BITS`, and a percentile is the middle of the bin of the figure with its rank.
    """

    def __init__(self, exact_figures: int = EXACT_FIGURES) -> None:
        self._exact_figures = exact_figures
        self._figures: list[np.ndarray] = []
        self._num_figures = 0
        self._bins: np.ndarray | None = None

    def add(self, figures: np.ndarray) -> None:
        """Adds figures, [num_figures] float64, none of them NaN or negative."""
        self._num_figures += len(figures)
        self._figures.append(figures)
        if self._bins is None and self._num_figures > self._exact_figures:
            self._bins = np.zeros(round(MAX_BITS / BIN_BITS) + 1, np.int64)
        if self._bins is not None:
            values = np.concatenate(self._figures)
            numbers = np.minimum(values / BIN_BITS, len(self._bins) - 1).astype(np.int64)
            self._bins += np.bincount(numbers, minlength=len(self._bins))
            self._figures = []

    @property
    def error_bits(self) -> float:
        """How far the percentiles may be off (below `MAX_BITS`); 0.0 where they are exact."""
        return 0.0 if self._bins is None else BIN_BITS / 2

    def of(self, *percents: float) -> list[float]:
        """Returns the percentiles; [] where there are no figures."""
        if not self._num_figures:
            return []
        if self._bins is None:
            return [
                float(value) for value in np.percentile(np.concatenate(self._figures), percents)
            ]
        until = np.cumsum(self._bins)
        ranks = [round(percent / 100 * (self._num_figures - 1)) for percent in percents]
        return [
            float((np.searchsorted(until, rank, side="right") + 0.5) * BIN_BITS) for rank in ranks
        ]
