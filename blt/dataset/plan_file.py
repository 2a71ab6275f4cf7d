"""`_plan.json`: the identity of a stage and its units, written before the work.

    {...the stage's identity..., "units": [...]}

It may speak of millions of files: it is written and read a unit at a time.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blt.dataset.storage import atomic_path, json_errors
from blt.dataset.units import Unit
from blt.errors import UserError

PLAN_NAME = "_plan.json"
# Lines of a plan, which is laid out as `write_json` does it.
_UNITS_START, _UNIT_END, _PLAN_END = b'  "units": [\n', b"    }", b"  ]\n}\n"


def write_plan(output: Path, identity: dict[str, Any], units: Sequence[Unit]) -> None:
    """Writes a plan, atomically, as `write_json` would; memory holds the payload of one unit.

    Args:
      output: the folder.
      identity: `Stage.identity()`.
      units: in order.
    """
    encoder = json.JSONEncoder(sort_keys=True, indent=2)
    head = encoder.encode(identity).removesuffix("\n}")
    with (
        atomic_path(output / PLAN_NAME) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        file.write(f'{head},\n  "units": [')  # the last of the keys, sorted
        for number, unit in enumerate(units):
            file.write(",\n    " if number else "\n    ")
            for piece in encoder.iterencode(unit.to_json()):
                file.write(piece.replace("\n", "\n    "))
        file.write("\n  ]\n}\n" if units else "]\n}\n")


def load_plan(path: Path) -> tuple[dict[str, Any], list[Unit]]:
    """Returns the identity of the stage that a plan is of, and its units.

    The payloads are packed one by one: memory never holds all of the file.

    Raises:
      UserError: it is missing, unreadable or no plan; the message names it.
    """
    lines: list[bytes] = []
    try:
        with json_errors(path), open(path, "rb") as file:
            for line in file:
                lines.append(line)
                if line == _UNITS_START:
                    identity = json.loads(b"".join(lines) + b"]}")
                    units = list(_read_units(file))
                    break
            else:  # without units, or laid out by another hand
                identity = json.loads(b"".join(lines))
                units = [Unit.make(**unit) for unit in identity["units"]]
            del identity["units"]
            return identity, units
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a plan of this program ({error!r}). Give its command --overwrite to make "
            "all anew, or another folder."
        ) from error


def read_plan(output: Path) -> list[Unit]:
    """Returns the units of `_plan.json`."""
    return load_plan(output / PLAN_NAME)[1]


def _read_units(lines: Iterable[bytes]) -> Iterator[Unit]:
    """Yields the units of a plan, from the lines after the first of them all."""
    unit: list[bytes] = []
    for line in lines:
        unit.append(line)
        if line.rstrip(b",\n") == _UNIT_END:
            yield Unit.make(**json.loads(b"".join(unit).rstrip(b",\n")))
            unit = []
    if b"".join(unit) != _PLAN_END:
        raise ValueError("its end is missing")
