"""The stages of `blt run`, what each needs, and what they were made with.

`_run.json` in the output folder has the settings of each stage that is done, so that a later run
can say, before any work, what changed and which stages follow from it.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blt.cli.command import CommandModule
from blt.dataset.manifest import MANIFEST_NAME
from blt.dataset.stage import describe_changes
from blt.dataset.storage import Place, StorePlace, is_remote, kept_copy, sha256_file, write_json
from blt.errors import MadeOtherwiseError, UserError

RECORD_NAME = "_run.json"
_HOW_TO_GO_ON = (
    "Give --redo changed to make them anew and keep the rest, --overwrite to make everything anew, "
    "or another --output."
)
# Flags that say where, how fast, or under which conditions; and the input, of which encode itself
# tells what changed.
_WITHOUT_EFFECT = frozenset(
    (
        "accelerator",
        "beam_flags",
        "dry_run",
        "exclude",
        "include",
        "input",
        "json",
        "max_lost_fraction",
        "min_ram",
        "on_unusable_table",
        "overwrite",
        "owns_process",
        "strict",
        "verbose",
        "verify",
    )
)
# Flags that take several datasets.
_DATASETS = ("data", "patches")


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage of the chain.

    Attributes:
      module: its command.
      section: of the config.
      arguments: that the chain sets; the section's come after them.
      label: what it is called.
      needs: the labels of the steps whose results it reads.
    """

    module: CommandModule
    section: str
    arguments: dict[str, Any]
    label: str
    needs: tuple[str, ...] = ()


def with_followers(steps: Sequence[Step], labels: Iterable[str]) -> list[str]:
    """Returns labels and those of all steps that need them, directly or not, in their order."""
    found = set(labels)
    for step in steps:
        if not found.isdisjoint(step.needs):
            found.add(step.label)
    return [step.label for step in steps if step.label in found]


class RunRecord:
    """What each stage of a run was made with.

    Args:
      root: the output folder of the run.
      is_new: whether to begin a new one, whatever is there.

    Raises:
      UserError: what is there is no record.
      OSError: the store that it is in cannot be asked.
    """

    def __init__(self, root: Place, *, is_new: bool = False) -> None:
        self._path = root / RECORD_NAME
        self._root = root
        self._stages: dict[str, Any] = {}
        if self._path.is_file() and not is_new:
            try:
                self._stages = dict(json.loads(self._path.read_bytes())["stages"])
            except (OSError, KeyError, TypeError, ValueError) as error:
                if isinstance(self._path, StorePlace) and isinstance(error, OSError):
                    raise
                raise UserError(
                    f"{self._path}: is not a record of blt run. Delete it; then what changed since "
                    "is found stage by stage."
                ) from error

    @property
    def is_empty(self) -> bool:
        """Whether nothing tells what was made with which settings."""
        return not self._stages

    def changes(
        self, step: Step, args: argparse.Namespace, digests: Mapping[str, str | None]
    ) -> list[str]:
        """Returns in what a stage that is there was made otherwise: "steps (300, now 400)".

        Args:
          step: the stage.
          args: its arguments now.
          digests: of the result of each stage, by label; see `result_digest`.
        """
        old = self._stages.get(step.label)
        if not isinstance(old, dict) or not args.output.exists():
            return []
        before, now = old.get("settings", {}), self._settings(args)
        # A flag that is not in the record is newer than it.
        changes = [
            change
            for name in sorted(before.keys() & now.keys())
            for change in describe_changes(name, before[name], now[name])
        ]
        read = old.get("read", {})
        for label in step.needs:
            result = digests[label]  # None: it is not whole, and may become what it was
            if label in read and result not in (None, read[label]):
                changes.append(f"another result of {label}")
        return changes

    def note(self, step: Step, args: argparse.Namespace, digests: Mapping[str, str | None]) -> None:
        """Writes that a stage is done with these arguments, from what the others gave."""
        self._stages[step.label] = {
            "settings": self._settings(args),
            "read": {label: digests[label] for label in step.needs},
        }
        write_json(self._path, {"stages": self._stages})

    def _settings(self, args: argparse.Namespace) -> dict[str, Any]:
        settings = {
            name: self._plain(value)
            for name, value in vars(args).items()
            if name not in _WITHOUT_EFFECT
        }
        # A stage of the chain reads one dataset of a kind; records of earlier runs have it so.
        return settings | {
            name: settings[name][0] for name in _DATASETS if len(settings.get(name) or ()) == 1
        }

    def _plain(self, value: Any) -> Any:
        """Returns a value as JSON has it; paths in the output folder as they are in it."""
        if isinstance(value, Place):
            return path_below(value, self._root) or str(value)
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        return value if isinstance(value, str | int | float | None) else str(value)


def path_below(place: Place, folder: Place) -> str | None:
    """Returns the path of a place in a folder, "." for the folder; None of one that is not in it.

    >>> path_below(StorePlace("gs://b/run/blt/m.keras"), StorePlace("gs://b/run"))
    'blt/m.keras'
    """
    if is_remote(place) != is_remote(folder) or not place.is_relative_to(folder):
        return None
    if isinstance(place, StorePlace):
        return place.url[len(str(folder)) + 1 :] or "."
    return str(place.relative_to(folder))


def result_digest(output: Place) -> str | None:
    """Returns the sha256 of what tells a stage's result apart; None if it is not whole.

    Raises:
      UserError: no copy of a model can be kept here.
      OSError: the store that it is in cannot be asked.
    """
    if output.is_dir():
        manifest = output / MANIFEST_NAME
        return sha256_file(manifest) if manifest.is_file() else None
    if not output.is_file():
        return None
    with kept_copy(output) as copy:  # which the stages that follow need in any case
        return sha256_file(copy)


@dataclasses.dataclass(frozen=True)
class Redo:
    """Which stages are made anew.

    Attributes:
      forced: labels of those that are, whatever is there.
      if_changed: the others are, too, where they were made with other settings or data.
      changes: by label, in what the stages that are there were made otherwise.
      expected: labels of all that will be, as far as can be known before the work.
      digests: of the result of each stage that is there, by label.
    """

    forced: frozenset[str]
    if_changed: bool
    changes: Mapping[str, list[str]]
    expected: tuple[str, ...]
    digests: Mapping[str, str | None]

    def reason(self, label: str) -> str:
        """Says why a stage is made anew."""
        if label in self.changes:
            return ", ".join(self.changes[label])
        return "asked for" if label in self.forced else "follows"


def decide(
    prepared: Sequence[tuple[Step, argparse.Namespace]],
    record: RunRecord,
    args: argparse.Namespace,
    root: Place,
) -> Redo:
    """Decides what is made anew, before any work.

    Args:
      prepared: the steps and their arguments.
      record: of the earlier run.
      args: with `overwrite`, `redo` and `from_stage`.
      root: the output folder.

    Raises:
      UserError: settings changed, and it was not said that the stages are to be made anew.
    """
    if args.overwrite and (args.redo is not None or args.from_stage is not None):
        other = "--redo" if args.redo is not None else "--from"
        raise UserError(f"--overwrite: makes everything anew, and {other} keeps some. Give one.")
    steps = [step for step, _ in prepared]
    digests = {step.label: result_digest(its.output) for step, its in prepared}
    changes = {
        step.label: found for step, its in prepared if (found := record.changes(step, its, digests))
    }
    forced = {step.label for step in steps if args.overwrite}
    if args.from_stage is not None:
        first = [step.label for step in steps if args.from_stage == step.module.NAME]
        forced.update(with_followers(steps, first))
    if args.redo is None and (left := {k: v for k, v in changes.items() if k not in forced}):
        raise UserError(_words_of_changes(root, steps, left))
    anew = forced.union(with_followers(steps, changes))
    expected = tuple(step.label for step in steps if step.label in anew)
    return Redo(frozenset(forced), args.redo is not None, changes, expected, digests)


def _words_of_changes(root: Place, steps: Sequence[Step], changes: Mapping[str, list[str]]) -> str:
    anew = with_followers(steps, changes)
    kept = [step.label for step in steps if step.label not in anew]
    what = "; ".join(f"{label}: {', '.join(found)}" for label, found in changes.items())
    stays = f" To keep: {', '.join(kept)}." if kept else ""
    return (
        f"--output {root}: was made otherwise. {what}. Stages to make anew: "
        f"{', '.join(anew)}.{stays} {_HOW_TO_GO_ON}"
    )


def words_of_refusal(steps: Sequence[Step], step: Step, error: MadeOtherwiseError) -> UserError:
    """Returns what to raise where a stage finds that it was made otherwise, and may not redo it."""
    if not error.is_known:
        return UserError(
            f"{step.label}: {error.output}: {error.differs}. Delete it to have it made anew, or "
            f"give --from {step.module.NAME}."
        )
    anew = with_followers(steps, [step.label])
    return UserError(
        f"{step.label}: {error.output}: {error.differs}. Stages to make anew: {', '.join(anew)}. "
        f"{_HOW_TO_GO_ON}"
    )
