"""Byte shards and their boundaries to training shards.

Shuffles all documents, splits them into train and valid by a hash of their id, and packs them into
sequences; writes `train-*.tfrecord` and `valid-*.tfrecord`.

    blt pack --data bytes --patches patches --output train --seq-len 1024 --max-patches 320
"""

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from blt.cli import command
from blt.cli.command import Summary
from blt.cli.console import Console, Phase, count, format_bytes
from blt.commands.arguments import (
    add_data_argument,
    add_output_arguments,
    add_places_argument,
    add_split_arguments,
    byte_size,
    positive_int,
)
from blt.commands.read_together import with_read
from blt.dataset.manifest import Manifest
from blt.dataset.several import Datasets, check_boundaries_of, read_datasets
from blt.dataset.stage import Gathered, Stage, make_units
from blt.dataset.storage import Place
from blt.dataset.units import Progress, Unit, UnitResult
from blt.errors import WorkError
from blt.training_data.dealing import (
    DEALT_FOLDER,
    Bucket,
    Dealing,
    make_groups,
    remove_dealt,
)
from blt.training_data.packing import PackConfig, write_bucket
from pipelines.beam_flags import split_beam_flags as split_extra_flags  # noqa: F401
from pipelines.run_units import describe_plan, run_stage

NAME = "pack"
HELP = "training shards, from byte shards and their boundaries"
DESCRIPTION = """\
Shuffles all documents globally, splits them into train and valid, and lays them end to end in
sequences under two budgets: tokens and patches. A document that does not fit goes on in the next
sequence, cut between patches; nothing is lost. The shuffle goes through files in the output folder,
about as large as the text, which are removed at the end."""

DEFAULT_SEQ_LEN = 1024
DEFAULT_TARGET_SHARD_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_argument(parser, help="Byte shards.")
    add_places_argument(
        parser,
        "--patches",
        required=True,
        metavar="PATCHES",
        help="Their boundaries, from blt patch.",
    )
    add_output_arguments(parser, "the training shards", is_stage=True)
    group = parser.add_argument_group("sequences")
    group.add_argument(
        "--seq-len",
        type=positive_int,
        default=DEFAULT_SEQ_LEN,
        metavar="TOKENS",
        help="Most tokens (bytes, BOS and EOS) in a sequence.",
    )
    group.add_argument(
        "--max-patches",
        type=positive_int,
        metavar="N",
        help="Most patches in a sequence. Default: what --seq-len tokens need at the mean patch "
        "size of these boundaries, and a quarter more.",
    )
    add_split_arguments(parser)
    parser.add_argument(
        "--target-shard-bytes",
        type=byte_size,
        default=DEFAULT_TARGET_SHARD_BYTES,
        metavar="BYTES",
        help="About how much text goes into a shard.",
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Packs; see `DESCRIPTION`."""
    data = read_datasets(args.data, "byte_shards")
    patches = read_datasets(args.patches, "boundaries")
    check_boundaries_of(patches, data)
    config = PackConfig(
        seq_len=args.seq_len,
        max_patches=args.max_patches or _default_max_patches(args.seq_len, patches),
        valid_fraction=args.valid_fraction,
        seed=args.seed,
    )
    num_buckets = max(1, math.ceil(data.totals["bytes"] / args.target_shard_bytes))
    pairs = list(zip(data.numbered, patches.numbered, strict=True))
    groups = make_groups(pairs, num_buckets)
    sizes = [sum(pairs[number][0].info.bytes for number in group) for group in groups]
    parents = {"byte_shards": data.sha256, "boundaries": patches.sha256}
    dealing = Dealing(num_buckets, len(groups), config.seed, data.folders, patches.folders, parents)
    stage = Stage(
        kind="training_shards",
        output=args.output,
        config={
            **dataclasses.asdict(config),
            "target_shard_bytes": args.target_shard_bytes,
            "patch_rule": patches.config,  # a model trained on these keeps it
        },
        fingerprints=patches.fingerprints,
        parents=parents,
        run_unit=_PackBucket(config, dealing),
        essence=_without_groups,
        shard_patterns=("train-*.tfrecord", "valid-*.tfrecord"),
        work_folders=(DEALT_FOLDER,),
        before_manifest=_EndDealing(data.totals["documents"]),
    )
    payloads: list[dict[str, Any]] = [
        {"bucket": i, "num_buckets": num_buckets} for i in range(num_buckets)
    ]
    for payload, group in zip(payloads, groups, strict=False):
        payload["first_shard"] = group[0]
        payload["pairs"] = [[shard.to_json() for shard in pairs[number]] for number in group]
    share = math.ceil(data.totals["bytes"] / num_buckets)
    units = make_units(stage, payloads, [share] * num_buckets)
    manifest, how = run_stage(
        stage,
        units,
        args,
        console,
        functools.partial(_deal_and_pack, dealing=dealing),
        start_phases=functools.partial(_start_dealing, dealing=dealing, sizes=sizes),
    )
    if manifest is None:
        outputs = [f"{split}-NNNNN.tfrecord" for split in ("train", "valid")]
        plan = describe_plan(stage, units, [*outputs, "_manifest.json"])
        return with_read(plan, data=data, patches=patches)
    if how == "done":
        remove_dealt(args.output)  # what workers of another run dealt when this one had ended
    return with_read(_summarize(manifest, how), data=data, patches=patches)


@dataclasses.dataclass(frozen=True)
class _PackBucket:
    """Packs a unit, which is a bucket, from what was dealt."""

    config: PackConfig
    dealing: Dealing

    def __call__(self, unit: Unit, output: Place, progress: Progress) -> UnitResult:
        documents = Bucket(self.dealing.files(output), unit.index)
        return write_bucket(
            documents, output, bucket=unit.index, config=self.config, progress=progress
        )


def _without_groups(payload: dict[str, Any]) -> dict[str, Any]:
    return {name: payload[name] for name in ("bucket", "num_buckets")}


@dataclasses.dataclass(frozen=True)
class _EndDealing:
    """Checks that all documents came through, and removes what was dealt."""

    num_documents: int

    def __call__(self, output: Place, gathered: Gathered) -> None:
        if gathered.totals["documents"] != self.num_documents:
            raise WorkError(
                f"{output}: of {self.num_documents:,} documents, "
                f"{gathered.totals['documents']:,} were packed. This is a bug; please report it."
            )
        remove_dealt(output)


def _deal_and_pack(stage: Stage, pending: Sequence[Unit], *, dealing: Dealing) -> "DealAndPack":  # noqa: F821
    from pipelines.pack_transform import DealAndPack

    return DealAndPack(stage, dealing)


def _start_dealing(stage: Stage, *, dealing: Dealing, sizes: Sequence[int]) -> list[Phase]:
    from pipelines.pack_transform import start_dealing

    return start_dealing(stage, dealing, sizes)


def _default_max_patches(seq_len: int, patches: Datasets) -> int:
    """Patches for `seq_len` tokens at the mean size of these boundaries, and a quarter more."""
    totals = patches.totals
    if not totals["bytes"]:
        return seq_len
    # BOS and EOS have patches of their own, mostly.
    per_token = (totals["patches"] + 2 * totals["documents"]) / totals["tokens"]
    return min(seq_len, max(2, math.ceil(seq_len * per_token * 1.25)))


def _summarize(manifest: Manifest, how: str) -> Summary:
    totals = manifest.totals
    config = manifest.config
    filled = totals["tokens"] / max(1, totals["sequences"] * config["seq_len"])
    return Summary(
        {"stage": NAME, "how": how, "output": str(manifest.folder), **totals},
        [
            f"pack: {how}. {count(totals['documents'], 'document')} "
            f"({totals['held_out_documents']:,} held out), {format_bytes(totals['bytes'])} in "
            f"{totals['sequences']:,} sequences of up to {config['seq_len']} tokens and "
            f"{config['max_patches']} patches ({filled:.0%} filled) -> {manifest.folder}",
            *_cut_lines(totals, config["seq_len"]),
        ],
    )


def _cut_lines(totals: Mapping[str, int], seq_len: int) -> list[str]:
    """Says so where patches were cut, since no sequence holds them."""
    if not (number := totals.get("cut_patches")):
        return []
    return [
        f"  {count(number, 'patch', 'patches')} longer than --seq-len {seq_len} were cut into "
        f"{totals['cut_pieces']:,} pieces; a larger --seq-len keeps them whole."
    ]


if __name__ == "__main__":
    from pipelines import pack  # what workers unpickle must not come from __main__

    sys.exit(command.main(pack))
