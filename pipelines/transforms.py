"""The transforms that all stages share."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
from apache_beam.metrics import Metrics

from blt.dataset.finishing import finish
from blt.dataset.plan_file import read_plan
from blt.dataset.stage import Stage
from blt.dataset.units import Unit
from blt.dataset.working import planned_unit, work_on
from blt.errors import BltError
from pipelines.progress import report_progress

# Metrics: what the units gave, as in the manifest's totals, and what doing them cost this time.
COUNTS_NAMESPACE = "blt"
MEASURED_NAMESPACE = "blt.engine"
_RANGE_UNITS = 256


class WorkOnUnits(beam.PTransform):
    """Numbers of units in; of each that was done, its number out.

    Args:
      stage: what to do with a unit.
      resource_hints: Beam's hints for the workers that this step needs, and no other does.
    """

    def __init__(self, stage: Stage, resource_hints: Mapping[str, str | int] | None = None) -> None:
        super().__init__()
        self._stage = stage
        self._hints = dict(resource_hints or {})

    def expand(self, units: beam.PCollection[int]) -> beam.PCollection[int]:
        work = beam.ParDo(_WorkOnUnit(self._stage)).with_output_types(int)
        if self._hints:
            work = work.with_resource_hints(**self._hints)
        return units | work


class _WorkOnUnit(beam.DoFn):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def process(self, index: int) -> Iterator[int]:
        yield from work_on_unit(self._stage, planned_unit(self._stage, index))


class PlannedUnits(beam.PTransform):
    """Makes the numbers of units, in the order given, spread over the workers.

    The job holds ranges of numbers alone: what a unit is stands in the plan, where it is worked on.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        super().__init__()
        self._ranges = index_ranges(indices)

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[int]:
        return (
            pipeline
            | "Ranges" >> beam.Create(self._ranges)
            | "SpreadRanges" >> beam.Reshuffle()
            | "Numbers" >> beam.FlatMap(_numbers).with_output_types(int)
            | "SpreadUnits" >> beam.Reshuffle()
        )


def _numbers(bounds: tuple[int, int]) -> Iterable[int]:
    return range(*bounds)


def index_ranges(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Returns (start, end) ranges of numbers in a given order, of `_RANGE_UNITS` at most."""
    ranges: list[tuple[int, int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index and index - ranges[-1][0] < _RANGE_UNITS:
            ranges[-1] = ranges[-1][0], index + 1
        else:
            ranges.append((index, index + 1))
    return ranges


class WaitFor(beam.PTransform):
    """Numbers of units in, and out once a step before them has ended.

    Args:
      count: of what the step did, one number.
    """

    def __init__(self, count: beam.PCollection[int]) -> None:
        super().__init__()
        self._count = count

    def expand(self, units: beam.PCollection[int]) -> beam.PCollection[int]:
        return units | beam.Map(_first, beam.pvalue.AsSingleton(self._count)).with_output_types(int)


def _first(index: int, count: int) -> int:
    return index


def work_on_unit(stage: Stage, unit: Unit) -> Iterator[int]:
    """Does a unit, counts what it gave in Beam's metrics, and yields its number if it was done."""
    result = work_on(stage, unit, lambda n: report_progress(unit, n))
    if result is None:
        Metrics.counter(COUNTS_NAMESPACE, "failed_units").inc()
        return
    for name, count in result.counts.items():
        Metrics.counter(COUNTS_NAMESPACE, name).inc(count)
    for name, count in result.measured.items():
        Metrics.counter(MEASURED_NAMESPACE, name).inc(count)
    yield unit.index


class FinishStage(beam.PTransform):
    """Waits for all units, then writes the manifest if every unit is there.

    It is part of the pipeline, so that a job whose launcher has gone is finished all the same.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def expand(self, indices: beam.PCollection[int]) -> beam.PCollection[int]:
        count = indices | "CountUnits" >> beam.combiners.Count.Globally()
        return count | "WriteManifest" >> beam.ParDo(_Finish(self._stage)).with_output_types(int)


class _Finish(beam.DoFn):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def process(self, num_units: int) -> Iterator[int]:
        # A launcher that is still there asks `finish` again, and shows why it will not do.
        with contextlib.suppress(BltError):
            finish(self._stage, read_plan(self._stage.output))
        yield num_units
