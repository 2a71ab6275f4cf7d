"""Markers: what a finished unit gave, and how its files were when it was done.

    _units/00012.json     {"digest", "shards", "counts", "files": {name: {"size", "version"}}}

A marker is written once the files that it names are in place. It is trusted if its unit is still
the same and its files are as they were, which one listing of the folder tells: nothing is read
again that has the size and the version (an etag, or what a filesystem knows) that it had.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from blt.dataset import storage
from blt.dataset.plan_file import UNITS_FOLDER
from blt.dataset.storage import Place, StoredFile, as_place, sha256_file, write_json
from blt.dataset.units import Unit, UnitResult

Listing = Mapping[str, StoredFile]  # by the path below the folder


@dataclasses.dataclass(frozen=True, slots=True)
class Marker:
    """A marker as it was read.

    Attributes:
      digest: of the unit that was done.
      result: what it gave.
      files: size and version of each file that was published for it, by its path below the folder.
    """

    digest: str
    result: UnitResult
    files: dict[str, tuple[int, str]]


def marker_name(index: int) -> str:
    return f"{UNITS_FOLDER}/{index:05d}.json"


def failure_names(index: int) -> tuple[str, str]:
    """Returns the files that say why a unit failed: in words, and where in the code."""
    return f"{UNITS_FOLDER}/{index:05d}.failed.json", f"{UNITS_FOLDER}/{index:05d}.traceback.json"


def list_folder(output: Place) -> dict[str, StoredFile]:
    """Returns all files below a folder, by the rest of their path; see `storage.list_below`."""
    start = len(str(output).rstrip("/")) + 1
    return {file.path[start:]: file for file in storage.list_below(output)}


def write_marker(
    output: Place, unit: Unit, result: UnitResult, files: Mapping[str, tuple[int, str]]
) -> None:
    """Notes that a unit is done.

    Args:
      output: the folder.
      unit: it.
      result: what it gave.
      files: size and version of each file that it published, by place.
    """
    start = len(str(output).rstrip("/")) + 1
    named = {
        place[start:]: {"size": size, "version": version}
        for place, (size, version) in files.items()
    }
    value = {"digest": unit.digest, **result.to_json(), "files": named}
    write_json(output / marker_name(unit.index), value)


def read_markers(
    output: Place, units: Iterable[Unit], listing: Listing | None = None
) -> Iterator[Marker | None]:
    """Yields the marker of each unit, in order; None where there is none that can be read.

    Args:
      output: the folder.
      units: of its plan.
      listing: of the folder, if there is one: markers that are not in it are not asked for.
    """
    names = [marker_name(unit.index) for unit in units]
    there = [name for name in names if listing is None or name in listing]
    found = storage.read_all(output / name for name in there)
    for name in names:
        yield _parse(next(found)) if listing is None or name in listing else None


def _parse(data: bytes | None) -> Marker | None:
    if data is None:
        return None
    try:
        value = json.loads(data)
        files = {name: (f["size"], f["version"]) for name, f in value["files"].items()}
        return Marker(value["digest"], UnitResult.from_json(value), files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # a marker that cannot be trusted is no marker


def is_whole(output: Place, marker: Marker, listing: Listing, *, verify: bool = False) -> bool:
    """Tells whether what a unit made is there as it was.

    A shard of another version is read and compared by its sha256: it may have been copied, or made
    again. Files beside the shards are known by their size alone then.

    Args:
      output: the folder.
      marker: of the unit.
      listing: of the folder.
      verify: compare the sha256 of all shards.
    """
    shards = {shard.name: shard.sha256 for shard in marker.result.shards}
    if not shards.keys() <= marker.files.keys():
        return False
    for name, (size, version) in marker.files.items():
        file = listing.get(name)
        if file is None or file.size != size:
            return False
        if name in shards and (verify or file.version != version):
            try:
                if sha256_file(output / name) != shards[name]:
                    return False
            except FileNotFoundError:
                return False
    return True


def read_result(output: Place, unit: Unit) -> UnitResult | None:
    """Returns what a unit, as it is, gave; None if it was not finished.

    Its shards may have been lost since.
    """
    (marker,) = read_markers(as_place(output), [unit])
    return marker.result if marker is not None and marker.digest == unit.digest else None


def is_finished(output: Place, unit: Unit) -> bool:
    """Tells whether a unit, as it is, was finished; its shards may have been lost since."""
    return read_result(output, unit) is not None


def marked_indices(output: Place) -> set[int]:
    """Returns the numbers of the units whose markers are there: for progress, not for trust."""
    names = (name_of(file) for file in storage.list_below(output / UNITS_FOLDER))
    return {int(name.removesuffix(".json")) for name in names if is_marker(name)}


def name_of(file: StoredFile) -> str:
    return file.path.rpartition("/")[2]


def is_marker(name: str) -> bool:
    """Tells whether a file of the folder of markers is one, by its name."""
    return name.endswith(".json") and name.removesuffix(".json").isdecimal()


def count_finished_bytes(output: Place, units: Sequence[Unit]) -> int:
    """Returns the bytes of the units whose marker is there: for progress, not for trust."""
    marked = marked_indices(output)
    return sum(unit.num_bytes for unit in units if unit.index in marked)
