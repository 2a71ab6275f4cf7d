"""Where the developers' corpora lie (`BLT_SHARED`), if they are there; and what many tests need."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("BLT_SHARED") or Path(__file__).resolve().parents[2] / "shared")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the shared corpora are not here")


@contextlib.contextmanager
def not_allocated() -> Iterator[None]:
    """Lets models be made with shapes alone, without the memory of their weights."""
    import keras
    from keras.src.backend.common import global_state

    with keras.StatelessScope():
        try:
            yield
        finally:  # else the end of the scope makes up for it
            global_state.set_global_attribute("uninitialized_variables", [])


def dataset_files(folder: Path) -> dict[str, bytes]:
    """Returns the files below a folder by their path, without what tells of their runs.

    That is the token in a plan, and the versions that markers note.
    """
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name, data in files.items():
        parent, _, base = name.rpartition("/")
        if base == "_plan.json" or (parent.endswith("_units") and base[:-5].isdecimal()):
            value = json.loads(data)
            value.pop("run", None)
            value.pop("files", None)
            files[name] = json.dumps(value).encode()
    return files
