"""One way into every input: records in order, and damage as a last reject."""

import os
from collections.abc import Callable, Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import DamagedInputError
from blt.corpus.jsonl_reader import read_jsonl
from blt.corpus.paragraph_reader import read_text_paragraphs
from blt.corpus.parquet_reader import read_parquet
from blt.corpus.plan import Entry
from blt.corpus.records import Record, Reject
from blt.corpus.text_reader import read_text_file, read_text_lines
from blt.errors import WorkError
from blt.units import Progress

_Reader = Callable[[Entry, EncodeConfig, Progress], Iterator[Record]]


_TEXT_READERS: dict[str, _Reader] = {
    "file": read_text_file,
    "line": read_text_lines,
    "paragraph": read_text_paragraphs,
}


def read_records(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields the records of a file, or of a range of it, as planned.

    Records before a damage are kept, and the damage is the last record, a reject at the position of
    the last record before it. `progress` adds up to the entry's `num_bytes`.

    Raises:
      WorkError: the file is gone, cannot be read, or is not the one that was planned.
    """
    path = entry["path"]
    position = None
    watch = _ClampedProgress(progress, entry["num_bytes"])
    try:
        size = os.stat(path).st_size
        if size != entry["size"]:
            raise WorkError(
                f"{path}: has {size} bytes, but had {entry['size']} when the work was planned. "
                "Run with --overwrite, or put the file back."
            )
        for record in _reader(entry, config)(entry, config, watch.advance):
            position = record.position
            yield record
    except DamagedInputError as error:
        yield Reject(entry["source"], position, error.reason, str(error), ends_input=True)
    except OSError as error:
        raise WorkError(f"{path}: cannot be read ({error.strerror or error}).") from error
    watch.finish()


def _reader(entry: Entry, config: EncodeConfig) -> _Reader:
    if entry["format"] == "text":
        return _TEXT_READERS[config.doc_per]
    return {"jsonl": read_jsonl, "parquet": read_parquet}[entry["format"]]


class _ClampedProgress:
    """Reports exactly `total` bytes, whatever a reader reads beside its range or leaves out."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._left = total

    def advance(self, num_bytes: int) -> None:
        num_bytes = min(num_bytes, self._left)
        self._left -= num_bytes
        if num_bytes:
            self._progress(num_bytes)

    def finish(self) -> None:
        self.advance(self._left)
