"""`_manifest.json`: written last, and the proof that a folder is a whole dataset.

It says what the folder holds (`kind`), how it was made (`config`, `fingerprints`, `parents`), how
much there is (`totals`), and every shard with its sha256. No manifest: not a dataset.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blt.dataset import storage
from blt.dataset.plan_file import PLAN_NAME
from blt.dataset.storage import (
    ChangedError,
    Place,
    PlaceLike,
    StorePlace,
    as_place,
    check_publication,
    fetched,
    json_bytes,
    json_errors,
    read_json,
)
from blt.dataset.units import ShardInfo
from blt.errors import UserError, WorkError

MANIFEST_NAME = "_manifest.json"
FORMAT_VERSION = 1

# What each kind of dataset is called in a message, and the command that makes it.
KINDS = {
    "byte_shards": ("byte shards", "blt encode"),
    "boundaries": ("patch boundaries", "blt patch"),
    "training_shards": ("training shards", "blt pack"),
    "scores": ("scores", "blt score"),
    "meta_arrow": ("Arrow files for Meta's trainer", "blt export"),
    "blt_run": ("a BLT training run", "blt train"),
    "corpus": ("a raw corpus", "blt run"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A dataset's manifest, with the folder it was read from.

    Attributes:
      kind: a key of `KINDS`.
      config: the complete config of the stage that made it.
      fingerprints: models it was made with, by role (`entropy_model`, `blt`).
      parents: sha256 of the manifests of the datasets it was made from, by kind: the lineage.
      totals: documents, bytes, tokens, rejects, filtered, and whatever else the stage counts.
      shards: every shard, in order.
      lost: how much of the input could not be read: `shares` by kind (records, files, members of
        archives, bytes), and the `inputs` that lost most; empty if the stage reads no foreign data.
      invalid_utf8: the `inputs` with most documents that are not UTF-8; empty if there are none.
      files: the sha256 of each other file of the dataset, by name: `_rejects.parquet` and such.
      folder: where it lies.
      sha256: of `_manifest.json` itself; what its children name as parent.
    """

    kind: str
    config: dict[str, Any]
    fingerprints: dict[str, str]
    parents: dict[str, str]
    totals: dict[str, int]
    shards: tuple[ShardInfo, ...]
    files: dict[str, str]
    folder: Place
    sha256: str
    lost: dict[str, Any] = dataclasses.field(default_factory=dict)
    invalid_utf8: dict[str, Any] = dataclasses.field(default_factory=dict)

    def shard_path(self, shard: ShardInfo) -> Place:
        return self.folder / shard.name

    def fetch_shards(self) -> Iterator[tuple[ShardInfo, Path]]:
        """Yields each shard with a path here, until the next is asked for, once it was checked.

        Raises:
          UserError: as `fetched_shard`.
        """
        for shard in self.shards:
            with fetched_shard(self.folder, shard) as path:
                yield shard, path


def write_manifest(
    folder: Place,
    *,
    kind: str,
    config: dict[str, Any],
    fingerprints: dict[str, str],
    parents: dict[str, str],
    totals: dict[str, int],
    shards: list[ShardInfo],
    files: dict[str, str] | None = None,
    lost: dict[str, Any] | None = None,
    invalid_utf8: dict[str, Any] | None = None,
) -> Manifest:
    """Writes `_manifest.json` into `folder` and returns it as `read_manifest` would.

    Raises:
      WorkError: it cannot be written.
    """
    from blt.version import __version__

    _publish(
        folder / MANIFEST_NAME,
        {
            "kind": kind,
            "format_version": FORMAT_VERSION,
            "blt_version": __version__,
            "config": config,
            "fingerprints": fingerprints,
            "parents": parents,
            "totals": totals,
            **({"lost": lost} if lost else {}),
            **({"invalid_utf8": invalid_utf8} if invalid_utf8 else {}),
            "shards": [dataclasses.asdict(shard) for shard in shards],
            "files": files or {},
        },
    )
    return read_manifest(folder, kind)


def _publish(place: Place, value: dict[str, Any]) -> None:
    """Writes a manifest, or replaces one that stays the same while it is seen who may do so."""
    data = json_bytes(value)
    try:
        while True:
            try:
                check_publication()
                storage.create(place, data)
                return
            except FileExistsError:
                pass
            with contextlib.suppress(ChangedError, FileNotFoundError):
                version = storage.stat(place).version
                check_publication()
                storage.replace(place, data, if_version=version)
                return
    except OSError as error:
        raise WorkError(f"{place}: cannot be written ({error.strerror or error}).") from error


def describe_kind(kind: str) -> str:
    return KINDS.get(kind, (kind, ""))[0]


def read_manifest(folder: PlaceLike, kind: str | None = None) -> Manifest:
    """Reads a dataset's manifest.

    Args:
      folder: the dataset.
      kind: the kind that is needed; None takes any.

    Raises:
      UserError: there is no such folder, no manifest in it, or it is of another kind or version.
    """
    folder = as_place(folder)
    path = folder / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        if isinstance(folder, StorePlace) and not isinstance(error, FileNotFoundError):
            raise UserError(f"{folder}: cannot be read ({error.strerror or error}).") from error
        raise UserError(_not_a_dataset(folder, kind)) from error
    with json_errors(path):
        value = json.loads(data)
    wanted, command = _wanted(kind)
    try:
        found = value["kind"]
        if value["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {value['format_version']}, but this program reads "
                f"version {FORMAT_VERSION}. Use the blt that made it ({value['blt_version']})."
            )
        if kind is not None and found != kind:
            made_by = KINDS.get(found, (found, ""))[0]
            raise UserError(
                f"{folder}: holds {made_by}, but {wanted} are needed here, as made by `{command}`."
            )
        return Manifest(
            kind=found,
            config=value["config"],
            fingerprints=value["fingerprints"],
            parents=value["parents"],
            totals=value["totals"],
            shards=tuple(ShardInfo(**_checked_shard(shard)) for shard in value["shards"]),
            files={_checked_name(name): digest for name, digest in value.get("files", {}).items()},
            folder=folder,
            sha256=hashlib.sha256(data).hexdigest(),
            lost=value.get("lost", {}),
            invalid_utf8=value.get("invalid_utf8", {}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of this program ({error!r}).") from error


def _wanted(kind: str | None) -> tuple[str, str]:
    """Returns what a kind of dataset is called, and the command that makes it."""
    return KINDS.get(kind or "", ("a dataset", "the command that makes it"))


def _not_a_dataset(folder: Place, kind: str | None) -> str:
    """Says what to give, or to do, where a folder has no manifest."""
    wanted, command = _wanted(kind)
    try:
        is_file, is_there = folder.is_file(), folder.exists()
    except OSError:  # a name that is too long
        is_file = is_there = False
    if not is_there:
        return f"{folder}: no such folder; {wanted} expected. Make them with `{command}`."
    if is_file:
        lies_in = folder.parent if (folder.parent / MANIFEST_NAME).is_file() else None
        return (
            f"{folder}: is a file, but the folder of a whole dataset is expected ({wanted}). "
            + (f"Give {lies_in}." if lies_in else f"Make them with `{command}`.")
        )
    if (folder / MANIFEST_NAME.removeprefix("_")).is_file():
        return (
            f"{folder}: made by an earlier version of blt, in whose datasets the manifest was "
            f"called {MANIFEST_NAME.removeprefix('_')}. Make it anew with `{command}`."
        )
    if (folder / PLAN_NAME).is_file():
        return (
            f"{folder}: no {MANIFEST_NAME} in it, so it is not (yet) a whole dataset; {wanted} "
            f"expected. Run `{command}` again to finish it."
        )
    right = [path for path in sorted(folder.glob(f"*/{MANIFEST_NAME}")) if _is_of_kind(path, kind)]
    hint = f"Give {right[0].parent}." if right else f"Make them with `{command}`."
    return f"{folder}: no {MANIFEST_NAME} in it, so it is no dataset; {wanted} expected. {hint}"


def _is_of_kind(path: Place, kind: str | None) -> bool:
    try:
        return kind in (None, read_json(path).get("kind"))
    except (UserError, AttributeError):
        return False


def _checked_shard(shard: dict[str, Any]) -> dict[str, Any]:
    _checked_name(shard["name"])
    return shard


def _checked_name(name: str) -> str:
    if "/" in name or name in ("", ".", ".."):  # a name from data must not lead elsewhere
        raise KeyError(f"shard name {name!r} is not a plain file name")
    return name


@contextlib.contextmanager
def fetched_shard(folder: Place, shard: ShardInfo) -> Iterator[Path]:
    """Yields a path here of a shard, for as long as the block runs, once it was checked.

    Raises:
      UserError: it is missing, its sha256 is not the manifest's, or it cannot be read.
    """
    with contextlib.ExitStack() as resources:
        try:
            path = resources.enter_context(fetched(folder / shard.name, sha256=shard.sha256))
        except FileNotFoundError as error:
            raise UserError(
                f"{folder / shard.name}: missing, though the manifest lists it. Make the dataset "
                "again."
            ) from error
        except OSError as error:
            raise UserError(
                f"{folder / shard.name}: cannot be read ({error.strerror or error})."
            ) from error
        yield path


def check_shard(folder: Place, shard: ShardInfo) -> None:
    """Checks that a shard is there and is the one that the manifest names.

    Raises:
      UserError: as `fetched_shard`.
    """
    with fetched_shard(folder, shard):
        pass
