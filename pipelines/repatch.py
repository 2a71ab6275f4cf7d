"""Patch boundaries to those of another rule or threshold, by the entropies that were kept.

Reads boundaries that `blt patch --keep-entropies` made; writes the same rows, cut anew. No model is
run: a new threshold for a corpus is a matter of seconds.

    blt repatch --patches patches --threshold-nats 1.1 --output patches-1.1
    python -m pipelines.repatch --patches patches --data bytes --rule space --output patches-space
"""

import argparse
import contextlib
import dataclasses
import sys
from typing import Any

from blt.cli import command
from blt.cli.command import Summary
from blt.cli.console import Console
from blt.commands.arguments import add_output_arguments, add_places_argument
from blt.commands.read_together import with_read
from blt.commands.rule_arguments import add_rule_arguments, read_rule
from blt.dataset.several import Datasets, NumberedShard, read_datasets
from blt.dataset.stage import Stage, make_units
from blt.dataset.storage import Place
from blt.dataset.units import Progress, Unit, UnitResult
from blt.errors import UserError
from blt.patching.rules import PatchRule
from pipelines.beam_flags import split_beam_flags as split_extra_flags  # noqa: F401
from pipelines.patch import summarize
from pipelines.run_units import describe_plan, run_stage

NAME = "repatch"
HELP = "boundaries of another rule or threshold, without a model"
DESCRIPTION = """\
Cuts anew what blt patch --keep-entropies has cut: the boundaries are those that blt patch would
have made by this rule with these entropies kept, and what is made from boundaries takes them as it
takes those. No model is run. The rule space, and --snap-utf8, look at the bytes and need --data."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_places_argument(
        parser,
        "--patches",
        required=True,
        metavar="PATCHES",
        help="Boundaries, from blt patch; for the rules entropy, monotonic and combined with "
        "--keep-entropies.",
    )
    add_places_argument(
        parser,
        "--data",
        metavar="BYTES",
        help="The byte shards that they were made from. With them, boundaries inside UTF-8 "
        "characters are counted.",
    )
    add_output_arguments(parser, "the boundaries", is_stage=True)
    parser.add_argument(
        "--drop-entropies",
        action="store_true",
        help="Leave the entropies out, which are most of the size; these boundaries cannot be cut "
        "anew then.",
    )
    add_rule_arguments(parser)


@dataclasses.dataclass(frozen=True)
class _RepatchShard:
    patches: tuple[Place, ...]  # the datasets
    data: tuple[Place, ...] | None
    rule: PatchRule
    drop_entropies: bool

    def __call__(self, unit: Unit, output: Place, progress: Progress) -> UnitResult:
        from blt.dataset.joining import check_made_from
        from blt.patching.repatch import repatch_shard

        with contextlib.ExitStack() as resources:
            described = NumberedShard.from_json(unit.payload["boundaries"])
            boundaries = resources.enter_context(described.fetched(self.patches))
            byte_shard = None
            if self.data is not None:
                of = NumberedShard.from_json(unit.payload["byte_shard"])
                byte_shard = resources.enter_context(of.fetched(self.data))
                check_made_from(boundaries, byte_shard, of.info.sha256)
            return repatch_shard(
                boundaries,
                output,
                rule=self.rule,
                byte_shard=byte_shard,
                name=described.name,
                drop_entropies=self.drop_entropies,
                progress=progress,
            )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Cuts anew; see `DESCRIPTION`."""
    from blt.dataset.joining import check_related
    from blt.patching.repatch import check_repatch_options, with_kept_context

    patches = read_datasets(args.patches, "boundaries")
    data = None
    if args.data is not None:
        data = read_datasets(args.data, "byte_shards")
        check_related(patches, data)
    rule = read_rule(args, patches.fingerprints.get("entropy_model"))
    was_reset = bool(patches.config.get("reset_on_newline"))
    if was_reset and args.calibration is not None and not rule.reset_on_newline:
        raise UserError(
            f"--calibration {args.calibration}: made without --reset-on-newline, but --patches "
            f"{patches.where} with it. Calibrate again with --reset-on-newline."
        )
    rule = with_kept_context(rule, was_reset=was_reset)
    kept_as = patches.config["keep_entropies"]
    check_repatch_options(rule, kept_as, has_bytes=data is not None)
    stage = Stage(
        kind="boundaries",
        output=args.output,
        config={
            **patches.config,
            **dataclasses.asdict(rule),
            "keep_entropies": None if args.drop_entropies else kept_as,
        },
        fingerprints=patches.fingerprints,
        parents={"byte_shards": patches.parents["byte_shards"], "boundaries": patches.sha256},
        run_unit=_RepatchShard(patches.folders, data and data.folders, rule, args.drop_entropies),
        shard_patterns=("patches-*.parquet",),
    )
    units = make_units(stage, _payloads(patches, data), [shard.bytes for shard in patches.shards])
    manifest, how = run_stage(stage, units, args, console)
    if manifest is None:
        outputs = [shard.name for shard in patches.shards]
        plan = describe_plan(stage, units, [*outputs, "_manifest.json"])
        return with_read(plan, patches=patches, data=data)
    return with_read(summarize(NAME, manifest, how), patches=patches, data=data)


def _payloads(patches: Datasets, data: Datasets | None) -> list[dict[str, Any]]:
    payloads = [{"boundaries": shard.to_json()} for shard in patches.numbered]
    if data is not None:
        for payload, shard in zip(payloads, data.numbered, strict=True):
            payload["byte_shard"] = shard.to_json()
    return payloads


if __name__ == "__main__":
    from pipelines import repatch  # what workers unpickle must not come from __main__

    sys.exit(command.main(repatch))
