"""Fields that stand in the names of folders: `lang=en/part-0.parquet`, as Hive and Spark write."""

from typing import Any
from urllib.parse import unquote

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry

_NULL = "__HIVE_DEFAULT_PARTITION__"


def partition_fields(entry: Entry, config: EncodeConfig) -> dict[str, str | None]:
    """Returns the fields that the folders of an input name, of those that are asked for.

    Folders are those of its path as it was given and found, and of a member in its archive; of two
    that name a field the inner one counts. Values are text, null for Hive's word for it.

    >>> entry = {"path": "in/lang=en/a.parquet", "source": "lang=en/a.parquet"}
    >>> partition_fields(entry, EncodeConfig(keep_fields=("lang",)))
    {'lang': 'en'}
    """
    wanted = {config.id_field, *config.keep_fields}
    return {name: value for name, value in all_partitions(entry).items() if name in wanted}


def all_partitions(entry: Entry) -> dict[str, Any]:
    """Returns all fields that the folders of an input name."""
    found: dict[str, Any] = {}
    for path in (entry.get("archive", entry["path"]), entry["source"]):
        for folder in path.split("/")[:-1]:
            name, equals, value = folder.partition("=")
            if equals and name:
                found[_plain(name)] = None if value == _NULL else _plain(value)
    return found


def _plain(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape")  # a path may hold bytes that are not UTF-8
    return unquote(raw.decode("utf-8", "backslashreplace"), errors="backslashreplace")
