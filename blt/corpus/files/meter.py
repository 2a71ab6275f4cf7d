"""How far an input is read, and how many of its stored bytes a reject stands for."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from blt.corpus.entry import Entry
from blt.corpus.files.decompress import PLAIN
from blt.corpus.records import Reject
from blt.dataset.units import Progress, no_progress


class Meter:
    """A `Progress` of one input that also knows how much content its stored bytes gave.

    Reports exactly `total` bytes, whatever a reader reads beside its range or leaves out.

    Args:
      total: bytes to read, as stored.
      progress: is told of them.
      is_plain: the content is what is stored.
      is_range: it is a range of a file.

    Attributes:
      told: of an archive, the members that were told by content, or with a note, each with its
        format.
      rules: of an archive, the rule of `--format-of` for each member that one means.
      empty_members: of an archive, how many members hold no record.
      json_as_text: of an archive, how many members look like JSON Lines but lack the text field.
    """

    def __init__(
        self, total: int, progress: Progress = no_progress, *, is_plain: bool, is_range: bool
    ) -> None:
        self._progress, self._total = progress, total
        self._is_plain, self._is_range = is_plain, is_range
        self._reported = 0
        self._stored = self._stored_before = 0  # in all, and before the last block
        self._content = 0
        self.told: dict[str, str] = {}
        self.rules: list[str] = []
        self.empty_members = self.json_as_text = 0

    @classmethod
    def of_entry(cls, entry: Entry, progress: Progress = no_progress) -> "Meter":
        return cls(
            entry["num_bytes"],
            progress,
            is_plain=entry["compression"] == PLAIN,
            is_range="range" in entry,
        )

    def __call__(self, num_bytes: int) -> None:
        """Notes that `num_bytes` more stored bytes were read."""
        self._stored_before = self._stored
        self._stored += num_bytes
        num_bytes = min(num_bytes, self._total - self._reported)
        self._reported += num_bytes
        if num_bytes:
            self._progress(num_bytes)

    def watch(self, blocks: Iterator[Any]) -> Iterator[Any]:
        """Yields what `read_blocks` does, and counts the bytes."""
        for block in blocks:
            if isinstance(block, bytes):
                self._content += len(block)
            yield block

    def finish(self) -> None:
        """Reports what is left of the total."""
        self(self._total - self._reported)

    def measured(self, reject: Reject) -> Reject:
        """Returns a reject with how many bytes it stands for, of the content or as stored.

        Of an input that is given up, that is all that was not read for certain: so the last block
        counts as lost, unless the reject says where the damage is.
        """
        if reject.stored_bytes is not None or reject.num_bytes is not None:
            return reject
        if reject.ends_input:
            return dataclasses.replace(
                reject, stored_bytes=max(0, self._total - self._stored_before)
            )
        return dataclasses.replace(reject, num_bytes=len(reject.sample or b""))

    @property
    def total(self) -> float:
        """How many stored bytes can be lost; of a range, whose last line ends after it, any."""
        return math.inf if self._is_range else self._total

    def as_stored(self, content_bytes: int) -> int:
        """Returns about how many stored bytes some of the content takes."""
        if self._is_plain:
            return content_bytes
        return content_bytes * self._stored // max(1, self._content)
