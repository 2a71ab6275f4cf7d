"""Copies of results at other places, for tests."""

from pathlib import Path

from blt.dataset import storage
from blt.dataset.storage import as_place


def copy_to(source, target):
    """Copies a file or a folder to a place, and returns the place."""
    source, target = Path(source), as_place(target)
    if source.is_file():
        storage.replace(target, source.read_bytes())
        return target
    for file in storage.list_below(source):
        name = str(Path(file.path).relative_to(source))
        storage.replace(target / name, Path(file.path).read_bytes())
    return target


def contents(folder):
    """Returns the bytes of every file below a folder at a place, by name."""
    start = len(f"{folder}/")
    return {
        file.path[start:]: as_place(file.path).read_bytes() for file in storage.list_below(folder)
    }
