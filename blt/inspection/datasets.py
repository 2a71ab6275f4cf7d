"""What a dataset holds: its manifest in words, and its first documents."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blt.cli.command import Summary
from blt.cli.console import count, format_bytes
from blt.corpus.planning.sources import SOURCES_NAME
from blt.dataset.groups import describe_bounds
from blt.dataset.joining import check_related
from blt.dataset.loss import describe_invalid_input, describe_lost_input
from blt.dataset.manifest import KINDS, Manifest
from blt.dataset.rejects import REASONS, count_rejects
from blt.dataset.several import each_parent, read_datasets
from blt.dataset.stage import REJECTS_NAME
from blt.dataset.storage import Place
from blt.dataset.trained_split import trained_share
from blt.formats.training_shard import read_training_shard
from blt.inspection.artefacts import Dataset, find_by_sha256, find_parents, flatten
from blt.inspection.documents import (
    Document,
    first_documents,
    sequence_documents,
)
from blt.inspection.history import RUN_HISTORY, read_history
from blt.inspection.measures import (
    BLT,
    ENTROPY_MODEL,
    MIN_RANKED_BYTES,
    SUMMARY_NAME,
    Score,
    is_blt_scores,
    measure_scores,
)
from blt.inspection.visible import visible_text
from blt.inspection.words import (
    BAR,
    MAX_VALUE_CHARACTERS,
    SHORT_HEX,
    document_data,
    document_lines,
    join,
    table_lines,
)
from blt.patching.words import inside_characters_words
from blt.training_data.packing import PackedSequence

_MAX_SHARDS_LISTED = 5
_MAX_FILES_LISTED = 10
_MAX_GROUPS_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Look:
    """How much to show of an artefact's content.

    Attributes:
      documents: the first documents that are shown.
      num_bytes: bytes of each, at most.
      data: byte shards for boundaries; None to look for them beside the dataset.
    """

    documents: int = 3
    num_bytes: int = 300
    data: Sequence[Place] | None = None


def describe_dataset(dataset: Dataset, look: Look) -> Summary:
    """Describes any dataset.

    Raises:
      UserError: `look.data` is not what the boundaries were made from.
      WorkError: a shard that is looked into is damaged.
    """
    parts = [_describe_manifest(dataset), _describe_input(dataset.manifest)]
    content = {
        "byte_shards": _describe_bytes,
        "boundaries": _describe_boundaries,
        "training_shards": _describe_sequences,
        "scores": _describe_scores,
        "blt_run": _describe_run,
    }.get(dataset.manifest.kind)
    if content is not None:
        parts.append(content(dataset, look))
    return join(*parts)


def _describe_manifest(dataset: Dataset) -> Summary:
    manifest = dataset.manifest
    name, command = KINDS.get(manifest.kind, (manifest.kind, "another program"))
    lines = [
        f"{visible_text(manifest.folder)}: {visible_text(name)}, made by `{command}` of blt "
        f"{visible_text(dataset.blt_version)}.",
        "",
        "How much:",
        *table_lines(_totals(manifest)),
    ]
    if (inside := inside_characters_words(manifest.totals, manifest.config)) is not None:
        lines.append(f"  of the patches, {inside}")
    if manifest.config:
        lines += ["Made with:", *table_lines(flatten(manifest.config))]
    if manifest.parents or manifest.fingerprints:
        lines += ["Made from:", *table_lines(_origins(manifest))]
    lines += [f"Shards: {len(manifest.shards):,}"]
    shown = manifest.shards[:_MAX_SHARDS_LISTED]
    lines += table_lines(
        (shard.name, f"{count(shard.documents, 'document')}, {format_bytes(shard.bytes)}")
        for shard in shown
    )
    if len(manifest.shards) > len(shown):
        lines.append(f"  … and {len(manifest.shards) - len(shown):,} more")
    data = {
        "what": manifest.kind,
        "folder": str(manifest.folder),
        "blt_version": dataset.blt_version,
        "sha256": manifest.sha256,
        "config": manifest.config,
        "fingerprints": manifest.fingerprints,
        "parents": manifest.parents,
        "totals": manifest.totals,
        "shards": [dataclasses.asdict(shard) for shard in manifest.shards],
    }
    return Summary(data, lines)


def _totals(manifest: Manifest) -> list[tuple[str, Any]]:
    totals: dict[str, Any] = dict(manifest.totals)
    if manifest.kind == "boundaries" and totals["patches"]:  # elsewhere BOS's patch counts too
        totals["mean_patch_bytes"] = f"{totals['bytes'] / totals['patches']:.2f}"
    return [
        (name.replace("_", " "), value)
        for name, value in totals.items()
        if value or not name.startswith("filtered_")
    ]


def _origins(manifest: Manifest) -> list[tuple[str, str]]:
    origins = []
    for kind, sha256 in each_parent(manifest.parents):
        found = find_by_sha256(sha256, manifest.folder)
        where = f" ({visible_text(found.folder.name)}, beside it)" if found else ""
        origins.append((KINDS.get(kind, (kind,))[0], f"manifest {sha256[:SHORT_HEX]}…{where}"))
    for role, value in manifest.fingerprints.items():
        origins.append((f"the {role.replace('_', ' ')}", f"fingerprint {value[:SHORT_HEX]}…"))
    return origins


def describe_rejects(folder: Place) -> Summary:
    """Describes `_rejects.parquet` of a dataset by reason; nothing if there is none."""
    path = folder / REJECTS_NAME
    if not path.is_file():
        return Summary({}, [])
    counts = count_rejects(path)
    if not counts:
        return Summary({"rejects": {}}, ["Rejects: none."])
    lines = ["Rejects, by reason:"]
    lines += table_lines(
        (reason, f"{count:,}: {REASONS.get(reason, '')}".rstrip(": "))
        for reason, count in counts.most_common()
    )
    return Summary({"rejects": dict(counts)}, lines)


def _describe_input(manifest: Manifest) -> Summary:
    """Describes the rejects, and the files that have them or are not UTF-8; bounded lists."""
    rejects = describe_rejects(manifest.folder)
    if manifest.kind != "byte_shards":
        return rejects
    lines = [*rejects.lines]
    totals, lost, invalid = manifest.totals, manifest.lost, manifest.invalid_utf8
    number = totals.get("reject_files", 0)
    lines += file_lines("Files with rejects", number, lost.get("inputs", ()), describe_lost_input)
    number, what = totals.get("invalid_utf8_files", 0), "Files with documents that are not UTF-8"
    lines += file_lines(what, number, invalid.get("inputs", ()), describe_invalid_input)
    data = {"lost": manifest.lost, "invalid_utf8": manifest.invalid_utf8}
    return Summary({**rejects.data, **data}, lines)


def file_lines(
    words: str,
    number: int,
    rows: Sequence[Mapping[str, Any]],
    describe: Callable[[Mapping[str, Any]], str],
) -> list[str]:
    """Returns a heading and the worst of some files; nothing where there are none.

    Args:
      words: what they are.
      number: how many there are.
      rows: the worst ones, from a manifest.
      describe: words a row.
    """
    if not number:
        return []
    shown = rows[:_MAX_FILES_LISTED]
    lines = [f"{words}, {number:,}:", *(f"  {describe(row)}" for row in shown)]
    if number > len(shown):
        lines.append(f"  … and {number - len(shown):,} more, in {SOURCES_NAME}")
    return lines


def _describe_documents(documents: list[Document], what: str, hint: str = "") -> Summary:
    lines = [what]
    for document in documents:
        lines += document_lines(document)
    data = {"documents": [document_data(document) for document in documents]}
    return Summary(data, [*lines, hint] if hint else lines)


def _describe_bytes(dataset: Dataset, look: Look) -> Summary:
    found = first_documents(dataset.manifest, None, count=look.documents, num_bytes=look.num_bytes)
    return _describe_documents(list(found), "The first documents:")


def _describe_boundaries(dataset: Dataset, look: Look) -> Summary:
    manifest = dataset.manifest
    if look.data is not None:
        data = read_datasets(look.data, "byte_shards")
        check_related(manifest, data)
    else:
        data = find_parents(manifest, "byte_shards")
    if data is None:
        lines = [
            "The documents cannot be shown: the byte shards that these boundaries were made from "
            "do not lie beside them. Give their folder with --data."
        ]
        return Summary({"documents": None}, lines)
    found = first_documents(data, manifest, count=look.documents, num_bytes=look.num_bytes)
    return _describe_documents(list(found), f"The first documents, patches between {BAR}:")


def _describe_sequences(dataset: Dataset, look: Look) -> Summary:
    manifest = dataset.manifest
    lines, data = [], []
    paths = [manifest.shard_path(shard) for shard in manifest.shards]
    sequences = itertools.chain.from_iterable(map(read_training_shard, paths))
    for index, sequence in enumerate(itertools.islice(sequences, look.documents)):
        shown = describe_sequence(sequence, f"Sequence {index}", look.num_bytes)
        lines += shown.lines
        data.append(shown.data)
    return Summary({"sequences": data}, lines)


def describe_sequence(sequence: PackedSequence, name: str, num_bytes: int) -> Summary:
    """Describes a training sequence and shows the beginnings of its documents."""
    documents = list(sequence_documents(sequence, num_bytes))
    counts = {
        "tokens": len(sequence.tokens),
        "patches": len(sequence.patch_lengths),
        "documents": len(sequence.doc_ids),
    }
    words = ", ".join(f"{value:,} {what}" for what, value in counts.items())
    lines = [f"{name}: {words}; patches between {BAR}"]
    for document in documents:
        lines += document_lines(document, " in this sequence")
    return Summary({**counts, "first": [document_data(document) for document in documents]}, lines)


def _describe_scores(dataset: Dataset, look: Look) -> Summary:
    measured = measure_scores(dataset, BLT if is_blt_scores(dataset) else ENTROPY_MODEL)
    lines = [f"Scores of the {measured.label}:"]
    left_out = ("percentile_error_bits", "trained_on")
    figures = {
        name: value
        for name, value in measured.summary.items()
        if not isinstance(value, dict) and name not in left_out
    }
    share = trained_share(measured.summary)
    figures["trained_on"] = "not known" if share is None else f"{share:.1%} of the bytes"
    lines += table_lines((name.replace("_", " "), _rounded(v)) for name, v in figures.items())
    percentiles = measured.summary.get("percentiles", {})
    if percentiles:
        shown = ", ".join(f"{q} % {percentiles[q]:.3f}" for q in sorted(percentiles, key=float))
        lines.append(f"  percentiles of documents, in bits per byte: {shown}")
    lines += _group_lines(measured.summary)
    if measured.is_sampled:
        lines.append(f"  (what follows is from {measured.num_rows:,} rows, a part of all)")
    for name, ranked in (("Best", measured.best), ("Worst", measured.worst)):
        lines.append(f"{name}, of documents of {MIN_RANKED_BYTES} bytes or more, in bits per byte:")
        lines += table_lines((score.doc_id, _score_words(score)) for score in ranked)
    for name, number in measured.ahead.items():
        of = count(measured.num_scored, "document")
        lines.append(f"{name} is ahead at {number:,} of {of}.")
    data = {
        "summary": measured.summary,
        "best": [dataclasses.asdict(score) for score in measured.best],
        "worst": [dataclasses.asdict(score) for score in measured.worst],
        "compressors_ahead": measured.ahead,
    }
    return Summary(data, lines)


def _group_lines(summary: dict[str, Any]) -> list[str]:
    """Shows the groups with the most bytes, and says what of the groups is not in the summary."""
    lines = []
    for name, groups in summary.get("by", {}).items():
        shown = list(groups["values"].items())[:_MAX_GROUPS_LISTED]
        more = len(groups["values"]) - len(shown)
        lines.append(f"By {visible_text(name)}, in bits per byte; the groups with the most bytes:")
        lines += table_lines(
            (
                visible_text(value, MAX_VALUE_CHARACTERS) or "(none)",
                f"{_rounded(figures['bits_per_byte'] or 0.0)}; "
                f"{count(figures['documents'], 'document')}, {format_bytes(figures['bytes'])}",
            )
            for value, figures in shown
        )
        lines += [f"  … and {more:,} more, in {SUMMARY_NAME}"] * (more > 0)
    return [*lines, *(f"  {visible_text(line)}" for line in describe_bounds(summary))]


def _score_words(score: Score) -> str:
    others = [f"{name} {bits:.3f}" for name, bits in score.baselines.items() if bits is not None]
    return f"{score.bits_per_byte:.3f}; {', '.join(others)}; {score.num_bytes:,} bytes"


def _rounded(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _describe_run(dataset: Dataset, look: Look) -> Summary:
    path = dataset.manifest.folder / RUN_HISTORY
    if not path.is_file():
        return Summary({}, [])
    records = read_history(path)
    if not records:
        return Summary({}, ["Training history: empty."])
    return describe_history(records)


def describe_history(records: list[dict[str, Any]]) -> Summary:
    """Describes the course of a training."""
    lines = [f"Training history, {len(records):,} records; the last:"]
    lines += table_lines((name, _rounded(value)) for name, value in records[-1].items())
    held_out = [r["held_out_bits_per_byte"] for r in records if "held_out_bits_per_byte" in r]
    if held_out:
        shown = ", ".join(f"{bits:.3f}" for bits in held_out[-8:])
        lines.append(f"  held out, in bits per byte, over time: {shown}")
    return Summary({"history": {"records": len(records), "last": records[-1]}}, lines)
