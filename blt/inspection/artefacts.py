"""Finding what stages made: datasets below a folder, and the datasets that others came from."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from blt.dataset.manifest import MANIFEST_NAME, Manifest, read_manifest
from blt.dataset.plan_file import PLAN_NAME
from blt.dataset.several import SEPARATOR, Datasets
from blt.dataset.storage import Place, read_json, subfolders
from blt.errors import UserError

# The kinds of datasets in the order of the way of the data.
_WAY = ("corpus", "byte_shards", "boundaries", "training_shards", "blt_run", "scores")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset, and what its manifest says beside what `Manifest` holds."""

    manifest: Manifest
    blt_version: str

    @property
    def name(self) -> str:
        return self.manifest.folder.resolve().name


def is_dataset(folder: Place) -> bool:
    return (folder / MANIFEST_NAME).is_file()


def is_unfinished(folder: Place) -> bool:
    """Tells whether a stage was begun here and has not ended."""
    return (folder / PLAN_NAME).is_file() and not is_dataset(folder)


def open_dataset(folder: Place) -> Dataset:
    """Reads a dataset's manifest; raises UserError as `read_manifest` does."""
    manifest = read_manifest(folder)
    return Dataset(manifest, str(read_json(folder / MANIFEST_NAME).get("blt_version", "?")))


def in_order(datasets: Iterable[Dataset]) -> list[Dataset]:
    """Returns datasets in the order of the way of the data."""
    return sorted(datasets, key=lambda dataset: (_rank(dataset.manifest.kind), dataset.name))


def _rank(kind: str) -> int:
    return _WAY.index(kind) if kind in _WAY else len(_WAY)


def find_datasets(folders: Iterable[Place]) -> list[Dataset]:
    """Returns the datasets that folders are, or hold directly, each once.

    Raises:
      UserError: a folder does not exist, or neither is nor holds a dataset; names it.
    """
    found: dict[Place, Dataset] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder. Give the output folder of `blt run`, or datasets."
            )
        candidates = [folder] if is_dataset(folder) else subfolders(folder)
        datasets = [path for path in candidates if is_dataset(path)]
        if not datasets and not any(
            path.suffix in (".keras", ".ngram") for path in folder.iterdir()
        ):
            raise UserError(
                f"{folder}: nothing to report on: no {MANIFEST_NAME} in it or in a folder in it. "
                "Give the output folder of `blt run`, or datasets that stages made."
            )
        for path in datasets:
            found.setdefault(path.resolve(), open_dataset(path))
    return in_order(found.values())


def find_by_sha256(sha256: str, near: Place) -> Manifest | None:
    """Returns the dataset with this manifest among those that lie beside the folder `near`."""
    for path in subfolders(near.resolve().parent):
        if is_dataset(path):
            try:
                manifest = read_manifest(path)
            except UserError:  # of another program, or unreadable: not the one
                continue
            if manifest.sha256 == sha256:
                return manifest
    return None


def find_parents(manifest: Manifest, kind: str, given: Iterable[Manifest] = ()) -> Datasets | None:
    """Returns the parents of this kind, None unless all are there.

    Args:
      manifest: of a dataset.
      kind: of parents.
      given: where to look before it is done beside the dataset.
    """
    if kind not in manifest.parents:
        return None
    known = {other.sha256: other for other in given}
    names = manifest.parents[kind].split(SEPARATOR)
    found = [known.get(name) or find_by_sha256(name, manifest.folder) for name in names]
    members = tuple(member for member in found if member is not None)
    return Datasets(members) if len(members) == len(names) else None


def flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("model.dim", 128) for nested mappings."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
