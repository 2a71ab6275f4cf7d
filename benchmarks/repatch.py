"""How fast boundaries are cut anew from the entropies that were kept.

    python benchmarks/repatch.py --data bytes --work /tmp/repatch

`--data` are byte shards of real text; the entropies are NOT a model's: they are drawn from a seeded
lognormal distribution, clipped to [0, ln 260] nats, with every fourth byte or so set high as where
words begin. So sizes and patches are like real ones, and no model is needed. From them a shard of
boundaries is made, and measured is a whole `blt repatch` of it, in one process on one core: read
Parquet, apply the rule, write Parquet with the entropies in it, hash the file. Beside it, in the
same run:

- one document at a time: the same with `find_patch_lengths` on one row after the other;
- read and write alone: the rows pass unchanged, which is what no rule can be faster than;
- the same with --drop-entropies, which leaves most of the writing out.

MB are 10^6 bytes of text, that is of documents; seconds are those of the processor, so that other
work on the machine shows less. Rounds alternate between the ways; given are the median and the
range. Pin the process to a core (`taskset -c 0`) to measure a core.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from blt.dataset.manifest import read_manifest
from blt.dataset.storage import atomic_path, sha256_file
from blt.formats.boundaries import (
    BoundariesRow,
    BoundariesWriter,
    patches_name,
    read_boundaries,
    read_boundaries_metadata,
    read_boundary_batches,
    restore_entropies,
    store_entropies,
)
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.patching.repatch import repatch_shard
from blt.patching.rules import MAX_NATS, PatchRule, count_byte_patches, find_patch_lengths

RULES = {
    "entropy": PatchRule(threshold_nats=2.0),
    "monotonic": PatchRule(rule="monotonic", threshold_nats=1.0),
    "combined": PatchRule(rule="combined", threshold_nats=1.5, threshold_add_nats=0.2),
    "entropy, at most 16": PatchRule(threshold_nats=2.0, max_patch_length=16),
    "static": PatchRule(rule="static", patch_size=4),
}
WITH_BYTES = {
    "entropy, snapped": PatchRule(threshold_nats=2.0, snap_utf8=True),
    "space": PatchRule(rule="space"),
}


def main() -> None:
    arguments = parse_arguments()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    data = read_manifest(arguments.data, "byte_shards")
    byte_shard = data.shard_path(data.shards[0])
    num_bytes = data.shards[0].bytes
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = []
    for kept_as in ("f16", "u8"):
        boundaries = arguments.work / kept_as / patches_name(0, 0)
        make_boundaries(byte_shard, boundaries, kept_as)
        output = arguments.work / "output"
        for name, rule in {**RULES, **WITH_BYTES}.items():
            shard = byte_shard if name in WITH_BYTES else None
            ways: dict[str, Callable[[], object]] = {
                "repatch": functools.partial(
                    repatch_shard, boundaries, output, rule=rule, byte_shard=shard
                )
            }
            if name in RULES:
                ways |= {
                    "one document at a time": functools.partial(
                        repatch_rows, boundaries, output, rule
                    ),
                    "read and write alone": functools.partial(copy_batches, boundaries, output),
                    "repatch, entropies dropped": functools.partial(
                        repatch_shard, boundaries, output, rule=rule, drop_entropies=True
                    ),
                }
            rates = measure(ways, num_bytes, arguments.rounds)
            results.append({"kept": kept_as, "rule": name, "mb_per_sec": rates})
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"{num_bytes / 1e6:.1f} MB of text, {data.shards[0].documents:,} documents, of "
        f"{byte_shard.name}; entropies are synthetic (seeded lognormal), no model's. MB of text a "
        f"second, {arguments.rounds} rounds: median (range)."
    )
    ways_measured = list(results[0]["mb_per_sec"])
    print(f"| kept as | rule | {' | '.join(ways_measured)} |")
    print("|---" * (2 + len(ways_measured)) + "|")
    for result in results:
        cells = [
            f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
            for rates in result["mb_per_sec"].values()
        ]
        cells += ["-"] * (len(ways_measured) - len(cells))
        bytes_too = " (reads the bytes, too)" if result["rule"] in WITH_BYTES else ""
        print(f"| {result['kept']} | {result['rule']}{bytes_too} | {' | '.join(cells)} |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="byte shards; the first is used")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    return parser.parse_args(sys.argv[1:])


def measure(
    ways: dict[str, Callable[[], object]], num_bytes: int, rounds: int
) -> dict[str, list[float]]:
    """Returns MB of text a processor second, by way; the first round of each is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            start = time.process_time()
            run()
            if number:
                rates[name].append(num_bytes / 1e6 / (time.process_time() - start))
    return rates


def make_boundaries(byte_shard: Path, path: Path, kept_as: str) -> None:
    """Writes boundaries with synthetic entropies."""
    rng = np.random.default_rng(0)
    rule = RULES["entropy"]
    with atomic_path(path) as temporary:
        writer = BoundariesWriter(temporary, metadata={}, keep_entropies=kept_as)
        for record in read_byte_shard(byte_shard):
            stored = store_entropies(draw_entropies(record, rng), kept_as)
            lengths = find_patch_lengths(record.tokens, restore_entropies(stored), rule)
            writer.write(
                BoundariesRow(
                    record.doc_id, record.part, len(record.tokens), lengths, 1.0, 1.0, stored
                )
            )
        writer.close()


def draw_entropies(record: ByteRecord, rng: np.random.Generator) -> np.ndarray:
    """[num_tokens] float32 nats: low inside words, high where one begins, as a model's are."""
    entropies = rng.lognormal(-0.5, 0.9, len(record.tokens))
    begins = np.append(False, record.tokens[:-1] == ord(" ") + 4)
    entropies[begins] += rng.lognormal(0.6, 0.4, np.count_nonzero(begins))
    return np.clip(entropies, 0, MAX_NATS).astype(np.float32)


def repatch_rows(boundaries: Path, output: Path, rule: PatchRule) -> None:
    """The baseline: rows are taken out of their row group, cut, and put together again."""
    kept_as = read_boundaries_metadata(boundaries)["entropies"]
    with atomic_path(output / boundaries.name) as temporary:
        writer = BoundariesWriter(temporary, metadata={}, keep_entropies=kept_as)
        num_bytes = num_patches = 0
        for row in read_boundaries(boundaries):
            tokens = np.full(row.num_tokens, 4, np.uint16)
            tokens[0], tokens[-1] = 1, 2
            lengths = find_patch_lengths(tokens, restore_entropies(row.entropies), rule)
            writer.write(dataclasses.replace(row, patch_lengths=lengths))
            num_bytes += int(np.count_nonzero(tokens >= 4))
            num_patches += count_byte_patches(tokens, lengths)
        writer.close()
        sha256_file(temporary)


def copy_batches(boundaries: Path, output: Path) -> None:
    """The ceiling: row groups are read and written as they are."""
    kept_as = read_boundaries_metadata(boundaries)["entropies"]
    with atomic_path(output / boundaries.name) as temporary:
        writer = BoundariesWriter(temporary, metadata={}, keep_entropies=kept_as)
        for batch in read_boundary_batches(boundaries):
            writer.write_batch(batch)
        writer.close()
        sha256_file(temporary)


if __name__ == "__main__":
    main()
