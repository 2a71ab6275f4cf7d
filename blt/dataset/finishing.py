"""The end of a stage: every unit is there, nothing was lost; see `blt.dataset.stage`."""

import contextlib
from collections import Counter
from collections.abc import Sequence

from blt.dataset import storage
from blt.dataset.loss import (
    Findings,
    describe_loss,
    describe_lost_input,
    lost_shares,
    shares_to_json,
)
from blt.dataset.manifest import Manifest, write_manifest
from blt.dataset.markers import (
    Listing,
    failure_names,
    is_whole,
    list_folder,
    marker_name,
    read_markers,
)
from blt.dataset.plan_file import UNITS_FOLDER, load_plan
from blt.dataset.rejects import describe_rejects, merge_rejects
from blt.dataset.stage import FAILURE_NAME, REJECTS_NAME, Gathered, Stage, strays
from blt.dataset.storage import (
    Place,
    as_place,
    noted_publications,
    read_json,
    sha256_file,
    write_json,
)
from blt.dataset.units import ShardInfo, Unit
from blt.dataset.working import check_current
from blt.errors import UserError, WorkError

_MAX_NAMED = 3


class UndoneError(WorkError):
    """Units have not been done, though none of them failed: to work on them again is the way out.

    Attributes:
      units: those.
    """

    def __init__(self, message: str, units: Sequence[Unit]) -> None:
        super().__init__(message)
        self.units = units


def finish(stage: Stage, units: Sequence[Unit]) -> Manifest:
    """Checks that every unit is there and nothing was lost, and writes the manifest.

    Files of units that no finished one names are removed: what failed attempts left, and what came
    late from a run that the folder belongs to no more.

    Raises:
      UndoneError: shards are not as they were when their units were done; nothing failed.
      SupersededError: the folder is another run's by now.
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
    with contextlib.suppress(WorkError, OSError):
        check_current(stage)
        write_json(stage.output / UNITS_FOLDER / FAILURE_NAME, {"reason": reason})


def read_failure(output: Place) -> str | None:
    """Returns why the last run of a stage failed; None if it did not, or was killed."""
    place = as_place(output) / UNITS_FOLDER / FAILURE_NAME
    try:
        return str(read_json(place)["reason"]) if place.is_file() else None
    except (UserError, KeyError, TypeError):
        return None  # cut short: no more than a note


def _finish(stage: Stage, units: Sequence[Unit]) -> Manifest:
    check_current(stage)
    gathered = _gather(stage, units)
    totals, output = gathered.totals, stage.output
    lost = invalid_utf8 = None
    with noted_publications(lambda: check_current(stage)):
        if stage.reads_foreign_data:
            names = gathered.reject_tables
            merge_rejects([output / name for name in names], output / REJECTS_NAME)
            _check_accounting(stage, totals)
            findings = stage.find_losses(output, gathered) if stage.find_losses else Findings()
            for name, number in findings.totals.items():
                totals[name] = number  # a Counter's own update would add it
            _check_loss(stage, totals, findings)
            lost = {"shares": shares_to_json(totals), "inputs": list(findings.lost_inputs)}
            if findings.invalid_utf8_inputs:
                invalid_utf8 = {"inputs": list(findings.invalid_utf8_inputs)}
        if stage.before_manifest is not None:
            stage.before_manifest(output, gathered)
        files = (REJECTS_NAME,) * stage.reads_foreign_data + stage.extra_files
        return write_manifest(
            output,
            kind=stage.kind,
            config={**stage.told, **stage.finishing, **stage.config},
            fingerprints=stage.fingerprints,
            parents=stage.parents,
            totals=dict(totals),
            shards=list(gathered.shards),
            files={name: sha256_file(output / name) for name in files},
            lost=lost,
            invalid_utf8=invalid_utf8,
        )


def _gather(stage: Stage, units: Sequence[Unit]) -> Gathered:
    """Sums what the units gave, and removes the files that none of them names.

    Raises:
      UndoneError: units were not done, though they did not fail.
      WorkError: some failed.
    """
    output, listing = stage.output, list_folder(stage.output)
    totals = Counter({"documents": 0, "bytes": 0, "tokens": 0, "rejects": 0, "filtered": 0})
    shards: list[ShardInfo] = []
    reject_tables: list[str] = []
    kept: set[str] = set()
    missing: list[Unit] = []
    for unit, marker in zip(units, read_markers(output, units, listing), strict=True):
        is_same = marker is not None and marker.digest == unit.digest
        if not (is_same and is_whole(output, marker, listing)):
            missing.append(unit)
            continue
        shards += marker.result.shards
        totals.update(marker.result.counts)
        kept.update((marker_name(unit.index), *marker.files))
        reject_tables += [name for name in marker.files if name.endswith(".rejects.parquet")]
    if missing:
        raise _incomplete(stage, units, missing, listing)
    plan = load_plan(output)
    check_current(stage)
    if plan is not None:
        storage.delete_all(output / name for name in strays(stage, plan, kept, listing))
    return Gathered(
        num_units=len(units), shards=shards, totals=totals, reject_tables=tuple(reject_tables)
    )


def _incomplete(
    stage: Stage, units: Sequence[Unit], missing: Sequence[Unit], listing: Listing
) -> WorkError:
    """Returns the error that says why units are missing."""

    def notes(unit: Unit) -> str:
        return failure_names(unit.index)[0]

    def why(unit: Unit) -> str:
        reason = "it was not done."
        if notes(unit) in listing:
            reason = read_json(stage.output / notes(unit))["reason"]
        return f"unit {unit.index}: {reason}"

    failed = [unit for unit in missing if notes(unit) in listing]
    shown = "; ".join(why(unit) for unit in missing[:_MAX_NAMED])
    shown += "; …" * (len(missing) > _MAX_NAMED)
    message = (
        f"{stage.output}: {len(missing)} of {len(units)} units failed: {shown} "
        "Run the same command again once that is fixed; finished units are kept."
    )
    return WorkError(message) if failed else UndoneError(message, missing)


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
