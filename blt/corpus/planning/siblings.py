"""Tables that neither name nor content shows, told by the other shards of their dataset.

CSV and TSV have no first bytes to be known by. So a file that nothing shows to be anything else
(`part-00000`) is read as its siblings are: files of the same folder and the same name but for the
number and the suffixes (`part-00002.csv`), all of which are CSV, or all TSV, and have as many
columns. Nothing else is told by what lies beside a file.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from blt.cli.console import count
from blt.corpus.config import EncodeConfig
from blt.corpus.files.decompress import DamagedInputError, read_blocks
from blt.corpus.files.detect import EMPTY, shard_family
from blt.corpus.mends import BOM
from blt.corpus.readers.csv_dialect import BadRowError, Dialect

_TABLES = ("csv", "tsv")
_Family = tuple[str, str]  # folder, and name without number and suffixes


def take_formats_of_siblings(
    entries: Sequence[dict[str, Any]],
    undecided: Collection[int],
    config: EncodeConfig,
    beside: Sequence[dict[str, Any]] = (),
) -> None:
    """Gives entries the format of their siblings, and a note.

    Args:
      entries: of a plan, which are changed.
      undecided: the indices of those that are text because nothing shows another format.
      config: how tables are read.
      beside: other entries that were told.
    """
    if not undecided or not any(entry["format"] in _TABLES for entry in (*entries, *beside)):
        return
    families = {index: family for index in undecided if (family := _family(entries[index]))}
    wanted = set(families.values())
    shown: dict[_Family, dict[str, dict[str, Any]]] = {}  # an entry for each format
    told = (entry for index, entry in enumerate(entries) if index not in undecided)
    for entry in (*told, *beside):
        family = _family(entry)
        if family in wanted and entry["format"] != EMPTY:
            shown.setdefault(family, {}).setdefault(entry["format"], entry)
    for index, family in sorted(families.items()):
        siblings = shown.get(family, {})
        if len(siblings) == 1 and (format_name := next(iter(siblings))) in _TABLES:
            _take_format(entries[index], siblings[format_name], config)


def _family(entry: dict[str, Any]) -> _Family | None:
    folder, name = os.path.split(entry["path"])
    family = shard_family(name)
    return None if family is None else (folder, family)


def _take_format(entry: dict[str, Any], sibling: dict[str, Any], config: EncodeConfig) -> None:
    format_name = sibling["format"]
    widths = [_width(either, format_name, config) for either in (entry, sibling)]
    name = os.path.basename(sibling["path"])
    if None in widths or widths[0] != widths[1]:
        has = "has no first row" if widths[0] is None else f"has {count(widths[0], 'field')}"
        entry["note"] = (
            f"{entry['path']}: beside {name}, which is {format_name}, but it {has} in its first "
            "row, not as many; taken as text."
        )
        return
    entry["format"] = format_name
    entry["note"] = f"{entry['path']}: taken as {format_name}, as {name} beside it is."


def _width(entry: dict[str, Any], format_name: str, config: EncodeConfig) -> int | None:
    """Returns how many fields the first row of a table has; None if it has none."""
    try:
        rows = Dialect.of(format_name, config).parse(_first_lines(entry, config))
        return next((len(row) for row in rows if row), None)
    except (BadRowError, DamagedInputError, OSError):
        return None


def _first_lines(entry: dict[str, Any], config: EncodeConfig) -> Iterator[str]:
    """Yields the lines of the first block, as the parser wants them."""
    ratio = config.max_decompression_ratio
    blocks = read_blocks(entry["path"], entry["compression"], max_ratio=ratio)
    first = next(blocks, b"").removeprefix(BOM).replace(b"\0", b"?")
    for line in first.split(b"\n"):
        yield line.decode("latin-1") + "\n"
