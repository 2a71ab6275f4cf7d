"""What a stage is made of: units of work, and what each of them gave.

A stage maps a plan, which is a list of units made deterministically from the sorted inputs and the
config, to output shards. A unit can be run anywhere, twice, and in any order.
"""

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Progress = Callable[[int], None]  # called with the number of further input bytes that are done


def no_progress(num_bytes: int) -> None:
    """The `Progress` of those who do not watch."""


# Called with what is being done, how much of it there is, and what is counted (bytes, if nothing is
# said), as `blt.cli.console.Console.progress`; gives the `Progress` of a block.
Watch = Callable[..., contextlib.AbstractContextManager[Progress]]


@contextlib.contextmanager
def no_watch(label: str, total: int | None = None, noun: str | None = None) -> Iterator[Progress]:
    """The `Watch` of those who do not watch."""
    yield no_progress


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One piece of work; see `Unit.make`.

    A unit of `blt encode` may name thousands of files. So that many units can be held,
    what the unit function needs to know is kept packed: some 20 to 80 bytes a file.

    Attributes:
      index: its number in the plan, which also names its shards.
      packed_payload: its payload, as deflated JSON with sorted keys.
      num_bytes: its size, for progress and balance (bytes of input, as stored).
      digest: sha256 over input, models and config. A finished unit is trusted only if the digest
        it was made with is this one.
    """

    index: int
    packed_payload: bytes
    num_bytes: int
    digest: str

    @classmethod
    def make(cls, *, index: int, payload: dict[str, Any], num_bytes: int, digest: str) -> "Unit":
        """Makes a unit from its payload: what the unit function needs to know, as JSON."""
        packed = zlib.compress(json.dumps(payload, sort_keys=True).encode("ascii"), level=1)
        return cls(index=index, packed_payload=packed, num_bytes=num_bytes, digest=digest)

    @property
    def payload(self) -> dict[str, Any]:
        """What the unit function needs to know, unpacked anew each time."""
        return json.loads(zlib.decompress(self.packed_payload))

    def to_json(self) -> dict[str, Any]:
        """Returns it as it stands in a plan: the arguments of `make`."""
        return {
            "index": self.index,
            "payload": self.payload,
            "num_bytes": self.num_bytes,
            "digest": self.digest,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One output file: its name, what is in it, and the sha256 of the file as written."""

    name: str
    documents: int
    bytes: int
    tokens: int
    sha256: str

    @classmethod
    def of_counts(cls, name: str, counts: Mapping[str, int], sha256: str) -> "ShardInfo":
        """Returns that of a unit's one shard, from what the unit counted."""
        numbers = {kind: counts[kind] for kind in ("documents", "bytes", "tokens")}
        return cls(name=name, sha256=sha256, **numbers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What a unit gave.

    Attributes:
      shards: its output files.
      counts: summed into the manifest's totals.
      measured: what another run would find otherwise, such as time and padding. For the metrics of
        this run alone; never stored, or the same work would not give the same manifest.
    """

    shards: tuple[ShardInfo, ...]
    counts: dict[str, int]
    measured: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {"shards": [dataclasses.asdict(s) for s in self.shards], "counts": self.counts}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "UnitResult":
        shards = tuple(ShardInfo(**shard) for shard in value["shards"])
        return cls(shards=shards, counts=dict(value["counts"]))
