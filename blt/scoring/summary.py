"""The figures of a whole corpus: sums of bits over sums of bytes, never a mean of means."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blt.formats.scores import read_scores
from blt.groups import group_name, input_group

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
MAX_GROUPS = 100  # shown in each `by`: those with the most bytes
_COLUMNS = [
    "num_bytes",
    "scored_bytes",
    "nats",
    "eos_nats",
    "bits_per_byte",
    "num_patches",
    "zlib_bits_per_byte",
    "xz_bits_per_byte",
    "source",
    "meta",
]


class _Sums:
    """What is summed over the documents of a group."""

    def __init__(self) -> None:
        self.documents = self.bytes = self.scored_bytes = self.patches = 0
        self._nats: list[float] = []  # one for each table
        self._eos_nats: list[float] = []
        self._compressed_bits = {"zlib": [0.0], "xz": [0.0]}
        self._missing = {"patches": False, "zlib": False, "xz": False}

    def add(self, columns: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """Adds rows (indices) of a table; floats are null where they are NaN."""
        sizes = columns["num_bytes"][rows]
        self.documents += len(rows)
        self.bytes += int(sizes.sum())
        self.scored_bytes += int(columns["scored_bytes"][rows].sum())
        self._nats.append(math.fsum(columns["nats"][rows]))
        self._eos_nats.append(math.fsum(columns["eos_nats"][rows]))
        for name, sums in self._compressed_bits.items():
            bits = (columns[f"{name}_bits_per_byte"][rows] * sizes)[sizes > 0]
            self._missing[name] |= bool(np.isnan(bits).any())
            sums.append(math.fsum(bits))
        patches = columns["num_patches"][rows]
        self._missing["patches"] |= bool(np.isnan(patches).any())
        self.patches += int(np.nansum(patches))

    def figures(self) -> dict[str, Any]:
        nats = math.fsum(self._nats)

        def per_byte(bits: float) -> float | None:
            return bits / self.bytes if self.bytes else None

        figures: dict[str, Any] = {
            "documents": self.documents,
            "bytes": self.bytes,
            "scored_bytes": self.scored_bytes,
            "bits_per_byte": per_byte(nats / math.log(2)),
            "eos_nats": math.fsum(self._eos_nats),
            "nats": nats,
        }
        for name, sums in self._compressed_bits.items():
            figures[f"{name}_bits_per_byte"] = (
                None if self._missing[name] else per_byte(math.fsum(sums))
            )
        has_patches = self.patches and not self._missing["patches"]
        figures["mean_patch_bytes"] = self.bytes / self.patches if has_patches else None
        return figures


def summarize_scores(paths: Sequence[Path], *, by: Sequence[str] = ()) -> dict[str, Any]:
    """Sums up shards of scores.

    Args:
      paths: the shards.
      by: names of passed-through fields to group by. The input is always grouped by too: as
        `source`, or where a field is called that, under the name that `input_group` gives.

    Returns:
      `documents`, `bytes`, `scored_bytes`, `nats`, `eos_nats`, `bits_per_byte` (sum of bits over
      sum of bytes; None without bytes), `zlib_bits_per_byte`, `xz_bits_per_byte` (None if it was
      not measured for all documents), `mean_patch_bytes` (None without boundaries),
      `percentiles` of the documents' bits per byte (empty documents left out), and `by`: for each
      column, the same figures for the values with the most bytes, 100 of them at most, and
      `left_out`, how many values are not shown. Documents without the column count as "".
    """
    total = _Sums()
    input_name = input_group(by)
    groups: dict[str, dict[str, _Sums]] = {name: defaultdict(_Sums) for name in (input_name, *by)}
    bits_per_byte = []
    for path in paths:
        table = read_scores(path, _COLUMNS)
        columns = {
            name: table[name].to_numpy() for name in _COLUMNS if name not in ("source", "meta")
        }
        columns = {
            name: values if name in ("num_bytes", "scored_bytes") else values.astype(np.float64)
            for name, values in columns.items()
        }
        total.add(columns, np.arange(table.num_rows))
        bits_per_byte.append(columns["bits_per_byte"])
        for name, sums in groups.items():
            values = table["source"].to_pylist() if name == input_name else _meta(table, name)
            for value, rows in _rows_by_value(values):
                sums[value].add(columns, rows)
    known = np.concatenate([np.empty(0), *bits_per_byte])
    known = known[~np.isnan(known)]
    return {
        **total.figures(),
        "percentiles": {str(q): float(np.percentile(known, q)) for q in PERCENTILES if len(known)},
        "by": {name: _largest(sums) for name, sums in groups.items()},
    }


def _meta(table: Any, name: str) -> list[str]:
    values = (json.loads(meta).get(name) if meta else None for meta in table["meta"].to_pylist())
    return [group_name(value) for value in values]


def _rows_by_value(values: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        rows[value].append(index)
    for value, indices in rows.items():
        yield value, np.array(indices)


def _largest(sums: dict[str, _Sums]) -> dict[str, Any]:
    order = sorted(sums, key=lambda value: (-sums[value].bytes, value))
    return {
        "values": {value: sums[value].figures() for value in order[:MAX_GROUPS]},
        "left_out": max(0, len(order) - MAX_GROUPS),
    }
