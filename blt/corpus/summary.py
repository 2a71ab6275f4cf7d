"""What `blt encode` says at its end: where every record went."""

from collections import Counter

import pyarrow.parquet as pq

from blt.cli.console import count
from blt.corpus.admission.filters import FILTERS
from blt.corpus.files.detect import UNREAD
from blt.corpus.left_out import left_out_line
from blt.corpus.plain import CHANGED_ID, LONG_INTEGER, NONFINITE, NOT_UNICODE
from blt.corpus.planning.field_names import fields_with
from blt.corpus.planning.sources import SOURCES_NAME
from blt.corpus.readers.csv_reader import QUOTED_COUNT
from blt.corpus.readers.warc_reader import UNKNOWN_CODING
from blt.dataset.loss import describe_invalid_input, describe_loss, describe_lost_input
from blt.dataset.manifest import Manifest
from blt.dataset.plan_file import read_plan
from blt.dataset.rejects import count_rejects
from blt.dataset.stage import REJECTS_NAME
from blt.dataset.storage import fetched

_MAX_NAMED = 5
_NOT_READ = {UNREAD: "nothing that is read"}
_LOOKS = {
    False: "looks like JSON Lines, but lacks",
    True: "look like JSON Lines, but lack",
}
_UTF8_WORDS = {
    "keep": "bytes are kept as they are",
    "replace": "U+FFFD replaces the bytes that are not",
}
_CHANGED_WORDS = {
    NONFINITE: "NaN or infinite, made null",
    LONG_INTEGER: "integers beyond any double, made strings",
    NOT_UNICODE: "not Unicode, made U+FFFD or words such as \\xff",
}
_DAMAGED_WORDS = {"keep": "what could be read was kept", "drop": "dropped"}


def summary_lines(manifest: Manifest) -> list[str]:
    """Returns a line for each thing worth knowing, from a dataset of byte shards."""
    totals, config = manifest.totals, manifest.config
    lines = []
    if not totals["documents"]:
        lines.append("the input holds no documents")
    if totals["filtered"] or totals["rejects"]:
        lines.append(
            f"{totals['records']:,} records read = {totals['documents']:,} documents "
            f"+ {totals['filtered']:,} filtered + {totals['rejects']:,} rejected"
        )
    lines += _format_lines(manifest)
    left_out = manifest.config.get("left_out", {})
    if line := left_out_line({kind: found["number"] for kind, found in left_out.items()}):
        lines.append(f"{line} (names: config.left_out in _manifest.json)")
    counts = {FILTERS[reason]: totals.get(f"filtered_{reason}", 0) for reason in FILTERS}
    lines += [f"filtered: {num:,} {what}" for what, num in counts.items() if num]
    if number := totals.get("empty_inputs"):
        lines.append(f"{count(number, 'empty input')} (files, members of archives): no records")
    if number := totals.get("json_as_text"):
        lines.append(
            f"{count(number, 'text')} (files, members of archives) {_LOOKS[number > 1]} the field "
            f"{config.get('text_field', 'text')!a}"
        )
    if number := totals.get("told_members"):
        lines.append(
            f"{count(number, 'member')} of archives told by content, not by name alone; "
            f"{SOURCES_NAME} has them"
        )
    if totals["rejects"]:
        reasons = count_rejects(manifest.folder / REJECTS_NAME)
        words = ", ".join(f"{num:,} {reason}" for reason, num in reasons.most_common())
        lines.append(f"rejected: {words} -> {manifest.folder / REJECTS_NAME}")
    lines += reject_file_lines(manifest)
    lines += invalid_utf8_lines(manifest)
    for kind, how in _CHANGED_WORDS.items():
        if number := totals.get(kind):
            lines.append(f"kept fields of {count(number, 'document')}: {how}")
    if number := totals.get(CHANGED_ID):
        lines.append(f"ids of {count(number, 'document')}: not Unicode, made U+FFFD")
    if number := totals.get(QUOTED_COUNT):
        lines.append(
            f"{count(number, 'document')} of TSV in quotes, which were taken as data; "
            "--csv-quoting quotes reads quoted fields"
        )
    if number := totals.get(UNKNOWN_CODING):
        lines.append(f"{count(number, 'document')} of WARC: Content-Encoding unknown, taken as is")
    for name, number in fields_with(totals).items():
        if 0 < number < totals["documents"]:
            shown = ascii(name)[1:-1]
            lines.append(f"field {shown}: in {number:,} of {totals['documents']:,} documents")
    if totals.get("suffixed_ids"):
        lines.append(f"{totals['suffixed_ids']:,} ids got a suffix (~dup)")
    if totals.get("lost_records") or totals.get("lost_files"):
        lines.append(f"lost: {describe_loss(totals)}")
    lines += _file_lines(manifest)
    limit = config.get("limit")
    if limit is not None and "max_documents" in read_plan(manifest.folder)[-1].payload:
        lines.append(f"--limit {limit:,} is reached; what comes after was not read")
    return lines


def _format_lines(manifest: Manifest) -> list[str]:
    """Says what the files were read as, where that is more than one thing."""
    formats: Counter[str] = Counter()
    with fetched(manifest.folder / SOURCES_NAME) as path, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["format"]):
            for row in batch.column("format").value_counts().to_pylist():
                formats[row["values"]] += row["counts"]
    if len(formats) < 2:
        return []
    ordered = sorted(formats.items(), key=lambda item: (-item[1], item[0]))
    words = (f"{number:,} {_NOT_READ.get(name, name)}" for name, number in ordered)
    return [f"files read as: {', '.join(words)}"]


def _file_lines(manifest: Manifest) -> list[str]:
    """Names the files that are damaged, and those given up for another reason."""
    totals = manifest.totals
    if not (totals.get("damaged_files") or totals.get("lost_files")):
        return []
    damaged: list[str] = []
    given_up: list[str] = []
    num_given_up = 0  # that are not damaged
    with fetched(manifest.folder / SOURCES_NAME) as path, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["source", "damaged", "given_up"]):
            for row in batch.to_pylist():
                name = ascii(row["source"])[1:-1]
                if row["damaged"]:
                    damaged.append(name)
                elif row["given_up"]:
                    num_given_up += 1
                    given_up.append(f"{name} ({row['given_up']})")
            del damaged[_MAX_NAMED:], given_up[_MAX_NAMED:]
    lines = []
    if damaged:
        how = _DAMAGED_WORDS[manifest.config.get("on_damaged_file", "keep")]
        number = totals["damaged_files"]
        lines.append(f"{count(number, 'damaged file')}; {how}: {_named(damaged, number)}")
    if given_up:
        names = _named(given_up, num_given_up)
        lines.append(f"{count(num_given_up, 'file')} given up: {names}")
    return lines


def reject_file_lines(manifest: Manifest, max_named: int = _MAX_NAMED) -> list[str]:
    """Says how many files have rejects, and names those that lost most; [] if there are none."""
    number = manifest.totals.get("reject_files", 0)
    if not number:
        return []
    inputs = manifest.lost["inputs"][:max_named]
    names = _named([describe_lost_input(row) for row in inputs], number, max_named)
    return [f"rejects in {count(number, 'file')}: {names}"]


def invalid_utf8_lines(manifest: Manifest, max_named: int = _MAX_NAMED) -> list[str]:
    """Says how many documents are not UTF-8, and in which files; [] if all are."""
    number, files = (manifest.totals.get(f"invalid_utf8{of}", 0) for of in ("", "_files"))
    if not number:
        return []
    how = _UTF8_WORDS[manifest.config.get("utf8", "keep")]
    verb = "is" if number == 1 else "are"
    lines = [f"{count(number, 'document')} {verb} not UTF-8; {how}"]
    if inputs := manifest.invalid_utf8.get("inputs", ())[:max_named]:
        names = _named([describe_invalid_input(row) for row in inputs], files, max_named)
        hint = "; --exclude leaves files out, --utf8 reject refuses such documents"
        hint *= manifest.config.get("utf8", "keep") == "keep"
        lines.append(f"not UTF-8 in {count(files, 'file')}: {names}{hint}")
    return lines


def _named(names: list[str], number: int, max_named: int = _MAX_NAMED) -> str:
    return ", ".join(names[:max_named]) + ", …" * (number > max_named)
