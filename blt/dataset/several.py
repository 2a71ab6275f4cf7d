"""Several datasets of one kind that are used together: what `--data A B` names.

Each keeps its folder and its manifest; nothing is copied. Together they have what one manifest has:

    sha256    those of the manifests, in the order given, with "+" between them: what is made from
              them names it as its parent. Boundaries that were made apart have it, too: their
              parents are joined in the same way.
    shards    of all, in this order. Names are numbered on: unit U of a dataset goes by the number
              U + (for each dataset before it, its highest number + 1), and what is made of a shard
              is named by it.
    totals    summed.

One dataset alone is what `read_manifest` says it is: its shards go by their own names.
"""

import contextlib
import dataclasses
import functools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blt.dataset.manifest import KINDS, Manifest, describe_kind, fetched_shard, read_manifest
from blt.dataset.storage import Place, PlaceLike, StorePlace
from blt.dataset.units import ShardInfo
from blt.errors import UserError

SEPARATOR = "+"  # between the sha256 of several manifests
_NUMBERED = re.compile(r"([a-z]+)-(\d+)([-.].*)")
# What datasets that are used together need not have in common; None: nothing in their config.
_MAY_DIFFER: dict[str, frozenset[str] | None] = {
    "byte_shards": None,
    "training_shards": frozenset({"target_shard_bytes"}),
}
_MAX_SHOWN = 4  # of what differs
_UNITED = ("keep_fields",)  # a document that lacks a field has no value in it


@dataclasses.dataclass(frozen=True, slots=True)
class NumberedShard:
    """A shard of one of several datasets.

    Attributes:
      info: as its manifest describes it; its name there is that of the file.
      dataset: the number of its dataset, in the order given.
      name: that it goes by among the shards of all.
    """

    info: ShardInfo
    dataset: int
    name: str

    def to_json(self) -> dict[str, Any]:
        """Returns it as it stands in a unit's payload.

        It holds no folder: a dataset that was moved is the same dataset.
        """
        described = dataclasses.asdict(self.info)
        return described | ({"dataset": self.dataset, "used_as": self.name} if self.dataset else {})

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "NumberedShard":
        described = dict(value)
        dataset, name = described.pop("dataset", 0), described.pop("used_as", value["name"])
        return cls(ShardInfo(**described), dataset, name)

    def fetched(self, folders: Sequence[Place]) -> contextlib.AbstractContextManager[Path]:
        """Returns `fetched_shard` of it; `folders` are those of the datasets, in order."""
        return fetched_shard(folders[self.dataset], self.info)


@dataclasses.dataclass(frozen=True)
class Datasets:
    """Datasets that are used as one; has what is used of a `Manifest`.

    Attributes:
      members: the manifest of each, in the order given.
    """

    members: tuple[Manifest, ...]

    @property
    def kind(self) -> str:
        return self.members[0].kind

    @property
    def folders(self) -> tuple[Place, ...]:
        """The folder of each, as an absolute place."""
        return tuple(member.folder.resolve() for member in self.members)

    @property
    def where(self) -> str:
        """Their folders in words, as they were given."""
        return ", ".join(str(member.folder) for member in self.members)

    @functools.cached_property
    def sha256(self) -> str:
        return SEPARATOR.join(member.sha256 for member in self.members)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those of each; they are the same."""
        return self.members[0].fingerprints

    @functools.cached_property
    def parents(self) -> dict[str, str]:
        """Those of each kind that all have, joined in their order."""
        first, *others = (member.parents for member in self.members)
        return {
            kind: SEPARATOR.join([sha256, *(other[kind] for other in others)])
            for kind, sha256 in first.items()
            if all(kind in other for other in others)
        }

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What all have in common; of kept fields, those that any has."""
        first, *others = (member.config for member in self.members)
        common = {
            key: value
            for key, value in first.items()
            if all(key in other and other[key] == value for other in others)
        }
        for key in _UNITED:
            names = [name for member in self.members for name in member.config.get(key) or ()]
            if others and names:
                common[key] = list(dict.fromkeys(names))
        return common

    @functools.cached_property
    def totals(self) -> dict[str, int]:
        """Sums of what all have counted."""
        first, *others = (member.totals for member in self.members)
        sums: Counter[str] = Counter()
        for totals in (first, *others):
            sums.update(totals)
        return {key: sums[key] for key in first if all(key in other for other in others)}

    @functools.cached_property
    def numbered(self) -> tuple[NumberedShard, ...]:
        """All shards, in order.

        Raises:
          UserError: there are several datasets, and a shard has no number in its name.
        """
        return tuple(_numbered(self.members))

    @functools.cached_property
    def shards(self) -> tuple[ShardInfo, ...]:
        """All shards, in order, by the names that they go by."""
        return tuple(dataclasses.replace(s.info, name=s.name) for s in self.numbered)

    def shard_path(self, shard: ShardInfo) -> Place:
        """Returns the place of one of `shards`."""
        numbered = self._by_name[shard.name]
        return self.members[numbered.dataset].folder / numbered.info.name

    def fetched_shard(self, shard: ShardInfo) -> contextlib.AbstractContextManager[Path]:
        """Returns `fetched_shard` of one of `shards`."""
        return self._by_name[shard.name].fetched([member.folder for member in self.members])

    def fetch_shards(self) -> Iterator[tuple[ShardInfo, Path]]:
        """Yields each of `shards` with a path here, as `Manifest.fetch_shards`."""
        for shard in self.shards:
            with self.fetched_shard(shard) as path:
                yield shard, path

    @functools.cached_property
    def _by_name(self) -> dict[str, NumberedShard]:
        return {shard.name: shard for shard in self.numbered}


def _numbered(members: Sequence[Manifest]) -> Iterator[NumberedShard]:
    first = 0
    for dataset, member in enumerate(members):
        highest = -1
        for info in member.shards:
            match = _NUMBERED.fullmatch(info.name)
            if match is None and len(members) > 1:
                raise UserError(
                    f"{member.folder / info.name}: has no number in its name, as the shards of "
                    "datasets that are used together must have."
                )
            name = info.name
            if match is not None:
                highest = max(highest, int(match[2]))
                if dataset:
                    name = f"{match[1]}-{first + int(match[2]):05d}{match[3]}"
            yield NumberedShard(info, dataset, name)
        first += highest + 1


def read_datasets(places: PlaceLike | Sequence[PlaceLike], kind: str) -> Datasets:
    """Reads the manifests of one dataset, or of several that are used together.

    Args:
      places: their folders, or the one folder.
      kind: that is needed.

    Raises:
      UserError: as `read_manifest`; or one is given twice; or they were made in ways that do not go
        together, such as boundaries of other rules.
    """
    if isinstance(places, str | os.PathLike | StorePlace):
        places = [places]
    members = tuple(read_manifest(place, kind) for place in places)
    first_of: dict[str, Manifest] = {}
    for member in members:
        if (same := first_of.setdefault(member.sha256, member)) is not member:
            raise UserError(
                f"{same.folder} and {member.folder}: are the same dataset; give it once."
            )
        _check_together(members[0], member)
    return Datasets(members)


def _check_together(first: Manifest, other: Manifest) -> None:
    """Raises UserError unless datasets were made in ways that go together; names what differs."""
    free = _MAY_DIFFER.get(first.kind, frozenset())
    differences = []
    if free is not None:
        keys = [key for key in {**first.config, **other.config} if key not in free]
        for key in keys:
            differences += _differences(key, first.config.get(key), other.config.get(key))
    for role in {**first.fingerprints, **other.fingerprints}:
        key = f"the fingerprint of the {role.replace('_', ' ')}"
        differences += _differences(key, first.fingerprints.get(role), other.fingerprints.get(role))
    if differences:
        shown = [
            f"{key} is {ours!r} there and {theirs!r} here" for key, ours, theirs in differences
        ]
        more = f" (and {len(shown) - _MAX_SHOWN} more differences)" if shown[_MAX_SHOWN:] else ""
        command = KINDS[first.kind][1]
        raise UserError(
            f"{first.folder} and {other.folder}: {describe_kind(first.kind)} that were made "
            f"otherwise, not to be used together: {'; '.join(shown[:_MAX_SHOWN])}{more}. "
            f"Run `{command}` with the same settings for both."
        )


def _differences(key: str, ours: Any, theirs: Any) -> list[tuple[str, Any, Any]]:
    """Names what differs between two values; of objects, the keys at which they do."""
    if ours == theirs:
        return []
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            found
            for inner in {**ours, **theirs}
            for found in _differences(f"{key} {inner}", ours.get(inner), theirs.get(inner))
        ]
    return [(key, ours, theirs)]


def is_made_from(parent: str | None, sha256: str) -> bool:
    """Tells whether a dataset is among those that `parent`, of a `parents`, names."""
    return sha256 in (parent or "").split(SEPARATOR)


def each_parent(parents: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields kind and sha256 of every single manifest that the `parents` of another name."""
    for kind, joined in parents.items():
        for sha256 in joined.split(SEPARATOR):
            yield kind, sha256


def as_datasets(data: Manifest | Datasets) -> Datasets:
    """Returns one dataset, by its manifest, as those who take several want it."""
    return data if isinstance(data, Datasets) else Datasets((data,))


def check_boundaries_of(patches: Datasets, data: Datasets) -> None:
    """Checks that boundaries were made from these byte shards, in the same order.

    Raises:
      UserError: they were not; says which are missing, or that the order is another.
    """
    if patches.parents.get("byte_shards") == data.sha256:
        return
    found = patches.parents.get("byte_shards", "").split(SEPARATOR)
    given = [member.sha256 for member in data.members]
    what = f"--patches {patches.where}"
    if sorted(found) == sorted(given):
        raise UserError(
            f"{what}: made from the byte shards --data {data.where}, but in another order. Give "
            "both in the same order."
        )
    lacking = [m.folder for m in data.members if m.sha256 not in found]
    if lacking and len(lacking) < len(given):
        raise UserError(
            f"{what}: no boundaries of --data {lacking[0]} among them. Run `blt patch` on it."
        )
    if not lacking:
        raise UserError(
            f"{what}: made from more byte shards than --data {data.where}. Give all of those, in "
            "the same order."
        )
    raise UserError(
        f"{what}: made from other byte shards than --data {data.where}. Run `blt patch` on these."
    )


def shares(total: int, datasets: Datasets) -> list[int]:
    """Returns how much of `total` each dataset is due, by its bytes, rounded up."""
    num_bytes = [max(1, sum(s.bytes for s in m.shards)) for m in datasets.members]
    return [-(-total * size // sum(num_bytes)) for size in num_bytes]
