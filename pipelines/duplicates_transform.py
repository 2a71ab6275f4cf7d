"""Units whose duplicates must be known first; see `blt.corpus.admission.duplicates` for the steps.

    all units -> scan -> (sort -> resolve each range) for bytes, then for ids -> work on pending

Only unit numbers travel; digests lie in files of the output folder.
"""

from collections.abc import Iterator, Sequence

import apache_beam as beam

from blt.cli.console import Phase
from blt.corpus.admission.duplicates import (
    duplicate_kinds,
    is_resolved,
    is_scanned,
    remove_found,
    resolve_partition,
    scan_unit,
    sort_unit,
    start_partitions,
)
from blt.corpus.config import EncodeConfig
from blt.dataset.stage import Stage
from blt.dataset.storage import Place
from blt.dataset.units import Unit
from blt.dataset.working import planned_unit
from pipelines.progress import count_done, report_progress
from pipelines.transforms import PlannedUnits, WaitFor, WorkOnUnits

_SCAN = "scan"  # as a step of `report_progress`


def start_search(stage: Stage, units: Sequence[Unit], config: EncodeConfig) -> list[Phase]:
    """Removes what a killed run found, and returns what is to be seen of the search.

    Units that the killed run had read are not read again, and not counted.
    """
    output, kinds = stage.output, duplicate_kinds(config)
    remove_found(output, but_current=True)
    left = [unit for unit in units if not is_scanned(unit, output)]
    scanned = count_done(left, lambda: {u.index for u in left if is_scanned(u, output)}, _SCAN)
    return [
        Phase("looking for duplicates", scanned, sum(unit.num_bytes for unit in left)),
        Phase(
            "comparing documents",
            lambda: sum(is_resolved(kind, output) for kind in kinds),
            len(kinds),
            "round",
        ),
    ]


class FindDuplicatesAndWork(beam.PTransform):
    """Numbers of pending units in; of each that was done, its number out.

    Args:
      stage: what to do with a unit.
      num_units: of the plan, not only the pending ones.
      config: says which duplicates to look for; some must be asked for.
    """

    def __init__(self, stage: Stage, num_units: int, config: EncodeConfig) -> None:
        super().__init__()
        self._stage, self._config, self._num_units = stage, config, num_units

    def expand(self, pending: beam.PCollection[int]) -> beam.PCollection[int]:
        output, config = self._stage.output, self._config
        all_units = pending.pipeline | "AllUnits" >> PlannedUnits(range(self._num_units))
        done = (
            all_units
            | "ScanUnits" >> beam.Map(_scan, config, self._stage).with_output_types(int)
            | "WhenScanned" >> beam.combiners.Count.Globally()
        )
        for kind in duplicate_kinds(config):
            done = (
                all_units
                | f"Sort {kind}"
                >> beam.Map(
                    _sort, kind, config, output, beam.pvalue.AsSingleton(done)
                ).with_output_types(int)
                | f"CountKeys {kind}" >> beam.CombineGlobally(sum)
                | f"Partition {kind}"
                >> beam.FlatMap(_partition, kind, output).with_output_types(tuple[int, int])
                | f"SpreadPartitions {kind}" >> beam.Reshuffle()
                | f"Resolve {kind}" >> beam.Map(_resolve, kind, output).with_output_types(int)
                | f"WhenResolved {kind}" >> beam.combiners.Count.Globally()
            )
        return (
            pending
            | "WaitForDuplicates" >> WaitFor(done)
            | "WorkOnUnits" >> WorkOnUnits(self._stage)
        )


def _scan(index: int, config: EncodeConfig, stage: Stage) -> int:
    unit = planned_unit(stage, index)
    return scan_unit(unit, config, stage.output, lambda n: report_progress(unit, n, _SCAN))


def _sort(index: int, kind: str, config: EncodeConfig, output: Place, scanned: int) -> int:
    return sort_unit(index, kind, config, output)


def _partition(num_keys: int, kind: str, output: Place) -> Iterator[tuple[int, int]]:
    num_partitions = start_partitions(num_keys, kind, output)
    for index in range(num_partitions):
        yield index, num_partitions


def _resolve(partition: tuple[int, int], kind: str, output: Place) -> int:
    return resolve_partition(*partition, kind, output)
