"""What the stages that run a model have in common: its number format, and where its step runs."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from blt.console import Console
from blt.engine.options import AUTO, BFLOAT16
from blt.stage import Stage
from blt.units import Unit

if TYPE_CHECKING:
    from pipelines.transforms import WorkOnUnits

Hints = dict[str, str | int]


def asked_precision(args: argparse.Namespace, hints: Hints) -> str:
    """Returns --precision; with --accelerator, auto is what the workers' accelerator calls for."""
    if args.precision == AUTO and "accelerator" in hints:
        return BFLOAT16  # the workers have what this machine may lack
    return args.precision


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
