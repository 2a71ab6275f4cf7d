"""The figures of a whole corpus: sums of bits over sums of bytes, never a mean of means.

Shards are streamed, and what is held does not grow with them: the sums of at most `MAX_FOLLOWED`
groups, and percentiles from a bounded sketch. Documents are summed in blocks of a fixed number,
whatever shard they are in, so that the figures do not depend on where shards end.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from blt.dataset.groups import SOURCE, group_name, is_cut
from blt.errors import WorkError
from blt.formats.scores import iterate_scores
from blt.scoring.percentiles import Percentiles

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
MAX_GROUPS = 1000  # shown for each name in `by`: those with the most bytes
MAX_FOLLOWED = 10_000  # whose figures are summed: the first ones, in the order of the documents
_BLOCK_DOCUMENTS = 8192
_BATCH_ROWS = 1024
_COMPRESSORS = ("zlib", "xz")
_NUMBERS = [
    "num_bytes",
    "scored_bytes",
    "nats",
    "eos_nats",
    "bits_per_byte",
    "num_patches",
    *(f"{name}_bits_per_byte" for name in _COMPRESSORS),
]
_COUNTED = ("documents", "bytes", "scored_bytes", "patches", "no_patches", "no_zlib", "no_xz")
_SUMMED = ("nats", "eos_nats", "zlib_bits", "xz_bits")


class _Sums:
    """What is summed over the documents of each group; groups are numbered from 0."""

    def __init__(self) -> None:
        self._counts = np.zeros((len(_COUNTED), 1), np.int64)
        # A sum, and what rounding took from it (Neumaier's way of compensated summation).
        self._sums, self._lost = (np.zeros((len(_SUMMED), 1)) for _ in range(2))

    def add(self, columns: dict[str, np.ndarray], groups: np.ndarray, num_groups: int) -> None:
        """Adds documents.

        Args:
          columns: from `_columns`.
          groups: [num_documents] int64, the group of each.
          num_groups: how many there are by now.
        """
        if (more := num_groups - self._counts.shape[1]) > 0:
            wider = ((0, 0), (0, max(more, self._counts.shape[1])))
            self._counts = np.pad(self._counts, wider)
            self._sums, self._lost = np.pad(self._sums, wider), np.pad(self._lost, wider)
        width = self._counts.shape[1]
        for row, name in enumerate(_COUNTED):
            counted = np.bincount(groups, weights=columns[name], minlength=width)
            self._counts[row] += counted.astype(np.int64)
        for row, name in enumerate(_SUMMED):
            added, before = np.bincount(groups, columns[name], width), self._sums[row]
            total = before + added
            is_larger = np.abs(before) >= np.abs(added)
            large, small = np.where(is_larger, before, added), np.where(is_larger, added, before)
            self._lost[row] += (large - total) + small
            self._sums[row] = total

    def num_bytes(self, group: int) -> int:
        return int(self._counts[_COUNTED.index("bytes"), group])

    def figures(self, groups: Sequence[int]) -> dict[str, Any]:
        """Returns the figures of some groups together."""
        numbers = list(groups)
        counts = {
            name: int(total)
            for name, total in zip(_COUNTED, self._counts[:, numbers].sum(axis=1), strict=True)
        }
        sums = {
            name: math.fsum([*self._sums[row, numbers], *self._lost[row, numbers]])
            for row, name in enumerate(_SUMMED)
        }
        num_bytes = counts["bytes"]

        def per_byte(bits: float) -> float | None:
            return bits / num_bytes if num_bytes else None

        figures: dict[str, Any] = {
            "documents": counts["documents"],
            "bytes": num_bytes,
            "scored_bytes": counts["scored_bytes"],
            "bits_per_byte": per_byte(sums["nats"] / math.log(2)),
            "eos_nats": sums["eos_nats"],
            "nats": sums["nats"],
        }
        for name in _COMPRESSORS:
            bits = None if counts[f"no_{name}"] else per_byte(sums[f"{name}_bits"])
            figures[f"{name}_bits_per_byte"] = bits
        has_patches = counts["patches"] and not counts["no_patches"]
        figures["mean_patch_bytes"] = num_bytes / counts["patches"] if has_patches else None
        return figures


class _Groups:
    """The groups by one name: the sums of the first `max_followed` of them, and of all others."""

    _OTHERS = 0

    def __init__(self, max_groups: int, max_followed: int) -> None:
        self._max_groups, self._max_followed = max_groups, max_followed
        self._numbers: dict[str, int] = {}
        self._sums = _Sums()
        self._num_with = 0
        self._follows_all = True

    def add(self, names: Sequence[str | None], columns: dict[str, np.ndarray]) -> None:
        """Adds documents by the names of their groups, None for those without the field."""
        groups = np.fromiter((self._number(name or "") for name in names), np.int64, len(names))
        self._num_with += len(names) - names.count(None)
        self._sums.add(columns, groups, len(self._numbers) + 1)

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is not None:
            return number
        if len(self._numbers) >= self._max_followed:
            self._follows_all = False
            return self._OTHERS
        self._numbers[name] = len(self._numbers) + 1
        return self._numbers[name]

    def figures(self) -> dict[str, Any]:
        order = sorted(
            self._numbers.items(), key=lambda item: (-self._sums.num_bytes(item[1]), item[0])
        )
        shown, rest = order[: self._max_groups], order[self._max_groups :]
        others = self._sums.figures([self._OTHERS, *(number for _, number in rest)])
        return {
            "values": {name: self._sums.figures([number]) for name, number in shown},
            "left_out": len(rest) if self._follows_all else None,
            "other": others if others["documents"] else None,
            "with_field": self._num_with,
            "cut_names": sum(is_cut(name) for name, _ in shown),
        }


def summarize_scores(
    paths: Sequence[Path],
    *,
    by: Sequence[str] = (),
    input_name: str = SOURCE,
    max_groups: int = MAX_GROUPS,
    max_followed: int = MAX_FOLLOWED,
) -> dict[str, Any]:
    """Sums up shards of scores.

    Args:
      paths: the shards, in the order of their documents.
      by: what to group by: names of passed-through fields, and `input_name` for the input.
      input_name: what the input is called, from `blt.dataset.groups.input_group`.
      max_groups: how many groups are shown for each name.
      max_followed: how many groups are summed, one by one, for each name.

    Returns:
      `documents`, `bytes`, `scored_bytes`, `nats`, `eos_nats`, `bits_per_byte` (sum of bits over
      sum of bytes; None without bytes), `zlib_bits_per_byte`, `xz_bits_per_byte` (None if it was
      not measured for all documents), `mean_patch_bytes` (None without boundaries),
      `percentiles` of the documents' bits per byte (empty documents left out; they are off by
      `percentile_error_bits` at most, 0 unless there are very many), and `by`: for each name

      `values`      the same figures for the groups with the most bytes, of the first `max_followed`
                    groups. Documents without the field are in the group "".
      `other`       the same figures of all documents in no group that is shown; None without any.
      `left_out`    how many groups these are; None if it is not known, since there are more than
                    `max_followed`.
      `with_field`  documents that have the field.
      `cut_names`   groups shown whose names are cut (`blt.dataset.groups.group_name`).

    Raises:
      WorkError: a shard is damaged.
    """
    total, percentiles = _Sums(), Percentiles()
    groups = {name: _Groups(max_groups, max_followed) for name in by}
    for block in _blocks(_batches(paths, list(groups), input_name)):
        columns = _columns(block)
        total.add(columns, np.zeros(block.num_rows, np.int64), 1)
        bits = columns["bits_per_byte"]
        percentiles.add(bits[~np.isnan(bits)])
        for number, found in enumerate(groups.values()):
            found.add(block[_group_column(number)].to_pylist(), columns)
    shown = zip(map(str, PERCENTILES), percentiles.of(*PERCENTILES), strict=False)
    return {
        **total.figures([0]),
        "percentiles": dict(shown),
        "percentile_error_bits": percentiles.error_bits,
        "by": {name: found.figures() for name, found in groups.items()},
    }


def _batches(paths: Sequence[Path], by: Sequence[str], input_name: str) -> Iterator[pa.RecordBatch]:
    """Yields rows with the numbers, and a column for each name in `by`: the name of the group."""
    fields = [name for name in by if name != input_name]
    foreign = ["source"] * (input_name in by) + ["meta"] * bool(fields)
    for path in paths:
        for batch in iterate_scores(path, [*_NUMBERS, *foreign], _BATCH_ROWS):
            columns = {name: batch.column(name) for name in _NUMBERS}
            metas = _parsed(batch.column("meta"), path) if fields else []
            for number, name in enumerate(by):
                values: Iterable[Any] = (meta.get(name) for meta in metas)
                if name == input_name:
                    values = batch.column("source").to_pylist()
                names = [None if value is None else group_name(value) for value in values]
                columns[_group_column(number)] = pa.array(names, pa.string())
            yield pa.RecordBatch.from_pydict(columns)


def _group_column(number: int) -> str:
    return f"group {number}"


def _parsed(metas: pa.Array, path: Path) -> list[dict[str, Any]]:
    try:
        parsed = [json.loads(meta) if meta else {} for meta in metas.to_pylist()]
    except ValueError as error:
        raise WorkError(
            f"{path}: meta is not JSON ({error}). Make the byte shards again, and the scores."
        ) from error
    return [meta if isinstance(meta, dict) else {} for meta in parsed]


def _blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yields the same rows, `_BLOCK_DOCUMENTS` at a time."""
    held: list[pa.RecordBatch] = []
    left = _BLOCK_DOCUMENTS
    for batch in batches:
        while batch.num_rows:
            taken = batch.slice(0, left)
            held.append(taken)
            left -= taken.num_rows
            batch = batch.slice(taken.num_rows)
            if not left:
                yield pa.Table.from_batches(held)
                held, left = [], _BLOCK_DOCUMENTS
    if held:
        yield pa.Table.from_batches(held)


def _columns(block: pa.Table) -> dict[str, np.ndarray]:
    """Returns what is summed, [num_documents] float64 each; `bits_per_byte` is NaN if null."""
    numbers = {name: block[name].to_numpy().astype(np.float64) for name in _NUMBERS}
    sizes, patches = numbers["num_bytes"], numbers["num_patches"]
    columns = {
        name: numbers[name] for name in ("scored_bytes", "nats", "eos_nats", "bits_per_byte")
    }
    columns.update(documents=np.ones(len(sizes)), bytes=sizes)
    columns.update(patches=np.nan_to_num(patches), no_patches=np.isnan(patches))
    for name in _COMPRESSORS:
        bits = np.where(sizes > 0, numbers[f"{name}_bits_per_byte"] * sizes, 0.0)
        columns.update({f"{name}_bits": np.nan_to_num(bits), f"no_{name}": np.isnan(bits)})
    return columns
