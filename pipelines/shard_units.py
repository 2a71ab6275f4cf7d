"""Units of the stages that map byte shards one to one: `patch` and `score`."""

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blt.dataset.several import Datasets, NumberedShard
from blt.dataset.storage import Place
from blt.dataset.units import ShardInfo
from blt.errors import UserError

_NAME = re.compile(r"bytes-(\d+)-(\d+)\.tfrecord(\.gz)?")


@dataclasses.dataclass(frozen=True)
class ByteShard:
    """A byte shard as a unit sees it.

    Attributes:
      numbered: it, among the shards of all datasets that are read.
      unit, roll: the numbers in the name that it goes by, which name what is made of it.
    """

    numbered: NumberedShard
    unit: int
    roll: int

    @property
    def info(self) -> ShardInfo:
        """As its manifest describes it."""
        return self.numbered.info

    def fetched(self, folders: Sequence[Place]) -> contextlib.AbstractContextManager[Path]:
        """Returns `blt.dataset.manifest.fetched_shard` of it, given the datasets' folders."""
        return self.numbered.fetched(folders)


def shard_payloads(data: Datasets) -> list[dict[str, Any]]:
    """Returns a unit's payload for each byte shard, as `NumberedShard.to_json`."""
    return [shard.to_json() for shard in data.numbered]


def read_payload(payload: dict[str, Any]) -> ByteShard:
    """Returns the byte shard that a payload of `shard_payloads` stands for.

    Raises:
      UserError: its name is not one that `blt encode` gives.
    """
    shard = NumberedShard.from_json(payload)
    match = _NAME.fullmatch(shard.name)
    if match is None:
        raise UserError(
            f"{shard.name}: not the name of a byte shard, such as bytes-00012-000.tfrecord"
        )
    return ByteShard(numbered=shard, unit=int(match[1]), roll=int(match[2]))
