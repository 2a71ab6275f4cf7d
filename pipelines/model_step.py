"""What the stages that run a model have in common: its number format, and where its step runs."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from blt.cli.console import Console
from blt.dataset.plan_file import load_plan
from blt.dataset.stage import Stage
from blt.dataset.storage import Place
from blt.dataset.units import Unit
from blt.engine.options import AUTO, BFLOAT16, PRECISIONS

if TYPE_CHECKING:
    from pipelines.transforms import WorkOnUnits

Hints = dict[str, str | int]


def asked_precision(args: argparse.Namespace, hints: Hints) -> str:
    """Returns --precision; for auto what an earlier run of the output took, if there is one.

    What auto is on a CPU is measured, so that it may come out otherwise when a run is finished than
    when it was begun. With --accelerator it is what the workers' accelerator calls for.
    """
    if args.precision != AUTO:
        return args.precision
    earlier = None if args.overwrite else _earlier_precision(args.output)
    if earlier is not None:
        return earlier
    return BFLOAT16 if "accelerator" in hints else AUTO  # the workers have what this one may lack


def _earlier_precision(output: Place) -> str | None:
    plan = load_plan(output)
    if plan is None:
        return None
    config = plan.identity.get("config", {})
    precision = config.get("score_spec", config).get("precision")
    return precision if precision in PRECISIONS else None


def say_unused_gpu(console: Console, hints: Hints) -> None:
    """Says that a GPU of this machine will lie idle, unless the model runs elsewhere."""
    from blt.engine.accelerator import unused_gpu_note

    note = None if "accelerator" in hints else unused_gpu_note()
    if note:
        console.say(note)


@dataclasses.dataclass(frozen=True)
class MakeTransform:
    """Makes the step that works on units, with Beam's resource hints."""

    hints: Hints

    def __call__(self, stage: Stage, pending: list[Unit]) -> "WorkOnUnits":
        from pipelines.transforms import WorkOnUnits

        return WorkOnUnits(stage, self.hints)
