"""The YAML file in which `blt calibrate` leaves what it found, and what `blt patch` reads of it."""

import dataclasses
from typing import Any

import yaml

from blt.dataset.storage import PlaceLike, as_place, atomic_path
from blt.errors import UserError
from blt.patching.rules import PatchRule


def write_calibration(place: PlaceLike, calibration: dict[str, Any]) -> None:
    """Writes what `calibrate` found as YAML, atomically.

    Raises:
      WorkError: it cannot be written.
    """
    # Lists of numbers on a line of their own: a curve has many.
    text = yaml.safe_dump(
        calibration, sort_keys=False, default_flow_style=None, allow_unicode=True, width=96
    )
    with atomic_path(place) as temporary:
        temporary.write_text(
            "# Made by `blt calibrate`; `blt patch --calibration` takes it.\n" + text,
            encoding="utf-8",
        )


def read_calibration(
    place: PlaceLike,
    fingerprint: str | None,
    *,
    target_patch_bytes: float | None = None,
    **given: Any,
) -> PatchRule:
    """Reads the rule that a calibration found.

    Args:
      place: of the file.
      fingerprint: of the entropy model that the rule will be used with.
      target_patch_bytes: which of the calibration's targets; may be None if it has one.
      **given: what the user asked for besides, by the names of `PatchRule`; it must agree.

    Raises:
      UserError: the file is missing or of another kind, was made with another entropy model, lacks
        the target, or says something else than `given`.
    """
    try:
        calibration = yaml.safe_load(as_place(place).read_text(encoding="utf-8"))
        made_with = calibration["entropy_model"]
        targets = {float(target["target_patch_bytes"]): target for target in calibration["targets"]}
    except OSError as error:
        raise UserError(f"--calibration {place}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"--calibration {place}: not a file that `blt calibrate` wrote. Make it again."
        ) from error
    if made_with != fingerprint:
        raise UserError(
            f"--calibration {place}: made with the entropy model {made_with:.12}…, not with "
            f"{(fingerprint or 'none'):.12}…. Calibrate again with the model that you give."
        )
    if target_patch_bytes is None and len(targets) == 1:
        target_patch_bytes = next(iter(targets))
    if target_patch_bytes not in targets:
        raise UserError(
            f"--calibration {place}: choose one of its targets with --target-patch-bytes: "
            f"{', '.join(f'{target:g}' for target in targets)}."
        )
    names = [field.name for field in dataclasses.fields(PatchRule)]
    chosen = {k: v for k, v in targets[target_patch_bytes].items() if k in names}
    for name, value in given.items():
        flag, found = f"--{name.replace('_', '-')}", chosen.get(name)
        if value is True and not found:
            raise UserError(
                f"{flag}: the calibration {place} was made without it. Calibrate with it, or leave "
                "one of them out."
            )
        if value != found:
            raise UserError(
                f"{flag} {value}: the calibration {place} says {found}. Leave one of them out."
            )
    return PatchRule(**chosen)
