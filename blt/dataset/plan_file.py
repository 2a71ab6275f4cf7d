"""`_plan.json`: the identity of a stage, its units, and whose run the folder is.

    {...the stage's identity..., "run": token, "units": [...]}
    {...the stage's identity..., "run": token, "num_units": 100000, "unit_parts": [...]}

It is made by one of all runs that try, and replaced only by one that has seen what it replaces. The
token is another one in each plan that is made, so that nobody takes another's for his own. Where
the units are many, they lie in parts beside the markers, so that workers read what they need alone.
"""

import bisect
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from blt.dataset import storage
from blt.dataset.storage import Place, as_place, is_remote, json_bytes, json_errors
from blt.dataset.units import Unit
from blt.errors import UserError

PLAN_NAME = "_plan.json"
UNITS_FOLDER = "_units"
_EMBEDDED_BYTES = 1 << 18  # of units, that `_plan.json` itself may hold
_PART_BYTES = 1 << 18  # of units, about, in a part
_PART_UNITS = 1000
_NUM_REQUESTS = 8  # for parts at a time
_CACHED_PARTS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan as it was read.

    Attributes:
      identity: `Stage.identity()` of the run that made it.
      units: in order.
      parts: the files below the folder that hold them; empty if the plan does.
      version: of `_plan.json`, as `storage.stat` tells it.
    """

    identity: dict[str, Any]
    units: list[Unit]
    parts: tuple[str, ...]
    version: str


def publish_plan(
    output: Place, identity: dict[str, Any], units: Sequence[Unit], *, if_version: str | None
) -> str:
    """Writes a plan if it is the first, or replaces the one that was read; returns its version.

    Args:
      output: the folder.
      identity: `Stage.identity()`.
      units: in order.
      if_version: of the plan to replace; None if there must be none.

    Raises:
      FileExistsError: another run made one meanwhile.
      ChangedError: another run replaced it meanwhile.
      OSError: it cannot be written.
    """
    token = uuid.uuid4().hex
    parts: list[dict[str, Any]] = []
    piece: list[bytes] = []
    first = size = total = 0
    for unit in units:
        text = json.dumps(unit.to_json(), sort_keys=True).encode("ascii")
        if piece and (size + len(text) > _PART_BYTES or len(piece) >= _PART_UNITS):
            parts.append(_write_part(output, token, len(parts), first, piece))
            piece, first, size = [], unit.index, 0
        piece.append(text)
        size, total = size + len(text), total + len(text)
    plan = {**identity, "run": token}
    if not parts and total <= _EMBEDDED_BYTES:
        plan["units"] = [unit.to_json() for unit in units]
    else:
        parts.append(_write_part(output, token, len(parts), first, piece))
        plan |= {"num_units": len(units), "unit_parts": parts}
    place, data = output / PLAN_NAME, json_bytes(plan)
    try:
        if if_version is None:
            return storage.create(place, data)
        return storage.replace(place, data, if_version=if_version)
    except OSError:
        with contextlib.suppress(OSError):
            storage.delete_all(output / part["name"] for part in parts)
        raise


def _write_part(
    output: Place, token: str, number: int, first: int, texts: list[bytes]
) -> dict[str, Any]:
    name = f"{UNITS_FOLDER}/plan-{token}-{number:05d}.json"
    storage.replace(output / name, b"[" + b",\n".join(texts) + b"]\n")
    return {"name": name, "first": first}


def load_plan(output: Place) -> Plan | None:
    """Reads the plan of a folder; None if there is none.

    The payloads are packed one by one: memory never holds the text of all.

    Raises:
      UserError: it is unreadable or no plan; the message names it.
    """
    place = output / PLAN_NAME
    with _plan_errors(place):
        try:
            version = storage.stat(place).version
            value = json.loads(place.read_bytes())
        except FileNotFoundError:
            return None
        if not isinstance(value, dict):
            raise TypeError("no object")
        value.pop("run", None)
        if "units" in value:
            units, parts = [Unit.make(**unit) for unit in value.pop("units")], ()
        else:
            num_units = value.pop("num_units")
            parts = tuple(part["name"] for part in value.pop("unit_parts"))
            units = []
            for found in _read_parts(output, parts):
                units += found
            if len(units) != num_units:
                raise ValueError(f"its parts hold {len(units)} units, not {num_units}")
        return Plan(identity=value, units=units, parts=parts, version=version)


def read_plan(output: Place) -> list[Unit]:
    """Returns the units of a folder's plan.

    Raises:
      UserError: as `load_plan`, or there is none.
    """
    output = as_place(output)
    plan = load_plan(output)
    if plan is None:
        raise UserError(f"{output / PLAN_NAME}: cannot be read (No such file or directory).")
    return plan.units


def read_plan_version(output: Place) -> str | None:
    """Returns the version of a folder's plan; None if there is none."""
    try:
        return storage.stat(output / PLAN_NAME).version
    except FileNotFoundError:
        return None


def _read_parts(output: Place, names: Sequence[str]) -> Iterator[list[Unit]]:
    if not is_remote(output):
        yield from (_read_part(output, name) for name in names)
        return
    with concurrent.futures.ThreadPoolExecutor(_NUM_REQUESTS) as pool:
        yield from pool.map(lambda name: _read_part(output, name), names)


def _read_part(output: Place, name: str) -> list[Unit]:
    with _plan_errors(output / name):
        if name.partition("/")[0] != UNITS_FOLDER or ".." in name or name.count("/") != 1:
            raise ValueError(f"a part is called {name!r}")  # a name from data must not lead away
        return [Unit.make(**unit) for unit in json.loads((output / name).read_bytes())]


@contextlib.contextmanager
def _plan_errors(place: Place) -> Iterator[None]:
    try:
        with json_errors(place):
            yield
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{place}: not a plan of this program ({error!r}). Give its command --overwrite to "
            "make all anew, or another folder."
        ) from error


class _UnitReader:
    """Units by number, for workers: holds a plan that is small, or some parts of one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: collections.OrderedDict[tuple[str, str], Any] = collections.OrderedDict()

    def read(self, output: Place, version: str, index: int) -> Unit:
        plan = self._get(str(output), version, lambda: _read_head(output))
        units, first = plan["units"], 0
        if units is None:
            number = bisect.bisect_right(plan["firsts"], index) - 1
            name, first = plan["names"][number], plan["firsts"][number]
            units = self._get(str(output), name, lambda: _read_part(output, name))
        return units[index - first]

    def _get(self, output: str, what: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            if (output, what) not in self._held:
                self._held[output, what] = make()
                if len(self._held) > _CACHED_PARTS:
                    self._held.popitem(last=False)
            self._held.move_to_end((output, what))
            return self._held[output, what]


def _read_head(output: Place) -> dict[str, Any]:
    place = output / PLAN_NAME
    with _plan_errors(place):
        value = json.loads(place.read_bytes())
        if "units" in value:
            return {"units": [Unit.make(**unit) for unit in value["units"]]}
        parts = value["unit_parts"]
        names, firsts = [part["name"] for part in parts], [part["first"] for part in parts]
        return {"units": None, "names": names, "firsts": firsts}


_UNIT_READER = _UnitReader()


def read_unit(output: Place, version: str, index: int) -> Unit:
    """Returns one unit of a plan, without reading all of a large one.

    Args:
      output: the folder.
      version: of the plan; another one is read anew.
      index: the unit's number.

    Raises:
      UserError: the plan cannot be read.
    """
    return _UNIT_READER.read(output, version, index)
