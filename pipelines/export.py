"""Byte shards and their entropies to the files that Meta's BLT trainer reads.

Reads byte shards and boundaries that keep entropies; writes `*.shard_00.arrow`, one for each byte
shard, with a `.complete` marker beside each.

    blt patch --data bytes --entropy-model entropy.keras --threshold-nats 1.3 \\
        --keep-entropies f16 --output patches
    blt export --to meta-arrow --data bytes --patches patches --output arrow
"""

import argparse
import dataclasses
import sys

from blt.cli import command
from blt.cli.command import Summary
from blt.cli.console import Console, count, format_bytes
from blt.commands.arguments import (
    add_data_argument,
    add_output_arguments,
    add_places_argument,
    fraction,
)
from blt.commands.read_together import with_read
from blt.dataset.loss import DEFAULT_MAX_LOST_FRACTION
from blt.dataset.manifest import Manifest
from blt.dataset.several import NumberedShard, check_boundaries_of, read_datasets
from blt.dataset.stage import REJECTS_NAME, Gathered, Stage, make_units
from blt.dataset.storage import Place, atomic_path
from blt.dataset.units import Progress, Unit, UnitResult
from blt.errors import UserError
from blt.formats.meta_arrow import COMPLETE_SUFFIX, meta_arrow_name
from pipelines.beam_flags import split_beam_flags as split_extra_flags  # noqa: F401
from pipelines.run_units import describe_plan, run_stage
from pipelines.shard_units import read_payload, shard_payloads

NAME = "export"
HELP = "byte shards and entropies to files for Meta's trainer"
DESCRIPTION = """\
Writes documents and their entropies as Meta's BLT trainer reads them: Arrow files with the columns
sample_id, text and entropies. The entropies are those that blt patch kept (--keep-entropies).
Documents that are not valid UTF-8 cannot be text there and go to _rejects.parquet."""

TARGETS = ("meta-arrow",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", choices=TARGETS, required=True, help="The format to write.")
    add_data_argument(parser)
    add_places_argument(
        parser,
        "--patches",
        required=True,
        metavar="PATCHES",
        help="Their boundaries, from blt patch with --keep-entropies.",
    )
    add_output_arguments(parser, "the Arrow files", is_stage=True)
    parser.add_argument(
        "--max-lost-fraction",
        type=fraction,
        default=DEFAULT_MAX_LOST_FRACTION,
        metavar="F",
        help="The job fails when more than this share of the documents was rejected.",
    )


@dataclasses.dataclass(frozen=True)
class _ExportShard:
    data: tuple[Place, ...]  # the datasets
    patches: tuple[Place, ...]
    entropy_model: str

    def __call__(self, unit: Unit, output: Place, progress: Progress) -> UnitResult:
        from blt.training_data.meta_arrow_export import export_meta_arrow_shard

        payload = dict(unit.payload)
        described = NumberedShard.from_json(payload.pop("boundaries"))
        shard = read_payload(payload)
        with (
            shard.fetched(self.data) as byte_shard,
            described.fetched(self.patches) as boundaries,
        ):
            return export_meta_arrow_shard(
                byte_shard,
                boundaries,
                output,
                name=shard.numbered.name,
                unit_index=unit.index,
                metadata={
                    "byte_shard_sha256": shard.info.sha256,
                    "entropy_model": self.entropy_model,
                    "entropy_unit": "nats",
                },
                progress=progress,
            )


def _mark_complete(output: Place, gathered: Gathered) -> None:
    for shard in gathered.shards:
        with atomic_path(output / (shard.name + COMPLETE_SUFFIX)) as temporary:
            temporary.touch()


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Exports; see `DESCRIPTION`."""
    data = read_datasets(args.data, "byte_shards")
    patches = read_datasets(args.patches, "boundaries")
    check_boundaries_of(patches, data)
    if patches.config.get("keep_entropies") is None:
        from blt.training_data.meta_arrow_export import no_entropies

        raise UserError(no_entropies(patches.where))
    payloads = shard_payloads(data)
    for payload, boundaries in zip(payloads, patches.numbered, strict=True):
        payload["boundaries"] = boundaries.to_json()
    names = [meta_arrow_name(shard.name) for shard in data.shards]
    stage = Stage(
        kind="meta_arrow",
        output=args.output,
        config={"to": args.to},
        fingerprints=patches.fingerprints,
        parents={"byte_shards": data.sha256, "boundaries": patches.sha256},
        run_unit=_ExportShard(data.folders, patches.folders, patches.fingerprints["entropy_model"]),
        shard_patterns=("bytes-*.shard_*.arrow",),
        reads_foreign_data=True,
        extra_files=tuple(name + COMPLETE_SUFFIX for name in names),
        before_manifest=_mark_complete,
        max_lost_fraction=args.max_lost_fraction,
    )
    units = make_units(stage, payloads, [shard.bytes for shard in data.shards])
    manifest, how = run_stage(stage, units, args, console)
    if manifest is None:
        plan = describe_plan(stage, units, [*names, REJECTS_NAME, "_manifest.json"])
        return with_read(plan, data=data, patches=patches)
    return with_read(_summarize(manifest, how), data=data, patches=patches)


def _summarize(manifest: Manifest, how: str) -> Summary:
    totals = manifest.totals
    lines = [
        f"export: {how}. {count(totals['documents'], 'document')}, "
        f"{format_bytes(totals['bytes'])} in {count(len(manifest.shards), 'Arrow file')} -> "
        f"{manifest.folder}"
    ]
    if totals["rejects"]:
        lines.append(
            f"  {totals['rejects']:,} of {totals['records']:,} documents were rejected"
            f" -> {manifest.folder / REJECTS_NAME}"
        )
    return Summary({"stage": NAME, "how": how, "output": str(manifest.folder), **totals}, lines)


if __name__ == "__main__":
    from pipelines import export  # what workers unpickle must not come from __main__

    sys.exit(command.main(export))
