"""How commands whose result is a single file know it again: a note beside it.

`model.keras` is accompanied by `model.json`: what it was made from (`identity`), its sha256, and
the summary that was given then.
"""

from pathlib import Path
from typing import Any

from blt.errors import UserError
from blt.storage import read_json, sha256_file, sha256_json, write_json


def sidecar_path(output: Path) -> Path:
    return output.with_suffix(".json")


def find_finished(output: Path, identity: dict[str, Any], *, overwrite: bool) -> Any | None:
    """Returns the summary of the run that made `output` if it was this very run, else None.

    Args:
      output: the file.
      identity: everything that the file depends on, as JSON.
      overwrite: make it anew whatever is there.

    Raises:
      UserError: the file is there, but was made from something else, or not by this program.
    """
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder; give the name of a file.")
    if overwrite or not output.exists():
        return None
    note = read_json(sidecar_path(output)) if sidecar_path(output).exists() else {}
    if sha256_json(note.get("identity")) != sha256_json(identity):
        changed = _changed(note.get("identity") or {}, identity)
        raise UserError(
            f"--output {output}: exists, made with other settings or data{changed}. "
            "Choose another name, or give --overwrite to make it anew."
        )
    return note["summary"] if note["sha256"] == sha256_file(output) else None


def note_finished(output: Path, identity: dict[str, Any], summary: Any) -> None:
    """Writes the note beside `output`."""
    value = {"identity": identity, "sha256": sha256_file(output), "summary": summary}
    write_json(sidecar_path(output), value)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    old_config, new_config = old.get("config", {}), new.get("config", {})
    names = [key for key in new_config if key in old_config and old_config[key] != new_config[key]]
    names += [key for key in new if key != "config" and old.get(key) != new[key]]
    return f" ({', '.join(name.replace('_', ' ') for name in names)})" if names and old else ""
