"""Units of the stages that map byte shards one to one: `patch` and `score`."""

import dataclasses
import re
from typing import Any

from blt.dataset.manifest import Manifest
from blt.dataset.units import ShardInfo
from blt.errors import UserError

_NAME = re.compile(r"bytes-(\d+)-(\d+)\.tfrecord(\.gz)?")


@dataclasses.dataclass(frozen=True)
class ByteShard:
    """A byte shard as a unit sees it: where it is in the plan of `encode`, and what is in it."""

    info: ShardInfo
    unit: int
    roll: int


def shard_payloads(manifest: Manifest) -> list[dict[str, Any]]:
    """Returns a unit's payload for each byte shard of a dataset.

    They hold no folder: a dataset that was moved is the same dataset.
    """
    return [dataclasses.asdict(shard) for shard in manifest.shards]


def read_payload(payload: dict[str, Any]) -> ByteShard:
    """Returns the byte shard that a payload of `shard_payloads` stands for.

    Raises:
      UserError: its name is not one that `blt encode` gives.
    """
    info = ShardInfo(**payload)
    match = _NAME.fullmatch(info.name)
    if match is None:
        raise UserError(
            f"{info.name}: not the name of a byte shard, such as bytes-00012-000.tfrecord"
        )
    return ByteShard(info=info, unit=int(match[1]), roll=int(match[2]))
