"""A stage of the way of the data: a plan, units that can be done in any order, a manifest last.

The output folder of a stage holds

    _plan.json            the units, written before the work; says whose run the folder is
    _units/00012.json     what unit 12 gave, written once its shards are in place
    _units/00012.rejects.parquet   its rejects, if it had any
    _units/00012.failed.json       why it failed, if it did
    _units/failure.json            why the last run failed, if it did
    <shards>             named by unit
    _rejects.parquet      of all units (stages that read foreign data)
    <extra files>        that speak of all units, such as _summary.json
    _manifest.json        written last; no manifest: not a dataset

Nothing here knows about Beam: `start`, `blt.dataset.working.work_on` for each pending unit, then
`blt.dataset.finishing.finish` is a whole run. `pipelines` only decides where the units are worked
on.

Several runs may be at work in a folder. Those of the same identity share one plan: whatever one has
finished, the others need not do, and what two do at once comes out the same. A run of another
identity is refused, unless it replaces the plan (`overwrite`); what is left of the first run then
finds that the plan is no longer the one it works under (`plan_version`), and publishes nothing.
"""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from blt.dataset import storage
from blt.dataset.loss import DEFAULT_MAX_LOST_FRACTION, Findings
from blt.dataset.manifest import MANIFEST_NAME, Manifest, describe_kind, read_manifest
from blt.dataset.markers import (
    Listing,
    failure_names,
    is_finished,
    is_whole,
    list_folder,
    marker_name,
    read_markers,
)
from blt.dataset.plan_file import (
    PLAN_NAME,
    UNITS_FOLDER,
    Plan,
    load_plan,
    publish_plan,
    read_plan_version,
)
from blt.dataset.storage import (
    TEMPORARY_PREFIX,
    ChangedError,
    Place,
    prepare_output_folder,
    sha256_json,
)
from blt.dataset.units import Progress, ShardInfo, Unit, UnitResult, no_progress
from blt.errors import MadeOtherwiseError, UserError

REJECTS_NAME = "_rejects.parquet"
FAILURE_NAME = "failure.json"  # why the last run failed, in `UNITS_FOLDER`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gathered:
    """What all units gave together.

    Attributes:
      num_units: how many there are.
      shards: of all, in order.
      totals: their counts, summed.
      reject_tables: the files of rejects, by their path below the folder, in order.
    """

    num_units: int
    shards: Sequence[ShardInfo]
    totals: Counter[str]
    reject_tables: tuple[str, ...] = ()


UnitFunction = Callable[[Unit, Place, Progress], UnitResult]


def _all_of(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """All there is to know about one run of a stage; can be pickled.

    Attributes:
      kind: of the dataset that it makes, a key of `blt.dataset.manifest.KINDS`.
      output: the folder.
      config: everything that the result depends on, as JSON, named as the flags are.
      told: more for the manifest's config that the result does not depend on, or only by the units,
        such as the inputs' names.
      finishing: more for the manifest's config, that only `before_manifest` depends on: where it is
        another one, a finished stage is finished anew, without its units.
      fingerprints: of the models used, by role.
      parents: sha256 of the manifests of the datasets read, by kind.
      run_unit: makes the shards of one unit; pure but for the files it writes.
      essence: returns what a unit's result depends on, of its payload.
      shard_patterns: globs that match the stage's shards in `output`, and nothing else.
      reads_foreign_data: rejects are possible, and `_rejects.parquet` is always written.
      extra_files: names that `find_losses` and `before_manifest` write.
      work_folders: folders in `output` that steps before the units keep files in.
      grows: a later run may have more units, after those of the plan, which stay as they are.
      find_losses: of all units together; may write files that tell of them.
      before_manifest: makes files that need all shards, such as `_summary.json`.
      max_lost_fraction: of records, files, members of archives or bytes; above it the work has
        failed.
      plan_version: of the plan that it works under, once `start` has said.
    """

    kind: str
    output: Place
    config: dict[str, Any]
    told: dict[str, Any] = dataclasses.field(default_factory=dict)
    finishing: dict[str, Any] = dataclasses.field(default_factory=dict)
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)
    parents: dict[str, str] = dataclasses.field(default_factory=dict)
    run_unit: UnitFunction
    essence: Callable[[dict[str, Any]], Any] = _all_of
    shard_patterns: tuple[str, ...]
    reads_foreign_data: bool = False
    extra_files: tuple[str, ...] = ()
    work_folders: tuple[str, ...] = ()
    grows: bool = False
    find_losses: Callable[[Place, Gathered], Findings] | None = None
    before_manifest: Callable[[Place, Gathered], None] | None = None
    max_lost_fraction: float = DEFAULT_MAX_LOST_FRACTION
    plan_version: str | None = None

    def identity(self) -> dict[str, Any]:
        """What must not change between a run and the one that resumes it."""
        return {
            "kind": self.kind,
            "config": self.config,
            "fingerprints": self.fingerprints,
            "parents": self.parents,
        }


def make_units(
    stage: Stage, payloads: Sequence[dict[str, Any]], sizes: Sequence[int]
) -> list[Unit]:
    """Numbers the payloads and gives each its digest."""
    identity = stage.identity()
    return [
        Unit.make(
            index=index,
            payload=payload,
            num_bytes=size,
            digest=sha256_json([identity, stage.essence(payload)]),
        )
        for index, (payload, size) in enumerate(zip(payloads, sizes, strict=True))
    ]


def finished_manifest(stage: Stage, units: Sequence[Unit]) -> Manifest | None:
    """Returns the manifest if this very stage is done already, None if it is not.

    Raises:
      MadeOtherwiseError: the folder holds what a run of this stage made with other settings, or
        from other data; says what differs.
      UserError: it holds something else.
      OSError: the place cannot be asked.
    """
    plan = load_plan(stage.output)
    if plan is None:
        _is_free(stage)
        return None  # or only begun, by another run this very moment
    return _finished(stage, units) if _check_same(stage, plan, units) else None


def _is_free(stage: Stage) -> bool:
    """Tells of a folder without a plan whether it has none still.

    Raises:
      UserError: it holds something else.
    """
    others = []
    if stage.output.is_dir():
        # A run that was killed before it had a plan leaves no more than this.
        own = (TEMPORARY_PREFIX, UNITS_FOLDER)
        others = sorted(p.name for p in stage.output.iterdir() if not p.name.startswith(own))
    if PLAN_NAME in others:
        return False
    if others:
        raise UserError(
            f"--output {stage.output}: holds other files ({others[0]}, …) and was not "
            f"made by this command. Choose an empty or new folder."
        )
    return True


def _check_same(stage: Stage, plan: Plan, units: Sequence[Unit]) -> bool:
    """Tells whether a plan is of these very units; False if they go on where it ends.

    Raises:
      MadeOtherwiseError: it is of another run of this stage; says what differs.
      UserError: it is of another stage.
    """
    changed = _differences(plan.identity, stage)
    is_same = [unit.digest for unit in plan.units] == [unit.digest for unit in units]
    if not changed and not (is_same or (stage.grows and _is_continued(stage, plan.units, units))):
        changed.append("its input files (some were added, removed or changed)")
    if plan.identity.get("kind") != stage.kind:
        raise _other_kind(stage, plan.identity)
    if changed:
        raise MadeOtherwiseError(
            stage.output,
            f"made by a run that differs in {'; '.join(changed)}",
            "Choose another folder, or give --overwrite to make it anew.",
        )
    return is_same


def _finished(
    stage: Stage, units: Sequence[Unit], listing: Listing | None = None
) -> Manifest | None:
    """Returns the manifest in the folder if it is of this stage, and all it names is there."""
    if not (stage.output / MANIFEST_NAME).is_file():
        return None
    manifest = read_manifest(stage.output, stage.kind)
    told = {**stage.finishing, **json.loads(json.dumps(stage.config))}
    if any(manifest.config.get(key) != value for key, value in told.items()):
        return None
    if (manifest.fingerprints, manifest.parents) != (stage.fingerprints, stage.parents):
        return None
    listing = list_folder(stage.output) if listing is None else listing
    names = [*(shard.name for shard in manifest.shards), *manifest.files]
    if not all(name in listing for name in names):
        return None
    # A run that was killed once its plan had grown left the manifest of what there was before.
    if stage.grows and not all(marker_name(unit.index) in listing for unit in units):
        return None
    return manifest


def earlier_units(stage: Stage) -> list[Unit]:
    """Returns the units that an earlier run of this stage planned; none if it differed."""
    plan = load_plan(stage.output)
    if plan is None or _differences(plan.identity, stage):  # `finished_manifest` will say which
        return []
    return plan.units


def start(
    stage: Stage,
    units: Sequence[Unit],
    *,
    overwrite: bool = False,
    verify: bool = False,
    progress: Progress = no_progress,
) -> tuple[Stage, list[Unit]]:
    """Makes the folder this run's, or joins those of the same identity; finds what is to do.

    Args:
      stage: what to run.
      units: all of its units.
      overwrite: make all anew; whoever is at work there can publish no more.
      verify: read the shards of finished units and compare their sha256.
      progress: is told of the bytes of the units that were looked at.

    Returns:
      The stage with its `plan_version`, and the units that are still to do.

    Raises:
      UserError: the folder cannot be written to, or holds the result of something else.
    """
    prepare_output_folder(stage.output)
    try:
        version = _take(stage, units, overwrite=overwrite)
        listing = list_folder(stage.output)
        pending = []
        for unit, marker in zip(units, read_markers(stage.output, units, listing), strict=True):
            is_same = marker is not None and marker.digest == unit.digest
            if not (is_same and is_whole(stage.output, marker, listing, verify=verify)):
                pending.append(unit)
            progress(unit.num_bytes)
        if pending or (MANIFEST_NAME in listing and _finished(stage, units, listing) is None):
            # First: it is not the whole dataset any more. Then what speaks of all shards.
            if MANIFEST_NAME in listing:
                storage.delete(stage.output / MANIFEST_NAME)
            names = [*stage.extra_files, *(marker_name(unit.index) for unit in pending)]
            names += [name for unit in pending for name in failure_names(unit.index)]
            storage.delete_all(stage.output / name for name in names if name in listing)
        storage.delete(stage.output / UNITS_FOLDER / FAILURE_NAME)
    except OSError as error:
        raise UserError(
            f"--output {stage.output}: cannot be used ({error.strerror or error})."
        ) from error
    return dataclasses.replace(stage, plan_version=version), pending


def _take(stage: Stage, units: Sequence[Unit], *, overwrite: bool) -> str:
    """Makes the plan of the folder that of these units; returns its version."""
    while True:
        plan = seen = None
        try:
            plan = load_plan(stage.output)
            seen = plan and plan.version
        except UserError:
            if not overwrite:
                raise
            seen = read_plan_version(stage.output)  # damaged: to make all anew is the way out
        if plan is not None and overwrite:
            if plan.identity.get("kind") != stage.kind:
                raise _other_kind(stage, plan.identity)
        elif plan is not None:
            if _check_same(stage, plan, units):
                return plan.version
        elif seen is None and not _is_free(stage):
            continue
        try:
            version = publish_plan(stage.output, stage.identity(), units, if_version=seen)
        except (FileExistsError, ChangedError):
            overwrite = False  # another run was first: join it, or be refused
            continue
        if seen is not None:
            _remove_outputs(stage, everything=overwrite)
        return version


def _remove_outputs(stage: Stage, *, everything: bool) -> None:
    """Removes what was made under an earlier plan, and nothing else; of all, or its end alone."""
    storage.delete(stage.output / MANIFEST_NAME)  # first: it is no dataset any more
    if not everything:
        return
    listing = list_folder(stage.output)
    current = load_plan(stage.output)
    kept = {PLAN_NAME, MANIFEST_NAME, *(current.parts if current else ())}
    owned = (UNITS_FOLDER, *stage.work_folders)
    extra = (REJECTS_NAME, *stage.extra_files)
    storage.delete_all(
        stage.output / name
        for name in listing
        if name not in kept
        and (name in extra or name.partition("/")[0] in owned or is_shard(stage, name))
    )
    for name in stage.work_folders:
        if (folder := storage.local_folder(stage.output / name)) is not None:
            shutil.rmtree(folder, ignore_errors=True)


def is_shard(stage: Stage, name: str) -> bool:
    """Tells whether a file below the folder is called as the stage's shards are."""
    return "/" not in name and any(fnmatchcase(name, p) for p in stage.shard_patterns)


def strays(stage: Stage, plan: Plan, kept: set[str], listing: Listing) -> list[str]:
    """Returns what is in a folder though no finished unit names it: shards, and files of units.

    Args:
      stage: whose folder it is.
      plan: of all its units.
      kept: the files that markers name, and the markers.
      listing: of the folder.
    """
    kept = {*kept, *plan.parts}
    return [
        name
        for name in listing
        if name not in kept and (is_shard(stage, name) or name.startswith(f"{UNITS_FOLDER}/"))
    ]


def _other_kind(stage: Stage, identity: dict[str, Any]) -> UserError:
    found = describe_kind(str(identity.get("kind")))
    return UserError(
        f"--output {stage.output}: holds {found}, and this command makes "
        f"{describe_kind(stage.kind)}. Choose another folder; --overwrite does not replace one "
        "kind of dataset by another."
    )


def _is_continued(stage: Stage, old: Sequence[Unit], new: Sequence[Unit]) -> bool:
    """Tells whether every unit of an old plan that is finished is in the new one as it was."""
    if len(old) > len(new):
        return False
    return all(
        before.digest == now.digest or not is_finished(stage.output, before)
        for before, now in zip(old, new, strict=False)
    )


def describe_changes(name: str, old: Any, new: Any) -> list[str]:
    """Names what differs between two values; of objects, the keys at which they do."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            change
            for key in keys
            for change in describe_changes(f"{name} {key}", old.get(key), new.get(key))
        ]
    return [f"{name} ({old!r}, now {new!r})"]


def _differences(old: dict[str, Any], stage: Stage) -> list[str]:
    """Names what differs between the identity in a plan and the stage's, in the user's words."""
    new = json.loads(json.dumps(stage.identity()))  # as it is read back: tuples are lists
    if old.get("kind") != new["kind"]:
        return ["what it makes"]
    changed = []
    old_config, new_config = old.get("config", {}), new["config"]
    for key in sorted({*old_config, *new_config}):
        flag = "--" + key.replace("_", "-")
        changed += describe_changes(flag, old_config.get(key), new_config.get(key))
    for role in sorted({*old.get("fingerprints", {}), *new["fingerprints"]}):
        if old["fingerprints"].get(role) != new["fingerprints"].get(role):
            changed.append(f"the {role.replace('_', ' ')} (another fingerprint)")
    for kind in sorted({*old.get("parents", {}), *new["parents"]}):
        if old["parents"].get(kind) != new["parents"].get(kind):
            changed.append(f"the {describe_kind(kind)} read (another manifest)")
    return changed
