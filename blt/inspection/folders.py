"""What a folder holds: a dataset, one that is not finished, many of them, or a raw corpus."""

import shlex

from blt.cli.command import Summary
from blt.cli.console import count, format_bytes
from blt.corpus.files.detect import detect
from blt.corpus.files.discover import discover_inputs
from blt.dataset.finishing import read_failure
from blt.dataset.manifest import KINDS, describe_kind
from blt.dataset.markers import count_finished_bytes, marked_indices
from blt.dataset.plan_file import UNITS_FOLDER, load_plan
from blt.dataset.storage import Place, StorePlace, read_json, stat, subfolders
from blt.errors import BltError, UserError
from blt.inspection.artefacts import (
    Dataset,
    in_order,
    is_dataset,
    is_unfinished,
    open_dataset,
)
from blt.inspection.datasets import Look, describe_dataset
from blt.inspection.visible import visible_text
from blt.inspection.words import counts_words, table_lines

_FILE_KINDS = {
    ".keras": "a model",
    ".ngram": "an n-gram model",
    ".yaml": "a calibrated threshold or a config",
    ".html": "a report",
    ".jsonl": "the history of a training",
    ".json": "the note beside a finished file",
}
_MAX_FILES_LISTED = 10
_MAX_REASONS_LISTED = 10
_MAX_REASON_CHARACTERS = 2000


def describe_folder(folder: Place, look: Look) -> Summary:
    """Describes any folder.

    Raises:
      UserError: there is nothing in it that is known.
    """
    if is_dataset(folder):
        return describe_dataset(open_dataset(folder), look)
    if is_unfinished(folder):
        return _describe_unfinished(folder)
    inner = [path for path in subfolders(folder) if is_dataset(path) or is_unfinished(path)]
    if inner:
        return _describe_run_folder(folder, inner)
    return _describe_corpus_folder(folder)


def _describe_unfinished(folder: Place) -> Summary:
    plan = load_plan(folder)
    assert plan is not None  # `is_unfinished` has seen it
    identity, units = plan.identity, plan.units
    marked = marked_indices(folder)
    done = sum(unit.index in marked for unit in units)
    failed = sorted((folder / UNITS_FOLDER).glob("*.failed.json"))
    kind = str(identity.get("kind"))
    name, command = KINDS.get(kind, (kind, "the command that made it"))
    finished_bytes = count_finished_bytes(folder, units)
    all_bytes = sum(unit.num_bytes for unit in units)
    failure = read_failure(folder)
    lines = [
        f"{visible_text(folder)}: {visible_text(name)}, not finished: {done:,} of {len(units):,} "
        f"units are done, {format_bytes(finished_bytes)} of {format_bytes(all_bytes)}.",
    ]
    reasons = {}
    for path in failed[:_MAX_REASONS_LISTED]:
        reasons[path.name.partition(".")[0]] = str(read_json(path).get("reason"))
    if failure is not None:
        lines.append(f"The last run failed: {visible_text(failure, _MAX_REASON_CHARACTERS)}")
    lines += [f"  unit {unit} failed: {visible_text(why, 300)}" for unit, why in reasons.items()]
    if len(failed) > len(reasons):
        lines.append(f"  … and {len(failed) - len(reasons):,} more units failed")
    if failure is None and not failed:
        lines.append(f"Run the same `{command}` again to finish it; what is done is kept.")
    else:
        lines.append(
            f"Once that is fixed, run `{command}` again to finish it; what is done is kept."
        )
    lines += ["Made with:", *table_lines(sorted(identity.get("config", {}).items()))]
    data = {
        "what": "unfinished",
        "kind": kind,
        "folder": str(folder),
        "units": len(units),
        "units_done": done,
        "failure": failure,
        "failed_units": len(failed),
        "failed": reasons,
        "config": identity.get("config", {}),
    }
    return Summary(data, lines)


def _describe_run_folder(folder: Place, inner: list[Place]) -> Summary:
    rows, data = [], {}
    datasets = in_order(open_dataset(path) for path in inner if is_dataset(path))
    for dataset in datasets:
        rows.append((f"{dataset.name}/", _one_line(dataset)))
        data[dataset.name] = dataset.manifest.kind
    for path in inner:
        if is_unfinished(path):
            failure = read_failure(path)
            words = "not finished" if failure is None else f"failed: {visible_text(failure, 150)}"
            rows.append((f"{path.name}/", words))
            data[path.name] = "unfinished"
    for path in sorted(folder.iterdir()):
        what = _FILE_KINDS.get(path.suffix)
        if what and path.is_file():
            rows.append((path.name, f"{what}, {format_bytes(stat(path).size)}"))
            data[path.name] = "file"
    lines = [
        f"{visible_text(folder)}: the output of stages, {len(inner)} datasets:",
        *table_lines(rows),
        f"Look at one with: blt inspect {shlex.quote(str(_most_telling(datasets, inner)))}",
    ]
    return Summary({"what": "run", "folder": str(folder), "content": data}, lines)


def _most_telling(datasets: list[Dataset], inner: list[Place]) -> Place:
    for dataset in datasets:
        if dataset.manifest.kind == "boundaries":
            return dataset.manifest.folder
    return inner[0]


def _one_line(dataset: Dataset) -> str:
    totals = dataset.manifest.totals
    counts = {
        name: totals.get(name, 0) for name in ("documents", "sequences", "patches", "rejects")
    }
    words = [counts_words(counts), format_bytes(totals["bytes"]) if totals.get("bytes") else ""]
    described = ", ".join(word for word in words if word)
    return f"{describe_kind(dataset.manifest.kind)}{': ' * bool(described)}{described}"


def _describe_corpus_folder(folder: Place) -> Summary:
    try:
        files = discover_inputs([str(folder)]).files
        found = [(file, detect(file.path)) for file in files[:_MAX_FILES_LISTED]]
    except (BltError, OSError) as error:
        if isinstance(folder, StorePlace) and isinstance(error, OSError):
            raise  # of the store, which says nothing of what is in it
        raise UserError(
            f"{folder}: holds nothing that blt knows; a folder that a stage of blt made (with "
            "_manifest.json or _plan.json), or a folder of text, JSONL, Parquet, …, expected."
        ) from error
    lines = [
        f"{visible_text(folder)}: not made by blt; as a raw corpus: {count(len(files), 'file')}, "
        f"{format_bytes(sum(file.size for file in files))}.",
    ]
    for file, detected in found:
        words = detected.format
        words += "" if detected.compression == "plain" else f", {detected.compression}"
        lines.append(f"  {visible_text(file.source)}: {words}, {format_bytes(file.size)}")
    if len(files) > len(found):
        lines.append(f"  … and {len(files) - len(found):,} more")
    lines += ["Encode it with:", f"  blt encode --input {shlex.quote(str(folder))} --output bytes"]
    data = {"what": "corpus", "folder": str(folder), "files": len(files)}
    return Summary(data, lines)
