"""Whether a dataset is what its manifest says: every shard's sha256, and totals that add up."""

from blt.dataset.manifest import Manifest, check_shard, read_manifest
from blt.dataset.markers import read_result
from blt.dataset.plan_file import read_plan
from blt.dataset.stage import REJECTS_NAME
from blt.dataset.storage import Place, sha256_file, subfolders
from blt.dataset.units import ShardInfo
from blt.errors import BltError
from blt.formats.parquet import open_parquet
from blt.inspection.artefacts import is_dataset, is_unfinished

# Kinds whose shards hold each document once, so that shards add up to the totals.
_ADDITIVE = ("byte_shards", "boundaries", "scores", "training_shards")


def check_folder(folder: Place) -> tuple[int, list[str]]:
    """Checks a dataset, an unfinished one, or the datasets in a folder.

    Returns:
      The number of shards checked, and what is wrong, a sentence each.
    """
    if is_dataset(folder):
        return check_dataset(read_manifest(folder))
    if is_unfinished(folder):
        return _check_unfinished(folder)
    checked, problems = 0, []
    for path in subfolders(folder):
        if is_dataset(path) or is_unfinished(path):
            more, found = check_folder(path)
            checked += more
            problems += found
    return checked, problems


def check_dataset(manifest: Manifest) -> tuple[int, list[str]]:
    """Checks one dataset; see `check_folder`."""
    problems = _check_shards(manifest.folder, manifest.shards)
    problems += _check_files(manifest)
    totals = manifest.totals
    if manifest.kind in _ADDITIVE:
        for name in ("documents", "bytes", "tokens"):
            summed = sum(getattr(shard, name) for shard in manifest.shards)
            if name in totals and totals[name] != summed:
                problems.append(
                    f"{manifest.folder}: totals say {totals[name]} {name}, its shards {summed}."
                )
    if "records" in totals:
        accounted = sum(totals.get(name, 0) for name in ("documents", "rejects", "filtered"))
        if totals["records"] != accounted:
            problems.append(
                f"{manifest.folder}: {totals['records']} records were read, but {accounted} are "
                "documents, rejects or filtered."
            )
    problems += _check_rejects(manifest)
    return len(manifest.shards), problems


def _check_files(manifest: Manifest) -> list[str]:
    problems = []
    for name, sha256 in manifest.files.items():
        path = manifest.folder / name
        try:
            if sha256_file(path) != sha256:
                problems.append(f"{path}: its sha256 is not the manifest's; it was changed.")
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror}).")
    return problems


def _check_rejects(manifest: Manifest) -> list[str]:
    path = manifest.folder / REJECTS_NAME
    stated = manifest.totals.get("rejects", 0)
    try:
        rows = _count_rows(path) if path.is_file() else 0
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        return [f"{path}: cannot be read ({error})."]
    if rows != stated:
        return [f"{path}: {rows} rejects, but the totals say {stated}."]
    return []


def _count_rows(path: Place) -> int:
    with open_parquet(path) as file:
        return file.metadata.num_rows


def _check_shards(folder: Place, shards: tuple[ShardInfo, ...]) -> list[str]:
    problems = []
    for shard in shards:
        try:
            check_shard(folder, shard)
        except BltError as error:
            problems.append(str(error))
    return problems


def _check_unfinished(folder: Place) -> tuple[int, list[str]]:
    checked, problems = 0, []
    for unit in read_plan(folder):
        result = read_result(folder, unit)
        if result is not None:
            checked += len(result.shards)
            problems += _check_shards(folder, result.shards)
    return checked, problems
