"""The global shuffle of `pack`: groups of shards are dealt into buckets, then buckets are packed.

    all groups -> deal -> when all are dealt -> pending buckets -> pack

Only numbers travel; documents lie in files of the output folder (see `blt.training_data.dealing`).
Unit i is bucket i, and its payload names the shards of group i too, if there are as many groups.
"""

import functools
from collections.abc import Sequence

import apache_beam as beam

from blt.cli.console import Phase
from blt.dataset.several import NumberedShard
from blt.dataset.stage import Stage
from blt.dataset.storage import noted_publications
from blt.dataset.units import Unit
from blt.dataset.working import check_current, planned_unit
from blt.errors import UserError
from blt.training_data.dealing import Dealing, deal_group
from pipelines.progress import count_done, report_progress
from pipelines.transforms import PlannedUnits, WaitFor, WorkOnUnits

_DEAL = "deal"  # as a step of `report_progress`


def start_dealing(stage: Stage, dealing: Dealing, sizes: Sequence[int]) -> list[Phase]:
    """Returns what is to be seen of the dealing.

    Args:
      stage: of the packing.
      dealing: how the documents are dealt.
      sizes: the bytes of each group.
    """
    dealt = dealing.groups_there(stage.output)
    left = [_group_unit(i, size) for i, size in enumerate(sizes) if i not in dealt]
    done = count_done(left, lambda: dealing.groups_there(stage.output), _DEAL)
    return [Phase("dealing documents", done, sum(group.num_bytes for group in left))]


class DealAndPack(beam.PTransform):
    """Numbers of pending units, which are buckets, in; of each that was packed, its number out.

    Args:
      stage: of the packing.
      dealing: how the documents are dealt.
    """

    def __init__(self, stage: Stage, dealing: Dealing) -> None:
        super().__init__()
        self._stage, self._dealing = stage, dealing

    def expand(self, pending: beam.PCollection[int]) -> beam.PCollection[int]:
        dealt = (
            pending.pipeline
            | "AllGroups" >> PlannedUnits(range(self._dealing.num_groups))
            | "DealGroups" >> beam.Map(_deal, self._stage, self._dealing).with_output_types(int)
            | "WhenDealt" >> beam.combiners.Count.Globally()
        )
        return (
            pending | "WaitForDealt" >> WaitFor(dealt) | "WorkOnUnits" >> WorkOnUnits(self._stage)
        )


def _deal(group: int, stage: Stage, dealing: Dealing) -> int:
    payload = planned_unit(stage, group).payload
    place = dealing.file(stage.output, group)
    if not place.is_file():
        if "pairs" not in payload:
            raise UserError(
                f"--output {stage.output}: was begun by an earlier version of blt. Give "
                "--overwrite to make it anew."
            )
        pairs = [tuple(map(NumberedShard.from_json, pair)) for pair in payload["pairs"]]
        size = sum(shard.info.bytes for shard, _ in pairs)
        unit = _group_unit(group, size)
        with noted_publications(functools.partial(check_current, stage)):
            deal_group(
                pairs,
                payload["first_shard"],
                place,
                dealing,
                lambda n: report_progress(unit, n, _DEAL),
            )
    return group


def _group_unit(group: int, num_bytes: int) -> Unit:
    """Returns a group as `pipelines.progress` counts it."""
    return Unit.make(index=group, payload={}, num_bytes=num_bytes, digest="")
