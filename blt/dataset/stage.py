"""A stage of the way of the data: a plan, units that can be done in any order, a manifest last.

The output folder of a stage holds

    _plan.json            the units, written before the work
    _units/00012.json     what unit 12 gave, written once its shards are in place
    _units/00012.rejects.parquet   its rejects, if it had any
    _units/00012.failed.json       why it failed, if it did
    _units/failure.json            why the last run failed, if it did
    <shards>             named by unit
    _rejects.parquet      of all units (stages that read foreign data)
    <extra files>        that speak of all units, such as _summary.json
    _manifest.json        written last; no manifest: not a dataset

Nothing here knows about Beam: `start`, `work_on` for each pending unit, then `finish` is a whole
run. `pipelines` only decides where the units are worked on.
"""

import contextlib
import dataclasses
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blt.dataset.loss import (
    DEFAULT_MAX_LOST_FRACTION,
    Findings,
    describe_loss,
    describe_lost_input,
    lost_shares,
    shares_to_json,
)
from blt.dataset.manifest import (
    MANIFEST_NAME,
    Manifest,
    describe_kind,
    read_manifest,
    write_manifest,
)
from blt.dataset.plan_file import PLAN_NAME, load_plan, write_plan
from blt.dataset.rejects import describe_rejects, merge_rejects
from blt.dataset.storage import (
    TEMPORARY_PREFIX,
    prepare_output_folder,
    read_json,
    remove_temporaries,
    sha256_file,
    sha256_json,
    write_json,
)
from blt.dataset.units import Progress, Unit, UnitResult, no_progress
from blt.errors import BltError, MadeOtherwiseError, UserError, WorkError

UNITS_FOLDER = "_units"
REJECTS_NAME = "_rejects.parquet"

UnitFunction = Callable[[Unit, Path, Progress], UnitResult]
Finisher = Callable[[Path, Manifest], None]
_FAILURE_NAME = "failure.json"  # why the last run failed, in `UNITS_FOLDER`
_MAX_NAMED = 3


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
    """

    kind: str
    output: Path
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
    find_losses: Callable[[Path, list[UnitResult]], Findings] | None = None
    before_manifest: Callable[[Path, list[UnitResult]], None] | None = None
    max_lost_fraction: float = DEFAULT_MAX_LOST_FRACTION

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
    """
    plan_path = stage.output / PLAN_NAME
    if not plan_path.exists():
        others = [p.name for p in stage.output.iterdir()] if stage.output.is_dir() else []
        # A run that was killed before it had a plan leaves no more than temporary files.
        if others := [name for name in others if not name.startswith(TEMPORARY_PREFIX)]:
            raise UserError(
                f"--output {stage.output}: holds other files ({sorted(others)[0]}, …) and was not "
                f"made by this command. Choose an empty or new folder."
            )
        return None
    identity, old_units = load_plan(plan_path)
    changed = _differences(identity, stage)
    is_same = [unit.digest for unit in old_units] == [unit.digest for unit in units]
    if not changed and not (is_same or (stage.grows and _is_continued(stage, old_units, units))):
        changed.append("its input files (some were added, removed or changed)")
    if identity.get("kind") != stage.kind:
        raise _other_kind(stage, identity)
    if changed:
        raise MadeOtherwiseError(
            stage.output,
            f"made by a run that differs in {'; '.join(changed)}",
            "Choose another folder, or give --overwrite to make it anew.",
        )
    if not (stage.output / MANIFEST_NAME).exists():
        return None
    manifest = read_manifest(stage.output, stage.kind)
    names = [*(shard.name for shard in manifest.shards), *manifest.files]
    is_same &= all(manifest.config.get(key) == value for key, value in stage.finishing.items())
    if not is_same or not all((stage.output / name).is_file() for name in names):
        (stage.output / MANIFEST_NAME).unlink()  # it is no longer the whole dataset
        return None
    return manifest


def earlier_units(stage: Stage) -> list[Unit]:
    """Returns the units that an earlier run of this stage planned; none if it differed."""
    path = stage.output / PLAN_NAME
    if not path.exists():
        return []
    identity, units = load_plan(path)
    return [] if _differences(identity, stage) else units  # `finished_manifest` will say which


def start(
    stage: Stage,
    units: Sequence[Unit],
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> list[Unit]:
    """Prepares the output folder and returns the units that are still to do.

    What a killed run left half-done is removed; units that are whole are kept. `progress` is told
    of the bytes of the units that were looked at.

    Raises:
      UserError: the folder cannot be written to, or holds the result of something else.
    """
    if overwrite:
        _remove_outputs(stage)
    finished_manifest(stage, units)
    prepare_output_folder(stage.output)
    remove_temporaries(stage.output)
    # First of all: it says whose folder this is, should this run be killed.
    write_plan(stage.output, stage.identity(), units)
    prepare_output_folder(stage.output / UNITS_FOLDER)
    (stage.output / UNITS_FOLDER / _FAILURE_NAME).unlink(missing_ok=True)
    for name in stage.extra_files:
        (stage.output / name).unlink(missing_ok=True)  # they speak of all shards: made anew

    pending, kept = [], set()
    for unit in units:
        result = read_result(stage.output, unit)
        if result is None:
            pending.append(unit)
        else:
            kept.update(shard.name for shard in result.shards)
        progress(unit.num_bytes)
    for pattern in stage.shard_patterns:
        for path in stage.output.glob(pattern):
            if path.name not in kept:
                path.unlink()
    for unit in pending:
        for path in (stage.output / UNITS_FOLDER).glob(f"{unit.index:05d}.*"):
            path.unlink()
    return pending


def work_on(stage: Stage, unit: Unit, progress: Progress) -> UnitResult | None:
    """Does one unit and writes its marker; None if it failed, with the reason written beside it.

    A failing unit does not stop the others: `finish` reports all that failed.

    Raises:
      WorkError: not even the reason could be written, as on a full disk.
    """
    folder = stage.output / UNITS_FOLDER
    trace = None
    try:
        result = stage.run_unit(unit, stage.output, progress)
        for leftover in ("failed", "traceback"):
            (folder / f"{unit.index:05d}.{leftover}.json").unlink(missing_ok=True)
        write_json(_marker_path(stage.output, unit), {"digest": unit.digest, **result.to_json()})
        return result
    except Exception as error:  # whatever it is, the other units must finish
        if isinstance(error, BltError):
            reason = str(error)
        else:
            import traceback

            reason = f"{type(error).__name__}: {error}"
            trace = traceback.format_exc()
    # Only now, since until here the error held on to the files that fill the disk.
    try:
        if trace is not None:
            write_json(folder / f"{unit.index:05d}.traceback.json", trace)
        write_json(folder / f"{unit.index:05d}.failed.json", {"reason": reason})
    except WorkError as error:
        raise WorkError(
            f"unit {unit.index}: {reason} Run the same command again once that is fixed; finished "
            "units are kept."
        ) from error
    return None


def finish(stage: Stage, units: Sequence[Unit]) -> Manifest:
    """Checks that every unit is there and nothing was lost, and writes the manifest.

    Raises:
      WorkError: a unit failed or is missing, records do not add up, or too much was lost; it is
        noted in the folder, until a later run begins or ends well.
    """
    try:
        return _finish(stage, units)
    except WorkError as error:
        note_failure(stage, str(error))
        raise


def note_failure(stage: Stage, reason: str) -> None:
    """Notes in the output folder why the run failed, if there is room to, for `read_failure`."""
    with contextlib.suppress(WorkError):
        write_json(stage.output / UNITS_FOLDER / _FAILURE_NAME, {"reason": reason})


def read_failure(output: Path) -> str | None:
    """Returns why the last run of a stage failed; None if it did not, or was killed."""
    path = output / UNITS_FOLDER / _FAILURE_NAME
    try:
        return str(read_json(path)["reason"]) if path.is_file() else None
    except (UserError, KeyError, TypeError):
        return None  # cut short: no more than a note


def _finish(stage: Stage, units: Sequence[Unit]) -> Manifest:
    failures, results = [], []
    for unit in units:
        result = read_result(stage.output, unit, verify=False)
        if result is None:
            failures.append(f"unit {unit.index}: {_failure_reason(stage.output, unit)}")
        else:
            results.append(result)
    if failures:
        shown = "; ".join(failures[:3]) + ("; …" if len(failures) > 3 else "")
        raise WorkError(
            f"{stage.output}: {len(failures)} of {len(units)} units failed: {shown} "
            "Run the same command again once that is fixed; finished units are kept."
        )
    totals = Counter({"documents": 0, "bytes": 0, "tokens": 0, "rejects": 0, "filtered": 0})
    for result in results:
        totals.update(result.counts)
    if stage.reads_foreign_data:
        paths = [stage.output / UNITS_FOLDER / f"{u.index:05d}.rejects.parquet" for u in units]
        merge_rejects([path for path in paths if path.exists()], stage.output / REJECTS_NAME)
        _check_accounting(stage, totals)
    lost = invalid_utf8 = None
    if stage.reads_foreign_data:
        findings = stage.find_losses(stage.output, results) if stage.find_losses else Findings()
        totals = Counter({**totals, **findings.totals})
        _check_loss(stage, totals, findings)
        lost = {"shares": shares_to_json(totals), "inputs": list(findings.lost_inputs)}
        if findings.invalid_utf8_inputs:
            invalid_utf8 = {"inputs": list(findings.invalid_utf8_inputs)}
    if stage.before_manifest is not None:
        stage.before_manifest(stage.output, results)
    (stage.output / UNITS_FOLDER / _FAILURE_NAME).unlink(missing_ok=True)
    files = (REJECTS_NAME,) * stage.reads_foreign_data + stage.extra_files
    return write_manifest(
        stage.output,
        kind=stage.kind,
        config={**stage.told, **stage.finishing, **stage.config},
        fingerprints=stage.fingerprints,
        parents=stage.parents,
        totals=dict(totals),
        shards=list(itertools.chain.from_iterable(result.shards for result in results)),
        files={name: sha256_file(stage.output / name) for name in files},
        lost=lost,
        invalid_utf8=invalid_utf8,
    )


def read_result(output: Path, unit: Unit, *, verify: bool = True) -> UnitResult | None:
    """Returns what a finished unit gave; None if it is not there whole or made otherwise.

    Args:
      output: the stage's folder.
      unit: as planned now; its digest must be the one that the marker holds.
      verify: also check the sha256 of its shards.
    """
    path = _marker_path(output, unit)
    if not path.is_file():
        return None
    try:
        marker = read_json(path)
        if marker["digest"] != unit.digest:
            return None
        result = UnitResult.from_json(marker)
    except (UserError, KeyError, TypeError):
        return None  # a marker that cannot be trusted is no marker
    for shard in result.shards:
        shard_path = output / shard.name
        if not shard_path.is_file() or (verify and sha256_file(shard_path) != shard.sha256):
            return None
    return result


def is_finished(output: Path, unit: Unit) -> bool:
    """Tells whether a unit, as it is, was finished; its shards may have been lost since."""
    try:
        return read_json(_marker_path(output, unit))["digest"] == unit.digest
    except (UserError, KeyError, TypeError):
        return False


def count_finished_bytes(output: Path, units: Sequence[Unit]) -> int:
    """Returns the bytes of the units whose marker is there: for progress, not for trust."""
    return sum(unit.num_bytes for unit in units if has_marker(output, unit))


def has_marker(output: Path, unit: Unit) -> bool:
    """Tells whether a unit's marker is there: for progress, not for trust."""
    return _marker_path(output, unit).is_file()


def _marker_path(output: Path, unit: Unit) -> Path:
    return output / UNITS_FOLDER / f"{unit.index:05d}.json"


def _failure_reason(output: Path, unit: Unit) -> str:
    path = output / UNITS_FOLDER / f"{unit.index:05d}.failed.json"
    return read_json(path)["reason"] if path.exists() else "it was not done."


def _check_accounting(stage: Stage, totals: Counter[str]) -> None:
    accounted = totals["documents"] + totals["rejects"] + totals["filtered"]
    if totals["records"] != accounted:
        raise WorkError(
            f"{stage.output}: {totals['records']} records were read, but {accounted} are accounted "
            "for as documents, rejects or filtered. This is a bug; please report it."
        )


def _check_loss(stage: Stage, totals: Counter[str], findings: Findings) -> None:
    if any(share.exceeds(stage.max_lost_fraction) for share in lost_shares(totals)):
        inputs = [describe_lost_input(row) for row in findings.lost_inputs[:_MAX_NAMED]]
        more = len(findings.lost_inputs) > _MAX_NAMED
        in_inputs = f"; most in {', '.join(inputs)}" + ", …" * more if inputs else ""
        raise WorkError(
            f"{stage.output}: lost {describe_loss(totals)}, more than --max-lost-fraction "
            f"{stage.max_lost_fraction:g} allows{in_inputs} "
            f"({describe_rejects(stage.output / REJECTS_NAME).rstrip('.')}). "
            f"See {stage.output / REJECTS_NAME}. Raise the limit and run again, which keeps the "
            "work; or fix the input and run again with --overwrite."
        )


def _other_kind(stage: Stage, identity: dict[str, Any]) -> UserError:
    found = describe_kind(str(identity.get("kind")))
    return UserError(
        f"--output {stage.output}: holds {found}, and this command makes "
        f"{describe_kind(stage.kind)}. Choose another folder; --overwrite does not replace one "
        "kind of dataset by another."
    )


def _remove_outputs(stage: Stage) -> None:
    """Removes what an earlier run of this stage made, and nothing else.

    Raises:
      UserError: the folder holds another kind of dataset; nothing is removed.
    """
    if not (stage.output / PLAN_NAME).exists():
        return
    try:
        identity, _ = load_plan(stage.output / PLAN_NAME)
    except UserError:  # damaged: to make all anew is the way out
        identity = {"kind": stage.kind}
    if identity.get("kind") != stage.kind:
        raise _other_kind(stage, identity)
    (stage.output / MANIFEST_NAME).unlink(missing_ok=True)  # first: it is no dataset any more
    for name in (REJECTS_NAME, *stage.extra_files):
        (stage.output / name).unlink(missing_ok=True)
    for pattern in stage.shard_patterns:
        for path in stage.output.glob(pattern):
            path.unlink()
    for name in (UNITS_FOLDER, *stage.work_folders):
        shutil.rmtree(stage.output / name, ignore_errors=True)
    (stage.output / PLAN_NAME).unlink()


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
