"""Encoding in a few words, through the functions that `blt encode` calls."""

import dataclasses
import functools
import itertools

import pyarrow.parquet as pq

from blt.corpus import (
    EncodeConfig,
    build_plan,
    discover_inputs,
    encode_unit,
    find_duplicates,
    merge_sources,
    payload_bytes,
    plan_corpus,
)
from blt.corpus.planning.plan import payload_essence
from blt.dataset import stage
from blt.dataset.finishing import finish
from blt.dataset.units import no_progress
from blt.dataset.working import work_on
from blt.formats.byte_shard import read_documents
from blt.tokenizer import tokens_to_bytes


@dataclasses.dataclass
class Encoded:
    documents: list  # (doc_id, bytes, source, meta)
    rejects: list  # rows
    counts: dict
    folder: object


def encode(output, *inputs, **options):
    """Encodes all units of the inputs, and checks what holds for every unit."""
    config = EncodeConfig(**options)
    payloads = build_plan(discover_inputs([str(path) for path in inputs]).files, config)
    documents, rejects, totals = [], [], {}
    for index, payload in enumerate(payloads):
        done = []
        result = encode_unit(payload, config, output, index, done.append)
        assert sum(done) == payload_bytes(payload)
        for shard in result.shards:
            documents += [read_back(parts) for parts in read_documents(output / shard.name)]
        path = output / "_units" / f"{index:05d}.rejects.parquet"
        assert path.exists() == (result.counts["rejects"] > 0)
        rejects += pq.read_table(path).to_pylist() if path.exists() else []
        totals = {key: totals.get(key, 0) + value for key, value in result.counts.items()}
    assert totals["documents"] == len(documents)
    assert totals["rejects"] == len(rejects)
    assert totals["records"] == len(documents) + len(rejects) + totals["filtered"]
    assert not list(output.rglob(".tmp-*"))
    return Encoded(documents, rejects, totals, output)


def read_back(parts):
    tokens = list(itertools.chain.from_iterable(part.tokens.tolist() for part in parts))
    assert (tokens[0], tokens[-1]) == (1, 2)
    assert min(tokens[1:-1], default=4) >= 4
    raw = b"".join(tokens_to_bytes(part.tokens) for part in parts)
    return parts[0].doc_id, raw, parts[0].source, parts[0].meta


def run_unit(config, unit, output, progress):
    return encode_unit(unit.payload, config, output, unit.index, progress)


def make_dataset(output, *inputs, overwrite=False, max_units=None, **options):
    """Encodes to a whole dataset, with plan and manifest; or `max_units` of it, as if killed."""
    config = EncodeConfig(**options)
    files = discover_inputs([str(path) for path in inputs]).files
    job = stage.Stage(
        kind="byte_shards",
        output=output,
        config=dataclasses.asdict(config),
        run_unit=functools.partial(run_unit, config),
        essence=payload_essence,
        shard_patterns=("bytes-*.tfrecord*",),
        reads_foreign_data=True,
        extra_files=("_sources.parquet",),
        find_losses=lambda folder, gathered: merge_sources(folder, gathered.num_units),
        work_folders=("_duplicates",),
        grows=True,
        max_lost_fraction=1.0,
    )
    earlier = [] if overwrite else stage.earlier_units(job)
    payloads = plan_corpus(files, config, output=output, earlier=earlier)
    units = stage.make_units(job, payloads, [payload_bytes(payload) for payload in payloads])
    job, pending = stage.start(job, units, overwrite=overwrite)
    find_duplicates(units, config, output)
    for unit in pending[:max_units]:
        assert work_on(job, unit, no_progress) is not None
    if max_units is None:
        finish(job, units)
    return output
