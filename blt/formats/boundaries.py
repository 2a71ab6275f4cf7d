"""Boundaries: `patches-00012-000.parquet` for byte shard `bytes-00012-000.tfrecord`.

Row i describes record i of the byte shard:

    doc_id         string
    part           int32
    num_tokens     int32
    patch_lengths  list<uint16>, or list<int32> when a patch has 65,536 tokens or more
    nats           float64, the entropy model's -ln p summed over the record's bytes; null without
                   a model
    eos_nats       float64, the same for EOS; 0 if the record has none (it is not the last part)
    entropies      list<float16> or list<uint8>, only if kept; entry t is about token t, in nats
                   (uint8: 255 is ln 260)

The schema's metadata says how they were made; all its values are strings. Beside it, in the file's,
is how many patches begin inside a UTF-8 character, if that is known.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from blt.dataset.manifest import FORMAT_VERSION
from blt.dataset.storage import PlaceLike
from blt.errors import WorkError
from blt.formats.parquet import open_parquet
from blt.tokenizer import VOCAB_SIZE

KEEP_ENTROPIES = ("f16", "u8")
_U8_SCALE_NATS = math.log(VOCAB_SIZE)
_ENTROPY_TYPES = {"f16": pa.float16(), "u8": pa.uint8()}
_NUMPY_TYPES = {
    pa.uint16(): np.uint16,
    pa.int32(): np.int32,
    pa.float16(): np.float16,
    pa.uint8(): np.uint8,
}
_ENTROPIES_PATH = "entropies.list.element"  # Parquet's name for the numbers of that column
_ROW_GROUP_TOKENS = 1 << 20
_MAX_UINT16 = 2**16 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class BoundariesRow:
    """The boundaries of a document, or of a part of a long one.

    Attributes:
      doc_id, part: of the record.
      num_tokens: in the record, BOS and EOS included.
      patch_lengths: [num_patches] int32; sums to num_tokens.
      nats: the entropy model's -ln p summed over the bytes; None without a model.
      eos_nats: the same for EOS, 0.0 if it is in another part; None without a model.
      entropies: [num_tokens], as stored (see `restore_entropies`), or None.
    """

    doc_id: str
    part: int
    num_tokens: int
    patch_lengths: np.ndarray
    nats: float | None = None
    eos_nats: float | None = None
    entropies: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class BoundariesBatch:
    """Rows as columns, in which lists lie one after the other: a row group of a file.

    Attributes:
      doc_id: [num_rows] strings.
      part, num_tokens: [num_rows] int32, as in `BoundariesRow`.
      num_patches: [num_rows] integers, patches in each row.
      patch_lengths: [sum of num_patches] integers, of 16 or 32 bits.
      nats, eos_nats: [num_rows] float64, null without a model.
      entropies: [sum of num_tokens], as stored, or None.
      ends_document: [num_rows] bool, whether the row is the last part of its document.
    """

    doc_id: pa.Array
    part: np.ndarray
    num_tokens: np.ndarray
    num_patches: np.ndarray
    patch_lengths: np.ndarray
    nats: pa.Array
    eos_nats: pa.Array
    entropies: np.ndarray | None
    ends_document: np.ndarray


def patches_name(unit: int, roll: int) -> str:
    """Returns the name of a shard of boundaries.

    >>> patches_name(12, 0)
    'patches-00012-000.parquet'
    """
    return f"patches-{unit:05d}-{roll:03d}.parquet"


def store_entropies(entropies: np.ndarray, kept_as: str) -> np.ndarray:
    """Quantises entropies (nats) as they are stored: "f16" or "u8"."""
    if kept_as == "f16":
        return entropies.astype(np.float16)
    scaled = np.rint(entropies * (255 / _U8_SCALE_NATS))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def restore_entropies(stored: np.ndarray) -> np.ndarray:
    """Returns stored entropies in nats, float32. Boundaries are made from these if any are kept."""
    if stored.dtype == np.uint8:
        return stored.astype(np.float32) * np.float32(_U8_SCALE_NATS / 255)
    return stored.astype(np.float32)


def _schema(keep_entropies: str | None, lengths: pa.DataType, metadata: Mapping) -> pa.Schema:
    fields = [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        _list_field("patch_lengths", lengths),
        pa.field("nats", pa.float64()),
        pa.field("eos_nats", pa.float64()),
    ]
    described = {"format_version": str(FORMAT_VERSION), "kind": "boundaries", **metadata}
    if keep_entropies:
        fields.append(_list_field("entropies", _ENTROPY_TYPES[keep_entropies]))
        described["entropies"] = keep_entropies
        if keep_entropies == "u8":
            described["entropies_scale_nats"] = repr(_U8_SCALE_NATS)
    # In one order, whoever writes: files of equal rows and metadata are equal.
    return pa.schema(fields, metadata=dict(sorted(described.items())))


def _list_field(name: str, values: pa.DataType) -> pa.Field:
    """A column of lists in which nothing is null: faster than one in which something may be."""
    return pa.field(name, pa.list_(pa.field("element", values, nullable=False)), nullable=False)


class BoundariesWriter:
    """Writes one shard of boundaries; to be used inside `blt.dataset.storage.atomic_path`.

    Args:
      path: the file to make.
      metadata: strings, for the schema.
      keep_entropies: how rows' entropies are stored, "f16" or "u8"; None if they have none.
    """

    def __init__(
        self, path: Path, *, metadata: Mapping[str, str], keep_entropies: str | None = None
    ) -> None:
        self._path = path
        self._metadata = dict(metadata)
        self._keep_entropies = keep_entropies
        self._rows: list[BoundariesRow] = []
        self._tokens = 0
        self._open(path, pa.uint16())

    def _open(self, path: Path, lengths: pa.DataType) -> None:
        self._schema = _schema(self._keep_entropies, lengths, self._metadata)
        # float16 entropies differ too much from one another for a dictionary: without it they are
        # read four times as fast.
        with_dictionary = [
            f"{name}.list.element" if name == "patch_lengths" else name
            for name in self._schema.names
            if name != "entropies"
        ]
        if self._keep_entropies == "u8":
            with_dictionary.append(_ENTROPIES_PATH)
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=with_dictionary,
            write_page_checksum=True,
            write_statistics=False,  # of every number in the lists: slow, and of no use
        )

    def write(self, row: BoundariesRow) -> None:
        self._rows.append(row)
        self._tokens += row.num_tokens
        if self._tokens >= _ROW_GROUP_TOKENS:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows, self._tokens = self._rows, [], 0
        if not rows:
            return
        columns: dict[str, Any] = {
            name: [getattr(row, name) for row in rows] for name in self._schema.names
        }
        self._write(
            {
                **{
                    name: pa.array(values, self._schema.field(name).type)
                    for name, values in columns.items()
                    if name not in ("patch_lengths", "entropies")
                },
                **{
                    name: (np.concatenate(columns[name]), [len(value) for value in columns[name]])
                    for name in ("patch_lengths", "entropies")
                    if name in columns
                },
            }
        )

    def write_batch(self, batch: BoundariesBatch) -> None:
        """Writes rows as a row group of their own; its `ends_document` is not looked at."""
        self._flush()
        if not len(batch.part):
            return
        columns: dict[str, Any] = {
            name: getattr(batch, name)
            for name in ("doc_id", "part", "num_tokens", "nats", "eos_nats")
        }
        columns["patch_lengths"] = (batch.patch_lengths, batch.num_patches)
        if self._keep_entropies:
            columns["entropies"] = (batch.entropies, batch.num_tokens)
        self._write(columns)

    def _write(self, columns: dict[str, Any]) -> None:
        """Writes a row group; columns of lists are pairs of all numbers and how many a row has."""
        longest = int(columns["patch_lengths"][0].max(initial=0))
        lengths = self._schema.field("patch_lengths").type.value_type
        if longest > _MAX_UINT16 and lengths == pa.uint16():
            self._widen()
        arrays = [
            _list_array(*columns[field.name], field.type)
            if pa.types.is_list(field.type)
            else pa.array(columns[field.name], field.type)
            for field in self._schema
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def _widen(self) -> None:
        """Writes the file anew with lengths of 32 bits: a patch has come that 16 do not hold."""
        self._writer.close()
        narrow = self._path.with_name(f"{self._path.name}.narrow")
        self._path.replace(narrow)
        try:
            self._open(self._path, pa.int32())
            with pq.ParquetFile(narrow) as file:
                for index in range(file.num_row_groups):
                    self._writer.write_table(file.read_row_group(index).cast(self._schema))
        finally:
            narrow.unlink()

    def close(self, metadata: Mapping[str, str] | None = None) -> None:
        """Ends the file; `metadata` is what is known only now."""
        self._flush()
        if metadata:
            self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()


def _list_array(values: np.ndarray, sizes: Sequence[int], kind: pa.ListType) -> pa.ListArray:
    """Makes a column of lists without a Python object for each number."""
    offsets = np.append(0, np.cumsum(sizes)).astype(np.int32)
    flat = values.astype(_NUMPY_TYPES[kind.value_type], copy=False)
    return pa.ListArray.from_arrays(offsets, pa.array(flat, kind.value_type), type=kind)


def read_boundaries(path: PlaceLike) -> Iterator[BoundariesRow]:
    """Yields the rows of a shard of boundaries, holding one row group (about 1 MB of text).

    Raises:
      WorkError: the file is damaged or of another kind; names it.
    """
    for batch in read_boundary_batches(path):
        lengths = np.split(batch.patch_lengths.astype(np.int32), np.cumsum(batch.num_patches)[:-1])
        entropies: Sequence[np.ndarray | None] = [None] * len(lengths)
        if batch.entropies is not None:
            entropies = np.split(batch.entropies, np.cumsum(batch.num_tokens)[:-1])
        columns = (batch.doc_id, batch.part, batch.num_tokens, batch.nats, batch.eos_nats)
        plain = [column.tolist() for column in columns]
        for doc_id, part, num_tokens, nats, eos_nats, row_lengths, row_entropies in zip(
            *plain, lengths, entropies, strict=True
        ):
            yield BoundariesRow(
                doc_id, part, num_tokens, row_lengths, nats, eos_nats, row_entropies
            )


def read_boundary_batches(path: PlaceLike) -> Iterator[BoundariesBatch]:
    """Yields the row groups of a shard of boundaries.

    Raises:
      WorkError: the file is damaged or of another kind; names it.
    """
    try:
        with open_parquet(path, page_checksum_verification=True) as file:
            parts = file.read(["part"])["part"].to_numpy()
            ends_document = np.append(parts[1:] == 0, True)
            for index in range(file.num_row_groups):
                batch = _batch_of(file.read_row_group(index, use_threads=False), ends_document)
                ends_document = ends_document[len(batch.part) :]
                yield batch
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WorkError(
            f"{path}: cannot be read as boundaries ({reason}). Run `blt patch` again."
        ) from error


def _batch_of(table: pa.Table, ends_document: np.ndarray) -> BoundariesBatch:
    patch_lengths, num_patches = _flat(table["patch_lengths"])
    entropies, num_tokens = None, table["num_tokens"].to_numpy()
    if "entropies" in table.column_names:
        entropies, num_entropies = _flat(table["entropies"])
        if not np.array_equal(num_entropies, num_tokens):
            raise ValueError("a row has not as many entropies as tokens")
    return BoundariesBatch(
        doc_id=table["doc_id"].combine_chunks(),
        part=table["part"].to_numpy(),
        num_tokens=num_tokens,
        num_patches=num_patches,
        patch_lengths=patch_lengths,
        nats=table["nats"].combine_chunks(),
        eos_nats=table["eos_nats"].combine_chunks(),
        entropies=entropies,
        ends_document=ends_document[: len(table)],
    )


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Returns all numbers of a column of lists, and how many each row has."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy()
    values = lists.values.to_numpy(zero_copy_only=False)
    return values[offsets[0] : offsets[-1]], np.diff(offsets)


def read_boundaries_metadata(path: PlaceLike) -> dict[str, str]:
    """Returns what a file says about how its boundaries were made.

    Raises:
      WorkError: the file is damaged or of another kind; names it.
    """
    try:
        with open_parquet(path) as file:
            metadata = file.metadata.metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise WorkError(f"{path}: cannot be read as boundaries ({error}).") from error
    return {
        key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"
    }
