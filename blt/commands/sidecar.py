"""How commands whose result is a single file know it again: a note beside it.

`model.keras` is accompanied by `model.keras.json`: what it was made from (`identity`), its sha256,
and the summary that was given then. (Not `model.json`: that may be a corpus of the user's.)
"""

from typing import Any

from blt.dataset.stage import describe_changes
from blt.dataset.storage import (
    Place,
    local_copy,
    place_errors,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from blt.errors import MadeOtherwiseError, UserError

# Parts of an identity beside its config, in words.
_OTHERS = {
    "command": "the command",
    "fingerprints": "the entropy model",
    "parents": "the data that it was made from",
}


def sidecar_path(output: Place) -> Place:
    return output.with_name(output.name + ".json")


def find_finished(output: Place, identity: dict[str, Any], *, overwrite: bool) -> Any | None:
    """Returns the summary of the run that made `output` if it was this very run, else None.

    Args:
      output: the file.
      identity: everything that the file depends on, as JSON.
      overwrite: make it anew whatever is there.

    Raises:
      MadeOtherwiseError: the file is there, but was made from something else, or nothing says from
        what.
      UserError: it is a folder, where its note goes lies another file, or the place cannot be
        asked.
    """
    with place_errors(output):
        return _find_finished(output, identity, overwrite=overwrite)


def _find_finished(output: Place, identity: dict[str, Any], *, overwrite: bool) -> Any | None:
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder; give the name of a file.")
    note = _read_note(sidecar_path(output))
    if overwrite or not output.exists():
        return None
    if not note:  # where earlier versions put it
        older = output.with_suffix(".json")
        note = _read_note(older) if older.is_file() and _is_note(older) else {}
    if not note:
        raise MadeOtherwiseError(
            output,
            f"exists, and {sidecar_path(output).name} does not say how it was made",
            "Choose another name, or give --overwrite to replace it.",
            is_known=False,
        )
    if sha256_json(note["identity"]) != sha256_json(identity):
        changed = _changed(note["identity"] or {}, identity)
        raise MadeOtherwiseError(
            output,
            f"exists, made with other settings or data{changed}",
            "Choose another name, or give --overwrite to make it anew.",
        )
    return note["summary"] if note["sha256"] == _sha256(output) else None


def note_finished(output: Place, identity: dict[str, Any], summary: Any) -> None:
    """Writes the note beside `output`."""
    value = {"identity": identity, "sha256": _sha256(output), "summary": summary}
    write_json(sidecar_path(output), value)


def _sha256(output: Place) -> str:
    """Returns the sha256 of a result; of one in a store it is its copy here, to be used again."""
    return sha256_file(local_copy(output))


def _read_note(path: Place) -> dict[str, Any]:
    """Returns a note, {} if there is none; raises UserError if the file there is no note."""
    if not path.exists():
        return {}
    if not _is_note(path):
        raise UserError(
            f"--output: {path}, where the note about it goes, is a file of another kind. Choose "
            "another name, or move that file away."
        )
    return read_json(path)


def _is_note(path: Place) -> bool:
    try:
        note = read_json(path)
    except UserError:
        return False
    return isinstance(note, dict) and {"identity", "sha256", "summary"} <= set(note)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    old_config, new_config = old.get("config", {}), new.get("config", {})
    changes = []
    for key in new_config:
        if key in old_config:
            changes += describe_changes(key.replace("_", " "), old_config[key], new_config[key])
    changes += [what for key, what in _OTHERS.items() if old.get(key) != new.get(key)]
    return f" ({', '.join(changes)})" if changes and old else ""
