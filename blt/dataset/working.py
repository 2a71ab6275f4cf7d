"""Work on the units of a stage, by whoever is told to; see `blt.dataset.stage`."""

import contextlib
import functools

from blt.dataset.markers import failure_names, read_markers, write_marker
from blt.dataset.plan_file import read_plan_version, read_unit
from blt.dataset.stage import Stage
from blt.dataset.storage import is_remote, noted_publications, write_json
from blt.dataset.units import Progress, Unit, UnitResult
from blt.errors import BltError, UserError, WorkError


class SupersededError(WorkError):
    """Another run has made the folder its own."""


def check_current(stage: Stage) -> None:
    """Checks that a folder is still that of the run that the stage was started for.

    Raises:
      SupersededError: another run has replaced its plan.
    """
    if stage.plan_version is None:
        return
    if read_plan_version(stage.output) != stage.plan_version:
        raise SupersededError(
            f"--output {stage.output}: another run has made it its own meanwhile (--overwrite, or "
            "new input), so that this one ends. What it did in other folders is kept."
        )


def planned_unit(stage: Stage, index: int) -> Unit:
    """Returns a unit of the plan that a stage works under, by its number.

    Raises:
      SupersededError: another run has replaced the plan.
      UserError: the plan cannot be read.
    """
    assert stage.plan_version is not None
    try:
        unit = read_unit(stage.output, stage.plan_version, index)
    except (UserError, IndexError):
        check_current(stage)
        raise
    return unit


def _done_already(stage: Stage, unit: Unit) -> UnitResult | None:
    """Returns what a unit gave if another run of the same identity has done it, else None."""
    if stage.plan_version is None:
        return None
    (marker,) = read_markers(stage.output, [unit])
    return marker.result if marker is not None and marker.digest == unit.digest else None


def work_on(stage: Stage, unit: Unit, progress: Progress) -> UnitResult | None:
    """Does one unit and writes its marker; None if it failed, with the reason written beside it.

    A failing unit does not stop the others: `finish` reports all that failed. A unit that another
    run of the same identity has finished meanwhile is not done again.

    Raises:
      SupersededError: the folder is another run's by now; nothing was published.
      WorkError: not even the reason could be written, as on a full disk.
    """
    trace = None
    try:
        if (result := _done_already(stage, unit)) is not None:
            progress(unit.num_bytes)
            return result
        with noted_publications(functools.partial(check_current, stage)) as published:
            result = stage.run_unit(unit, stage.output, progress)
            write_marker(stage.output, unit, result, published.files)
        return result
    except SupersededError:
        raise
    except Exception as error:  # whatever it is, the other units must finish
        if isinstance(error, BltError):
            reason = str(error)
        elif isinstance(error, OSError) and is_remote(error.filename or ""):
            reason = f"{error.filename}: {error.strerror}."
        else:
            import traceback

            reason = f"{type(error).__name__}: {error}"
            trace = traceback.format_exc()
    # Only now, since until here the error held on to the files that fill the disk.
    check_current(stage)  # else the note is none of the folder's
    with contextlib.suppress(OSError):
        # A run of the same identity that is done removes what units were still made from.
        if (result := _done_already(stage, unit)) is not None:
            return result
    try:
        reason_name, trace_name = failure_names(unit.index)
        if trace is not None:
            write_json(stage.output / trace_name, trace)
        write_json(stage.output / reason_name, {"reason": reason})
    except WorkError as error:
        raise WorkError(
            f"unit {unit.index}: {reason} Run the same command again once that is fixed; finished "
            "units are kept."
        ) from error
    return None
