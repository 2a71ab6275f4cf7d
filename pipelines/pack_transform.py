"""The global shuffle of `pack`: every document to its bucket, every bucket to its shards."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np

from blt.dataset.joining import PatchedDocument, join_documents, read_patched_parts
from blt.dataset.several import NumberedShard
from blt.dataset.stage import Stage
from blt.dataset.storage import Place
from blt.dataset.units import Progress, Unit, UnitResult
from blt.dataset.working import planned_unit
from blt.tokenizer import frame_tokens, tokens_to_bytes
from blt.training_data.packing import PackConfig, bucket_of, shuffle_key, write_bucket
from pipelines.transforms import work_on_unit

# A document on its way: shuffle key (big endian), shard, record, id, raw bytes, patch lengths.
_Travelling = tuple[bytes, str, int, str, bytes, bytes]
# Of the datasets of byte shards, and of those of boundaries.
_Folders = tuple[Sequence[Place], Sequence[Place]]


class PackShuffled(beam.PTransform):
    """Numbers of units, which are buckets, in; of each that was packed, its number out.

    A bucket's documents are sorted by their shuffle key, so that neither the order in which they
    arrive nor the number of workers shows in the result.

    Args:
      stage: of the packing.
      pending: the buckets still to do; documents of others do not travel.
      folders: of the datasets of byte shards, and of those of boundaries.
      pairs: (byte shard, boundaries) in these.
      num_buckets: in all.
      config: how to pack.
    """

    def __init__(
        self,
        stage: Stage,
        pending: Sequence[Unit],
        *,
        folders: _Folders,
        pairs: Sequence[tuple[NumberedShard, NumberedShard]],
        num_buckets: int,
        config: PackConfig,
    ) -> None:
        super().__init__()
        self._stage = stage
        self._pending = frozenset(unit.index for unit in pending)
        self._folders = folders
        self._pairs = [[shard.to_json() for shard in pair] for pair in pairs]
        self._num_buckets = num_buckets
        self._config = config

    def expand(self, units: beam.PCollection[int]) -> beam.PCollection[int]:
        buckets = units | "KeyByBucket" >> beam.Map(_with_itself).with_output_types(tuple[int, int])
        read = functools.partial(
            _read_documents,
            folders=self._folders,
            num_buckets=self._num_buckets,
            pending=self._pending,
            seed=self._config.seed,
        )
        documents = (
            units.pipeline
            | "Shards" >> beam.Create([json.dumps(pair) for pair in self._pairs])
            | "SpreadShards" >> beam.Reshuffle()
            | "ReadDocuments" >> beam.FlatMap(read).with_output_types(tuple[int, _Travelling])
        )
        return (
            {"units": buckets, "documents": documents}
            | "ToBuckets" >> beam.CoGroupByKey()
            | "PackBucket"
            >> beam.FlatMap(_pack_bucket, self._stage, self._config).with_output_types(int)
        )


def _with_itself(index: int) -> tuple[int, int]:
    return index, index


def _read_documents(
    pair: str,
    *,
    folders: _Folders,
    num_buckets: int,
    pending: frozenset[int],
    seed: int,
) -> Iterator[tuple[int, _Travelling]]:
    shard, boundaries = (NumberedShard.from_json(described) for described in json.loads(pair))
    with (
        shard.fetched(folders[0]) as shard_path,
        boundaries.fetched(folders[1]) as boundaries_path,
    ):
        for document in join_documents(read_patched_parts(shard_path, boundaries_path)):
            key = shuffle_key(seed, shard.name, document.index)
            bucket = bucket_of(key, num_buckets)
            if bucket in pending:
                lengths = document.patch_lengths.astype("<i4").tobytes()
                raw = tokens_to_bytes(document.tokens)
                order = (key.to_bytes(8, "big"), shard.name, document.index)
                yield bucket, (*order, document.doc_id, raw, lengths)


def _pack_bucket(
    grouped: tuple[int, dict[str, Iterable]], stage: Stage, config: PackConfig
) -> Iterator[int]:
    _, groups = grouped
    for index in groups["units"]:
        run_unit = functools.partial(_write_bucket, groups["documents"], config)
        unit = planned_unit(stage, index)
        yield from work_on_unit(dataclasses.replace(stage, run_unit=run_unit), unit)


def _write_bucket(
    documents: Iterable[_Travelling],
    config: PackConfig,
    unit: Unit,
    output: Place,
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
