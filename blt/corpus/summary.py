"""What `blt encode` says at its end: where every record went."""

import pyarrow.parquet as pq

from blt.console import count
from blt.corpus.csv_reader import QUOTED_COUNT
from blt.corpus.field_names import fields_with
from blt.corpus.filters import FILTERS
from blt.corpus.plain import LONG_INTEGER, MENDED_ID, NONFINITE, NOT_UNICODE
from blt.corpus.sources import SOURCES_NAME
from blt.corpus.warc_reader import UNKNOWN_CODING
from blt.formats.rejects import count_rejects
from blt.loss import describe_loss
from blt.manifest import Manifest
from blt.plan_file import read_plan
from blt.stage import REJECTS_NAME

_MAX_NAMED = 5
_LOOKS = {
    False: "looks like JSON Lines, but lacks",
    True: "look like JSON Lines, but lack",
}
_UTF8_WORDS = {"keep": "kept as they are", "replace": "mended with U+FFFD"}
_MENDED_WORDS = {
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
    if totals.get("invalid_utf8"):
        how = _UTF8_WORDS[config.get("utf8", "keep")]
        lines.append(f"{totals['invalid_utf8']:,} documents are not UTF-8; {how}")
    for kind, how in _MENDED_WORDS.items():
        if number := totals.get(kind):
            lines.append(f"kept fields of {count(number, 'document')}: {how}")
    if number := totals.get(MENDED_ID):
        lines.append(f"ids of {count(number, 'document')}: not Unicode, mended with U+FFFD")
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


def _file_lines(manifest: Manifest) -> list[str]:
    """Names the files that are damaged, and those given up for another reason."""
    totals = manifest.totals
    if not (totals.get("damaged_files") or totals.get("lost_files")):
        return []
    damaged: list[str] = []
    given_up: list[str] = []
    with pq.ParquetFile(manifest.folder / SOURCES_NAME) as file:
        for batch in file.iter_batches(columns=["source", "damaged", "given_up"]):
            for row in batch.to_pylist():
                name = ascii(row["source"])[1:-1]
                if row["damaged"]:
                    damaged.append(name)
                elif row["given_up"]:
                    given_up.append(f"{name} ({row['given_up']})")
    lines = []
    if damaged:
        how = _DAMAGED_WORDS[manifest.config.get("on_damaged_file", "keep")]
        lines.append(f"{count(len(damaged), 'damaged file')}; {how}: {_named(damaged)}")
    if given_up:
        lines.append(f"{count(len(given_up), 'file')} given up: {_named(given_up)}")
    return lines


def _named(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + ", …" * (len(names) > _MAX_NAMED)
