"""The figures behind report and inspect: one streamed pass, bounded in memory.

Counts and histograms are of every row read. Of datasets larger than `MAX_ROWS` a part is read, the
first rows of shards that lie evenly over the dataset; the report then says so.
"""

import dataclasses
import heapq
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from blt.dataset.storage import Place, read_json
from blt.errors import WorkError
from blt.formats.parquet import open_parquet
from blt.inspection.artefacts import Dataset

MAX_ROWS = 2_000_000
MAX_POINTS = 1000  # in a scatter chart
MIN_RANKED_BYTES = 100  # figures of shorter documents say little
NUM_RANKED = 5
NUM_AHEAD = 10
BIN_BITS = 0.1
MAX_BITS = 12.0  # the last bin takes all above
MAX_PATCH_BIN = 32  # the last bin takes all above

SUMMARY_NAME = "_summary.json"
BLT, ENTROPY_MODEL = "BLT", "entropy model"
_BASELINES = ("zlib", "xz")


@dataclasses.dataclass(frozen=True)
class Score:
    """A document's row of the scores; bits per byte by name of model or compressor."""

    doc_id: str
    num_bytes: int
    bits_per_byte: float
    baselines: dict[str, float]


@dataclasses.dataclass
class ScoreMeasures:
    """What the report says about one dataset of scores.

    Attributes:
      dataset: the scores.
      label: of the model that was scored, for charts and tables.
      is_blt: whether that is a BLT.
      summary: the figures of all documents, as `_summary.json` has them.
      score_spec: how documents were scored, as the schema's metadata says.
      num_rows, num_scored: rows read, and those of them that have a figure.
      is_sampled: whether rows were left unread.
      histograms: documents by bits per byte (bins of `BIN_BITS`), by model or compressor.
      points: by model and compressor, [num_points, 2] (bytes, bits per byte) of the same documents,
        a sample of at most `MAX_POINTS`.
      best, worst: documents of `MIN_RANKED_BYTES` or more.
      ahead: by compressor, how many documents it takes fewer bits for.
      ahead_bytes: their bytes.
      largest_ahead: the largest documents that a compressor is ahead at, by compressor.
      nearest: by compressor, the document at which it does best against the model.
      bytes: of all documents read that have a figure.
    """

    dataset: Dataset
    label: str
    is_blt: bool
    summary: dict[str, Any]
    score_spec: dict[str, Any]
    num_rows: int = 0
    num_scored: int = 0
    bytes: int = 0
    is_sampled: bool = False
    histograms: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    points: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    best: list[Score] = dataclasses.field(default_factory=list)
    worst: list[Score] = dataclasses.field(default_factory=list)
    ahead: dict[str, int] = dataclasses.field(default_factory=dict)
    ahead_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    largest_ahead: dict[str, list[Score]] = dataclasses.field(default_factory=dict)
    nearest: dict[str, Score] = dataclasses.field(default_factory=dict)

    def called(self, label: str) -> "ScoreMeasures":
        """Returns the same with the model called otherwise."""
        if label == self.label:
            return self
        renamed = {
            name: {label if key == self.label else key: value for key, value in found.items()}
            for name, found in (("histograms", self.histograms), ("points", self.points))
        }
        return dataclasses.replace(self, label=label, **renamed)


@dataclasses.dataclass
class PatchMeasures:
    """What the report says about one dataset of boundaries.

    Attributes:
      dataset: the boundaries.
      lengths: [MAX_PATCH_BIN + 1] patches by length in tokens, the last all longer ones.
      longest: tokens of the longest patch read.
      num_rows: rows read.
      is_sampled: whether rows were left unread.
    """

    dataset: Dataset
    lengths: np.ndarray
    longest: int
    num_rows: int
    is_sampled: bool


class RowSource:
    """Yields the rows of Parquet shards in batches, at most `max_rows` of them."""

    def __init__(self, dataset: Dataset, columns: Sequence[str], max_rows: int = MAX_ROWS) -> None:
        manifest = dataset.manifest
        self._paths = [manifest.shard_path(shard) for shard in manifest.shards]
        self._columns = columns
        self._max_rows = max_rows
        self.num_rows = 0
        self.is_sampled = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        # Each shard may give its share, and what those before it left of theirs.
        for index, path in enumerate(self._paths, 1):
            for batch in self._batches(path):
                left = self._max_rows * index // len(self._paths) - self.num_rows
                if batch.num_rows > left:
                    self.is_sampled = True
                    batch = batch.slice(0, max(left, 0))
                self.num_rows += batch.num_rows
                yield batch
                if left <= batch.num_rows and self.is_sampled:
                    break

    def _batches(self, path: Place) -> Iterator[pa.RecordBatch]:
        try:
            with open_parquet(path) as file:
                present = [name for name in self._columns if name in file.schema_arrow.names]
                yield from file.iter_batches(8192, columns=present)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Place, error: Exception) -> WorkError:
    reason = " ".join(str(error).split())[:200]
    return WorkError(f"{path}: cannot be read ({reason}). Make it again.")


def measure_patches(dataset: Dataset, max_rows: int = MAX_ROWS) -> PatchMeasures:
    """Counts the patches of a dataset of boundaries by their length."""
    rows = RowSource(dataset, ["part", "patch_lengths"], max_rows)
    counts = np.zeros(MAX_PATCH_BIN + 1, np.int64)
    longest = 0
    for batch in rows:
        lists = batch.column("patch_lengths")
        lengths = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        sizes = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        # BOS is a patch of its own at the head of a document; it holds no byte.
        heads = np.cumsum(sizes) - sizes
        is_head = (batch.column("part").to_numpy(zero_copy_only=False) == 0) & (sizes > 0)
        lengths = np.delete(lengths, heads[is_head])
        counts += np.bincount(np.minimum(lengths, MAX_PATCH_BIN), minlength=MAX_PATCH_BIN + 1)
        longest = max(longest, int(lengths.max(initial=0)))
    return PatchMeasures(dataset, counts, longest, rows.num_rows, rows.is_sampled)


def measure_scores(dataset: Dataset, label: str, max_rows: int = MAX_ROWS) -> ScoreMeasures:
    """Reads a dataset of scores once; see `ScoreMeasures`."""
    measures = ScoreMeasures(
        dataset, label, is_blt_scores(dataset), read_summary(dataset), read_score_spec(dataset)
    )
    columns = ["doc_id", "num_bytes", "bits_per_byte"]
    columns += [f"{name}_bits_per_byte" for name in _BASELINES]
    rows = RowSource(dataset, columns, max_rows)
    points = _Sample(MAX_POINTS)
    best, worst = _Top(NUM_RANKED), _Top(NUM_RANKED)
    largest: dict[str, _Top] = {}
    nearest: dict[str, _Top] = {}
    for batch in rows:
        table = batch.to_pydict()
        names = [name for name in _BASELINES if f"{name}_bits_per_byte" in table]
        for index, bits in enumerate(table["bits_per_byte"]):
            if bits is None:  # an empty document
                continue
            baselines = {name: table[f"{name}_bits_per_byte"][index] for name in names}
            score = Score(table["doc_id"][index], table["num_bytes"][index], bits, baselines)
            measures.num_scored += 1
            measures.bytes += score.num_bytes
            points.add(score)
            _count(measures.histograms, label, bits)
            if score.num_bytes >= MIN_RANKED_BYTES:
                best.add(-bits, score)
                worst.add(bits, score)
            for name, baseline in baselines.items():
                if baseline is None:
                    continue
                _count(measures.histograms, name, baseline)
                top = largest.setdefault(name, _Top(NUM_AHEAD))
                nearest.setdefault(name, _Top(1)).add(bits - baseline, score)
                measures.ahead.setdefault(name, 0)
                measures.ahead_bytes.setdefault(name, 0)
                if baseline < bits:
                    measures.ahead[name] += 1
                    measures.ahead_bytes[name] += score.num_bytes
                    top.add(score.num_bytes, score)
    measures.num_rows, measures.is_sampled = rows.num_rows, rows.is_sampled
    for name in measures.histograms:
        figures = [(s.num_bytes, s.baselines.get(name, s.bits_per_byte)) for s in points.scores]
        measures.points[name] = np.array(
            [figure for figure in figures if figure[1] is not None], np.float64
        ).reshape(-1, 2)
    measures.best, measures.worst = best.ranked(), worst.ranked()
    measures.nearest = {name: top.ranked()[0] for name, top in nearest.items()}
    measures.largest_ahead = {name: top.ranked() for name, top in largest.items()}
    return measures


def read_summary(dataset: Dataset) -> dict[str, Any]:
    """Returns the figures of all documents, from `_summary.json`; {} if there is none."""
    path = dataset.manifest.folder / SUMMARY_NAME
    return read_json(path) if path.is_file() else {}


def is_blt_scores(dataset: Dataset) -> bool:
    """Tells whether these are scores of a BLT, not of an entropy model."""
    spec = read_score_spec(dataset)
    return spec["model"] == "blt" if "model" in spec else "blt" in dataset.manifest.fingerprints


def read_score_spec(dataset: Dataset) -> dict[str, Any]:
    """Returns how documents were scored, from the first shard's metadata; {} if it is unknown."""
    manifest = dataset.manifest
    if not manifest.shards:
        return {}
    path = manifest.shard_path(manifest.shards[0])
    try:
        with open_parquet(path) as file:
            metadata = file.schema_arrow.metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    try:
        spec = json.loads(metadata[b"score_spec"])
    except (KeyError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def _count(histograms: dict[str, np.ndarray], name: str, bits: float) -> None:
    num_bins = round(MAX_BITS / BIN_BITS)
    counts = histograms.setdefault(name, np.zeros(num_bins + 1, np.int64))
    counts[min(int(bits / BIN_BITS), num_bins)] += 1


class _Top:
    """The `size` items of the highest rank; of equals, those that came first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, Any]] = []
        self._order = itertools.count()

    def add(self, rank: float, item: Any) -> None:
        entry = (rank, -next(self._order), item)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def ranked(self) -> list[Any]:
        return [item for _, _, item in sorted(self._heap, key=lambda entry: entry[:2])[::-1]]


class _Sample:
    """A fair sample of what is added (reservoir sampling; the same for the same data)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._random = random.Random(0)
        self._seen = 0
        self.scores: list[Score] = []

    def add(self, score: Score) -> None:
        self._seen += 1
        if len(self.scores) < self._size:
            self.scores.append(score)
        elif (place := self._random.randrange(self._seen)) < self._size:
            self.scores[place] = score
