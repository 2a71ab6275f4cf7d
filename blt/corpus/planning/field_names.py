"""Whether the fields that are named by `--id-field` and `--keep-fields` are in any input.

Where all inputs are tables their schemas tell before the work. Else the units count the documents
that have each field (`with_field.<name>` in the totals), and what no document has is said at the
end, with the nearest of the names that the inputs have.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.decompress import DamagedInputError, read_blocks
from blt.corpus.files.filesystems import open_input
from blt.corpus.files.json_heads import head_objects
from blt.corpus.readers.arrow_reader import read_arrow_schema
from blt.corpus.readers.columns import has_column
from blt.corpus.readers.csv_reader import read_csv_header
from blt.corpus.readers.partitions import all_partitions
from blt.corpus.unmatched import Unmatched
from blt.errors import near_names

# The names of a table's columns, and whether it has a field of a name ("doc.text" too).
_Table = tuple[list[str], Callable[[str], bool]]
_PREFIX = "with_field."
_MAX_LOOKED_AT = 1000  # tables, for a name that the first ones do not have
_MAX_NAMED = 20
_DEFAULT_ID_FIELD = next(
    field.default for field in dataclasses.fields(EncodeConfig) if field.name == "id_field"
)


def count_fields(
    found: Mapping[tuple[int, tuple[str, ...]], int], config: EncodeConfig
) -> Counter[str]:
    """Returns a unit's counts of what its documents have and had.

    Args:
      found: documents by their `found` and `counted`.
      config: names the fields.
    """
    names = (config.id_field, *config.keep_fields)
    counts = Counter({f"{_PREFIX}{name}": 0 for _, name in named_fields(config)})
    for (mask, counted), number in found.items():
        for name in counted:
            counts[name] += number
        for index, name in enumerate(names):
            key = f"{_PREFIX}{name}"
            # A field that is the id and kept is counted once.
            if mask >> index & 1 and key in counts and name not in names[:index]:
                counts[key] += number
    return counts


def named_fields(config: EncodeConfig) -> list[tuple[str, str]]:
    """Returns the fields that the user names, each with its flag; the default id is not one."""
    named = {}
    if config.id_field != _DEFAULT_ID_FIELD:
        named[config.id_field] = "--id-field"
    for name in config.keep_fields:
        named.setdefault(name, "--keep-fields")
    return [(flag, name) for name, flag in named.items()]


def fields_with(totals: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of documents that have each named field, from a manifest's totals."""
    return {
        key.removeprefix(_PREFIX): number
        for key, number in totals.items()
        if key.startswith(_PREFIX)
    }


def unmatched_before(payloads: Iterable[dict[str, Any]], config: EncodeConfig) -> list[Unmatched]:
    """Returns the named fields that no table has, where all inputs are tables that can be read.

    Cheap where all is well: it looks at tables until each name is found.
    """
    left = dict.fromkeys(name for _, name in named_fields(config))
    seen: dict[str, None] = {}
    for number, entry in enumerate(_entries(payloads)):
        if not left:
            return []
        if entry["format"] not in _TABLES or number >= _MAX_LOOKED_AT:
            return []  # nothing can be said yet
        try:
            names, has = _TABLES[entry["format"]](entry, config)
        except _UNREADABLE:
            return []
        partitions = all_partitions(entry)
        left = {name: None for name in left if name not in partitions and not has(name)}
        seen.update(dict.fromkeys((*names, *partitions)))
    return _messages(left, seen, config, "no input") if seen else []


def unmatched_after(
    payloads: Iterable[dict[str, Any]], totals: Mapping[str, int], config: EncodeConfig
) -> list[Unmatched]:
    """Returns the named fields that no document had, with hints from the heads of some inputs."""
    if not totals.get("documents"):
        return []
    counts = fields_with(totals)
    left = [name for _, name in named_fields(config) if not counts.get(name)]
    if not left:
        return []
    seen: dict[str, None] = {}
    for _, entry in zip(range(_MAX_NAMED), _entries(payloads), strict=False):
        seen.update(dict.fromkeys(all_partitions(entry)))
        try:
            seen.update(dict.fromkeys(_head_names(entry, config)))
        except (*_UNREADABLE, RecursionError):
            continue
    return _messages(left, seen, config, "no document")


def _entries(payloads: Iterable[dict[str, Any]]) -> Iterator[Entry]:
    """Yields the entries, one for each file."""
    last = None
    for payload in payloads:
        for entry in payload["files"]:
            if entry["path"] != last:
                yield entry
            last = entry["path"]


def _head_names(entry: Entry, config: EncodeConfig) -> Iterable[str]:
    if entry["format"] in _TABLES:
        return _TABLES[entry["format"]](entry, config)[0]
    if entry["format"] == "jsonl":
        blocks = read_blocks(
            entry["path"], entry["compression"], max_ratio=config.max_decompression_ratio
        )
        return next(head_objects(blocks), {})
    return ()


def _messages(
    names: Iterable[str], seen: Iterable[str], config: EncodeConfig, nothing: str
) -> list[Unmatched]:
    flags = {name: flag for flag, name in named_fields(config)}
    seen = list(seen)
    shown = ", ".join(ascii(name[:60])[1:-1] for name in seen[:_MAX_NAMED])
    found = []
    for name in names:
        hint = near_names(name, seen) or (f" They have {shown}." if shown else "")
        message = f"{flags[name]} {name}: {nothing} has such a field.{hint}"
        found.append(Unmatched(flags[name], name, message))
    return found


def _schema_names(schema: pa.Schema) -> _Table:
    return schema.names, lambda name: has_column(schema, name)


def _parquet(entry: Entry, config: EncodeConfig) -> _Table:
    with open_input(entry["path"]) as file:
        return _schema_names(pq.read_schema(file))


def _arrow(entry: Entry, config: EncodeConfig) -> _Table:
    return _schema_names(read_arrow_schema(entry, config))


def _csv(entry: Entry, config: EncodeConfig) -> _Table:
    names = read_csv_header(entry, config)
    if names is None:
        raise ValueError("no header that can be read")
    return names, names.__contains__


_TABLES: dict[str, Callable[[Entry, EncodeConfig], _Table]] = {
    "parquet": _parquet,
    "arrow": _arrow,
    "csv": _csv,
    "tsv": _csv,
}
_UNREADABLE = (DamagedInputError, ValueError, OSError, pa.ArrowException)
