"""Runs the units of a stage on Beam.

    numbers of pending units -> Reshuffle -> ParDo(work on one) -> finish when all are done

Only numbers of units travel, never documents, so memory is that of the units at work. The result of
a unit does not depend on where it runs, nor on how often.
"""

import argparse
import contextlib
import dataclasses
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from blt.cli.command import Summary
from blt.cli.console import Console, Phase, ProgressLine, count, format_bytes
from blt.cli.quiet import redirect_stderr
from blt.dataset import stage as stages
from blt.dataset.finishing import UndoneError, finish, note_failure
from blt.dataset.manifest import Manifest
from blt.dataset.markers import marked_indices
from blt.dataset.stage import Stage
from blt.dataset.storage import (
    is_remote,
    place_errors,
    prepare_output_folder,
    remove_scratch,
    shared_use,
)
from blt.dataset.units import Unit
from blt.errors import BltError, WorkError
from pipelines.beam_flags import (
    count_workers,
    make_options,
    make_runner,
    runs_in_this_process,
)
from pipelines.progress import WORK, count_done

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineResult


_WORTH_SAYING_BYTES = 1 << 20  # of work; with less of it, starting a worker takes longer

_MAX_ROUNDS = 3  # of work, where shards did not stay as they were
_SORTED_UNITS = 10_000

# Makes the transform from numbers of pending units to the numbers of those done.
MakeTransform = Callable[[Stage, Sequence[Unit]], "beam.PTransform"]
StartPhases = Callable[[Stage], Sequence[Phase]]


def run_stage(
    stage: Stage,
    units: Sequence[Unit],
    args: argparse.Namespace,
    console: Console,
    make_transform: MakeTransform | None = None,
    *,
    start_phases: StartPhases | None = None,
    metrics: Counter[str] | None = None,
) -> tuple[Manifest | None, str]:
    """Runs a stage to its manifest: plan, pending units on Beam, checks.

    Args:
      stage: what to run.
      units: all of its units, from `blt.dataset.stage.make_units`.
      args: with `dry_run`, `overwrite` and `beam_flags`; and `verify`, where the command has it.
      console: for progress.
      make_transform: for a stage whose units need more than their payload; given the stage and the
        pending units. None works on each unit alone.
      start_phases: for a transform that does other things before the work on units: called before
        them, and returns what is to be seen of them.
      metrics: Beam's counters of this run are added to it by namespace and name, such as
        "blt/documents" and "blt.engine/padding". None of them is in the manifest.

    Returns:
      The manifest (None after a dry run), and how it went: "done", "already done" or "dry run".

    Raises:
      UserError: before any work, when the output folder or a flag will not do, or another run of
        another identity has the folder.
      WorkError: units failed, or too many records were rejected.
    """
    if args.dry_run:
        return None, "dry run"
    verify = getattr(args, "verify", False)
    with place_errors(stage.output):
        manifest = None if args.overwrite else stages.finished_manifest(stage, units)
    if manifest is not None and not verify:
        return manifest, "already done"
    with _hygiene(stage) as sweep:
        num_bytes = sum(unit.num_bytes for unit in units)
        what = f"{stage.output.name}: looking for finished units"
        with console.progress(what, num_bytes) as progress:
            stage, pending = stages.start(
                stage, units, overwrite=args.overwrite, verify=verify, progress=progress
            )
        if manifest is not None and not pending:
            return manifest, "already done"
        if len(pending) < len(units):
            finished = f"{len(units) - len(pending)} of {len(units)} units are finished"
            console.say(f"{stage.output}: {finished}; going on from there.")
        try:
            for _ in range(_MAX_ROUNDS):
                if pending:
                    phases = start_phases(stage) if start_phases else []
                    flags = args.beam_flags
                    found = _run_pipeline(stage, pending, flags, console, make_transform, phases)
                    if metrics is not None:
                        metrics.update(found)
                sweep()
                try:
                    return _conclude(stage, units), "done"
                except UndoneError as error:
                    undone, pending = error, list(error.units)
                console.say(f"{stage.output}: {count(len(pending), 'unit')} to be done again.")
            raise undone
        except BltError as error:
            note_failure(stage, str(error))
            raise


@contextlib.contextmanager
def _hygiene(stage: Stage) -> Iterator[Callable[[], None]]:
    """Yields what removes the temporary files of killed runs; does so at the start."""
    prepare_output_folder(stage.output)
    remove_scratch()
    if is_remote(stage.output):
        yield lambda: None
        return
    with shared_use(stage.output) as sweep:
        yield sweep


def _run_pipeline(
    stage: Stage,
    pending: Sequence[Unit],
    beam_flags: list[str],
    console: Console,
    make_transform: MakeTransform | None,
    earlier_phases: Sequence[Phase],
) -> Counter[str]:
    """Runs the pending units and returns the counters of the run."""
    import apache_beam as beam

    options = make_options(beam_flags, verbose=console.verbose)
    label, total = stage.output.name, sum(unit.num_bytes for unit in pending)
    workers = count_workers(options) or 0
    if len(pending) < workers and total >= _WORTH_SAYING_BYTES:
        console.say(
            f"{label}: {count(len(pending), 'unit')} of work for {workers} workers, so that "
            f"{workers - len(pending)} of them will be idle. A smaller --target-shard-bytes of blt "
            "encode makes more shards, and so more units."
        )
    read_done = count_done(pending, lambda: marked_indices(stage.output), WORK)
    phases = [dataclasses.replace(p, label=f"{label}: {p.label}") for p in earlier_phases]
    phases.append(Phase(label, read_done, total))
    with (
        runner_failures_in_words(),
        quiet_workers(options, console),
        ProgressLine(console, phases),
    ):
        pipeline = beam.Pipeline(runner=make_runner(options), options=options)
        build_pipeline(pipeline, stage, pending, make_transform)
        result = pipeline.run()
        result.wait_until_finish()
        return _read_counters(result)


@contextlib.contextmanager
def runner_failures_in_words() -> Iterator[None]:
    """Raises what goes wrong while Beam runs as an error of ours, in one line.

    Raises:
      BltError: as a step raised it, without what Beam adds.
      WorkError: a runner's own failure, or an error in a worker process.
    """
    try:
        yield
    except BltError as error:
        raise type(error)(_own_words(str(error))) from error
    except Exception as error:  # a runner's own failure: say it in one line
        if "KeyboardInterrupt" in str(error):  # Beam wraps what the user's Ctrl-C raised in a DoFn
            raise KeyboardInterrupt from error
        # An error in a worker process comes as the text of its traceback.
        if ours := re.findall(r"^blt\.[\w.]+Error: (.*)", str(error), re.MULTILINE):
            raise WorkError(_own_words(ours[-1])) from error
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise WorkError(
            f"the Beam runner failed: {type(error).__name__}: {reason}. Finished units are kept; "
            "run the same command again, with --verbose for details."
        ) from error


def _own_words(message: str) -> str:
    """Returns the message of an error of ours without what Beam appends: where it was."""
    return message.partition(" [while running ")[0]


def build_pipeline(
    pipeline: "beam.Pipeline",
    stage: Stage,
    pending: Sequence[Unit],
    make_transform: MakeTransform | None = None,
) -> None:
    """Adds the steps that do the pending units of a stage; see the head of this file."""

    from pipelines.transforms import FinishStage, PlannedUnits, WorkOnUnits

    work = make_transform(stage, pending) if make_transform else WorkOnUnits(stage)
    _ = (
        pipeline
        | "Plan" >> PlannedUnits([unit.index for unit in in_turn(pending)])
        | "WorkOnUnits" >> work
        | "FinishStage" >> FinishStage(stage)
    )


def in_turn(pending: Sequence[Unit]) -> list[Unit]:
    """Returns units in the order in which they are begun.

    Runners share them out in turn, or as workers get free: the largest come first. Those of about a
    size come in any order, so that runs in the same folder do not all begin with the same ones;
    where units are so many that this means little, in the order of the plan from one of them on.
    """
    if len(pending) > _SORTED_UNITS:
        first = random.randrange(len(pending))
        return [*pending[first:], *pending[:first]]
    shuffled = random.sample(list(pending), len(pending))
    return sorted(shuffled, key=lambda unit: unit.num_bytes.bit_length(), reverse=True)


def _read_counters(result: "PipelineResult") -> Counter[str]:
    """Returns our counters of a finished pipeline: "namespace/name" -> sum over all steps."""
    from apache_beam.metrics import MetricsFilter

    from pipelines.transforms import COUNTS_NAMESPACE, MEASURED_NAMESPACE

    ours = MetricsFilter().with_namespaces([COUNTS_NAMESPACE, MEASURED_NAMESPACE])
    found: Counter[str] = Counter()
    for counter in result.metrics().query(ours)["counters"]:
        name = counter.key.metric
        found[f"{name.namespace}/{name.name}"] += counter.result or 0
    return found


def quiet_workers(
    options: "PipelineOptions", console: Console
) -> contextlib.AbstractContextManager[None]:
    """Keeps worker processes, which log to standard error from their first import on, off it."""
    if console.verbose or runs_in_this_process(options):
        return contextlib.nullcontext()
    return redirect_stderr()


def _conclude(stage: Stage, units: Sequence[Unit]) -> Manifest:
    """Returns the manifest that the pipeline wrote, or raises what kept it from writing it."""
    return stages.finished_manifest(stage, units) or finish(stage, units)


def describe_plan(stage: Stage, units: Sequence[Unit], outputs: Iterable[str]) -> Summary:
    """The summary of a dry run: units, bytes and outputs, of which nothing was written."""
    outputs = list(outputs)
    total = sum(unit.num_bytes for unit in units)
    shown = [f"  unit {unit.index}: {format_bytes(unit.num_bytes)}" for unit in units[:20]]
    if len(units) > 20:
        shown.append(f"  … and {len(units) - 20} more")
    return Summary(
        {"dry_run": True, "units": len(units), "bytes": total, "outputs": outputs},
        [
            f"Plan for {stage.output} (nothing was written): {count(len(units), 'unit')}, "
            f"{format_bytes(total)}.",
            *shown,
            "Outputs: " + ", ".join(outputs),
        ],
    )
