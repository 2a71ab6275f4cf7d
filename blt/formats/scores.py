"""Scores: `scores-00012-000.parquet` for byte shard `bytes-00012-000.tfrecord`, a row a document.

    doc_id               string
    num_bytes            int64    of the document
    scored_bytes         int64    those that the model gave a probability; all of them
    nats                 float64  -ln p summed over the bytes
    eos_nats             float64  -ln p of EOS, in no other column
    bits_per_byte        float64  nats / (ln 2 * num_bytes); null for an empty document
    num_patches          int64    that hold a byte; null if there were no boundaries
    mean_patch_bytes     float64  num_bytes / num_patches; null likewise, and for an empty document
    zlib_bits_per_byte   float64  of the whole document, zlib level 6; null for an empty one
    xz_bits_per_byte     float64  the same with xz, preset 6; null if it was not asked for
    source               string   the input it came from
    meta                 string   JSON object of passed-through columns; null if there are none

The schema's metadata says how they were made; all its values are strings.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from blt.dataset.manifest import FORMAT_VERSION
from blt.dataset.storage import PlaceLike
from blt.errors import WorkError
from blt.formats.parquet import open_parquet

_ROWS_PER_GROUP = 65_536
_GROUP_CHARACTERS = 32 << 20  # of the text in its rows; a row group is not begun beyond
_COLUMNS = [
    pa.field("doc_id", pa.string(), nullable=False),
    pa.field("num_bytes", pa.int64(), nullable=False),
    pa.field("scored_bytes", pa.int64(), nullable=False),
    pa.field("nats", pa.float64(), nullable=False),
    pa.field("eos_nats", pa.float64(), nullable=False),
    pa.field("bits_per_byte", pa.float64()),
    pa.field("num_patches", pa.int64()),
    pa.field("mean_patch_bytes", pa.float64()),
    pa.field("zlib_bits_per_byte", pa.float64()),
    pa.field("xz_bits_per_byte", pa.float64()),
    pa.field("source", pa.string(), nullable=False),
    pa.field("meta", pa.string()),
]


@dataclasses.dataclass(frozen=True, slots=True)
class ScoresRow:
    """The score of one document; what the other columns hold follows from it.

    Attributes:
      doc_id, source, meta: of the byte shard's record.
      num_bytes, scored_bytes: counts.
      nats, eos_nats: sums of -ln p.
      num_patches: that hold a byte; None without boundaries.
      zlib_bytes: the document's size as zlib compresses it.
      xz_bytes: as xz does; None if it was not asked for.
    """

    doc_id: str
    num_bytes: int
    scored_bytes: int
    nats: float
    eos_nats: float
    num_patches: int | None
    zlib_bytes: int
    xz_bytes: int | None = None
    source: str = ""
    meta: bytes | None = None

    def columns(self) -> dict[str, object]:
        """Returns the row as the file has it."""
        size = self.num_bytes
        return {
            "doc_id": self.doc_id,
            "num_bytes": size,
            "scored_bytes": self.scored_bytes,
            "nats": self.nats,
            "eos_nats": self.eos_nats,
            "bits_per_byte": self.nats / math.log(2) / size if size else None,
            "num_patches": self.num_patches,
            "mean_patch_bytes": size / self.num_patches if self.num_patches else None,
            "zlib_bits_per_byte": 8 * self.zlib_bytes / size if size else None,
            "xz_bits_per_byte": 8 * self.xz_bytes / size if size and self.xz_bytes else None,
            "source": self.source,
            "meta": None if self.meta is None else self.meta.decode("utf-8"),
        }


def scores_name(unit: int, roll: int) -> str:
    """Returns the name of a shard of scores.

    >>> scores_name(12, 0)
    'scores-00012-000.parquet'
    """
    return f"scores-{unit:05d}-{roll:03d}.parquet"


class ScoresWriter:
    """Writes one shard of scores; to be used inside `blt.dataset.storage.atomic_path`.

    Args:
      path: the file to make.
      metadata: strings, for the schema.
    """

    def __init__(self, path: Path, *, metadata: Mapping[str, str]) -> None:
        described = {"format_version": str(FORMAT_VERSION), "kind": "scores", **metadata}
        self._schema = pa.schema(_COLUMNS, metadata=described)
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="zstd", write_page_checksum=True
        )
        self._rows: list[dict[str, object]] = []
        self._num_characters = 0

    def write(self, row: ScoresRow) -> None:
        self._rows.append(row.columns())
        self._num_characters += len(row.doc_id) + len(row.source) + len(row.meta or b"")
        if len(self._rows) >= _ROWS_PER_GROUP or self._num_characters >= _GROUP_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_characters = [], 0

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


def read_scores(path: PlaceLike, columns: list[str] | None = None) -> pa.Table:
    """Returns a shard of scores as a table; see `iterate_scores`."""
    with _read(path) as file:
        return file.read(columns=columns)


def iterate_scores(
    path: PlaceLike, columns: list[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a shard of scores, in memory that does not grow with the shard.

    Args:
      path: the shard.
      columns: those to read, in this order.
      batch_rows: the most rows in a batch.

    Raises:
      WorkError: the file is damaged or of another kind; names it.
    """
    with _read(path) as file:
        yield from file.iter_batches(batch_rows, columns=columns)


@contextlib.contextmanager
def _read(path: PlaceLike) -> Iterator[pq.ParquetFile]:
    try:
        with open_parquet(path) as file:
            if (file.schema_arrow.metadata or {}).get(b"kind") != b"scores":
                raise WorkError(f"{path}: holds no scores. Give a file that `blt score` wrote.")
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WorkError(
            f"{path}: cannot be read as scores ({reason}). Run `blt score` again."
        ) from error
