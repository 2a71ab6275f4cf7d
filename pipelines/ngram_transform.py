"""The sum of the n-gram counts of shards."""

from collections.abc import Iterable

import apache_beam as beam

from blt.ngram.counting import GramCounts, merge_counts

# What a shard gave: its counts, or None and why there are none.
_Counted = tuple[GramCounts | None, str]
# What is added up so far, what still has to be added to it, and the failures.
_Sum = tuple[list[GramCounts], list[str]]


class AddUpCounts(beam.PTransform):
    """Counts of shards in; (their sum, the failures, sorted) out.

    Sums are the same in whatever order they are made.
    """

    def expand(
        self, counted: beam.PCollection[_Counted]
    ) -> beam.PCollection[tuple[GramCounts, list[str]]]:
        return counted | beam.CombineGlobally(SumCounts())


class SumCounts(beam.CombineFn):
    def create_accumulator(self) -> _Sum:
        return [], []

    def add_input(self, accumulator: _Sum, counted: _Counted) -> _Sum:
        counts, failure = counted
        parts, failures = accumulator
        if counts is None:
            return parts, [*failures, failure]
        return _shorten([*parts, counts]), failures

    def merge_accumulators(self, accumulators: Iterable[_Sum]) -> _Sum:
        parts: list[GramCounts] = []
        failures: list[str] = []
        for more, more_failures in accumulators:
            parts = _shorten([*parts, *more])
            failures = [*failures, *more_failures]
        return parts, failures

    def compact(self, accumulator: _Sum) -> _Sum:
        parts, failures = accumulator
        return [merge_counts(parts)], failures

    def extract_output(self, accumulator: _Sum) -> tuple[GramCounts, list[str]]:
        parts, failures = accumulator
        return merge_counts(parts), sorted(failures)


def _shorten(parts: list[GramCounts]) -> list[GramCounts]:
    """Adds up once what waits is as large as what is added up, so that a sum costs n log n."""
    if parts and sum(len(part.grams) for part in parts[1:]) >= len(parts[0].grams):
        return [merge_counts(parts)]
    return parts
