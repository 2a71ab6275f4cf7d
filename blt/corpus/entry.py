"""A file, or a piece of a large one, as it stands in the plan of `encode`.

path, source, size, mtime_ns   as discovered
format, compression            as detected ("text" | "jsonl" | "tar" | …; "plain" | "gzip" | …)
num_bytes                      bytes to read, as stored: the size, or that of the range
range                          optional [start, end): bytes of a plain file of lines (a record
                               belongs to the range it starts in), or Parquet row groups
note                           optional, for the user
lacks_text                     optional, true: it looks like JSON Lines but lacks the text field
"""

from typing import Any

Entry = dict[str, Any]


def is_whole(entry: Entry) -> bool:
    """Tells whether an entry is of a whole file, not of a piece."""
    return "range" not in entry or entry["num_bytes"] == entry["size"]


def is_first(entry: Entry) -> bool:
    """Tells whether an entry is of a whole file, or of its first piece."""
    return "range" not in entry or entry["range"][0] == 0
