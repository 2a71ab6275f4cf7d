"""The global shuffle of `pack`: every document to its bucket, every bucket to its shards."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np

from blt.dataset.joining import PatchedDocument, join_documents, read_patched_parts
from blt.dataset.stage import Stage
from blt.dataset.units import Progress, Unit, UnitResult
from blt.tokenizer import frame_tokens, tokens_to_bytes
from blt.training_data.packing import PackConfig, bucket_of, shuffle_key, write_bucket
from pipelines.transforms import work_on_unit

# A document on its way: shuffle key (big endian), shard, record, id, raw bytes, patch lengths.
_Travelling = tuple[bytes, str, int, str, bytes, bytes]


class PackShuffled(beam.PTransform):
    """Units (JSON), which are buckets, in; for each that was packed, its number out.

    A bucket's documents are sorted by their shuffle key, so that neither the order in which they
    arrive nor the number of workers shows in the result.

    Args:
      stage: of the packing.
      pending: the buckets still to do; documents of others do not travel.
      pairs: (byte shard, boundaries) files.
      num_buckets: in all.
      config: how to pack.
    """

    def __init__(
        self,
        stage: Stage,
        pending: Sequence[Unit],
        *,
        pairs: Sequence[tuple[Path, Path]],
        num_buckets: int,
        config: PackConfig,
    ) -> None:
        super().__init__()
        self._stage = stage
        self._pending = frozenset(unit.index for unit in pending)
        self._pairs = [(str(shard), str(boundaries)) for shard, boundaries in pairs]
        self._num_buckets = num_buckets
        self._config = config

    def expand(self, units: beam.PCollection[str]) -> beam.PCollection[int]:
        buckets = units | "KeyByBucket" >> beam.Map(_key_by_bucket).with_output_types(
            tuple[int, str]
        )
        read = functools.partial(
            _read_documents,
            num_buckets=self._num_buckets,
            pending=self._pending,
            seed=self._config.seed,
        )
        documents = (
            units.pipeline
            | "Shards" >> beam.Create(self._pairs)
            | "SpreadShards" >> beam.Reshuffle()
            | "ReadDocuments" >> beam.FlatMap(read).with_output_types(tuple[int, _Travelling])
        )
        return (
            {"units": buckets, "documents": documents}
            | "ToBuckets" >> beam.CoGroupByKey()
            | "PackBucket"
            >> beam.FlatMap(_pack_bucket, self._stage, self._config).with_output_types(int)
        )


def _key_by_bucket(unit: str) -> tuple[int, str]:
    return Unit.from_text(unit).index, unit


def _read_documents(
    pair: tuple[str, str], *, num_buckets: int, pending: frozenset[int], seed: int
) -> Iterator[tuple[int, _Travelling]]:
    shard, boundaries = map(Path, pair)
    for document in join_documents(read_patched_parts(shard, boundaries)):
        key = shuffle_key(seed, shard.name, document.index)
        bucket = bucket_of(key, num_buckets)
        if bucket in pending:
            lengths = document.patch_lengths.astype("<i4").tobytes()
            raw = tokens_to_bytes(document.tokens)
            place = (key.to_bytes(8, "big"), shard.name, document.index)
            yield bucket, (*place, document.doc_id, raw, lengths)


def _pack_bucket(
    grouped: tuple[int, dict[str, Iterable]], stage: Stage, config: PackConfig
) -> Iterator[int]:
    _, groups = grouped
    for element in groups["units"]:
        run_unit = functools.partial(_write_bucket, groups["documents"], config)
        yield from work_on_unit(
            dataclasses.replace(stage, run_unit=run_unit), Unit.from_text(element)
        )


def _write_bucket(
    documents: Iterable[_Travelling],
    config: PackConfig,
    unit: Unit,
    output: Path,
    progress: Progress,
) -> UnitResult:
    arrived = (
        PatchedDocument(
            index=index,
            doc_id=doc_id,
            tokens=frame_tokens(raw),
            patch_lengths=np.frombuffer(lengths, "<i4"),
        )
        for _, _, index, doc_id, raw, lengths in sorted(documents)
    )
    return write_bucket(arrived, output, bucket=unit.index, config=config, progress=progress)
