"""What files are called in a dataset: names that differ, and stay when a corpus is moved."""

import itertools
import os
from collections import Counter
from collections.abc import Container, Sequence

from blt.corpus.files.filesystems import is_remote


def unique_sources(found: Sequence[tuple[str, str]]) -> list[str]:
    """Names the files; where two would share a name, each is called by its path.

    A relative path is taken as it was given, of absolute ones what lies below the folder that all
    files have in common, so that a corpus may be moved. The same goes for a file that lies in a
    folder with the name of another file, since an archive's members are called like that. Paths
    that are alike once they are readable get numbers.

    Args:
      found: of each file its path, and its name below the folder that it was found in.
    """
    common = len(_common_folder([path for path, _ in found]))
    choices = [
        [readable_path(choice) for choice in (path, path[common:], name)] for path, name in found
    ]
    sources = [names.pop() for names in choices]
    while True:
        count = Counter(sources)
        unclear = [
            index
            for index, source in enumerate(sources)
            if choices[index] and (count[source] > 1 or is_below(source, count))
        ]
        if not unclear:
            break
        for index in unclear:
            sources[index] = choices[index].pop()
    taken = {source for source in sources if count[source] == 1}
    for index in sorted(range(len(found)), key=lambda index: os.fsencode(found[index][0])):
        if count[sources[index]] > 1:
            sources[index] = numbered(sources[index], taken)
            taken.add(sources[index])
    return sources


def _common_folder(paths: list[str]) -> str:
    """Returns how absolute paths begin, with the last slash; "" if some are relative."""
    if not all(is_remote(path) or os.path.isabs(path) for path in paths):
        return ""
    first, last = (path.split("/") for path in (min(paths), max(paths)))
    pairs = enumerate(zip(first, last, strict=False))
    shared = next((i for i, (one, other) in pairs if one != other), len(first) - 1)
    return "/".join([*first[:shared], ""]) if shared else ""


def is_below(source: str, sources: Container[str]) -> bool:
    """Tells whether one of `sources` is called as a folder above `source` is."""
    end = source.rfind("/")
    while end > 0:
        if source[:end] in sources:
            return True
        end = source.rfind("/", 0, end)
    return False


def numbered(source: str, taken: Container[str]) -> str:
    """Returns `source`, or with the first number that makes it one that is not taken."""
    names = (f"{source}~{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([source], names) if name not in taken)


def readable_path(path: str) -> str:
    """Returns a path as valid Unicode with POSIX slashes; bytes that are not UTF-8 as `\\xff`."""
    path = path.replace(os.sep, "/")
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
