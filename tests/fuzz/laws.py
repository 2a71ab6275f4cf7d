"""What holds for the encoding of any file under any config: no crash, and no record lost.

What encoding should make of the records that a reader gives is worked out a second time here, in
the plainest way, and so is what the reader should give, where a library tells.
"""

import base64
import csv
import dataclasses
import json
import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from blt.corpus import (
    EncodeConfig,
    build_plan,
    check_inputs,
    decode_dataset,
    discover_inputs,
    encode_unit,
    find_duplicates,
    payload_bytes,
    plan_corpus,
)
from blt.corpus.admission.filters import FILTERS, is_sampled
from blt.corpus.config import FORMATS
from blt.corpus.fields import ABSENT, get_field, read_fields
from blt.corpus.plain import parse_integer
from blt.corpus.planning.sources import read_sources, unit_sources_path
from blt.corpus.readers.csv_dialect import Dialect
from blt.corpus.readers.paragraph_reader import gaps_of
from blt.corpus.readers.registry import read_records
from blt.corpus.records import Document, Filtered, Reject
from blt.dataset.rejects import REASONS
from blt.dataset.units import Unit
from blt.errors import UserError, WorkError
from blt.formats.byte_shard import read_documents
from tests.blt.corpus.helpers import make_dataset, read_back
from tests.fuzz.alter import unpack

_FREE = 1 << 40  # a size that no file has
_MAX_RECORDS = 20_000  # of a file on which more is checked than its records, each by itself
_NUL = "\u0100"
_FAULT = re.compile(r"\d+|'[^']*'|\"[^\"]*\"|b'.*")


@dataclasses.dataclass(frozen=True)
class Made:
    """A document with its bytes, as a reader or `blt encode` makes it."""

    doc_id: str
    raw: bytes
    source: str
    position: int
    meta: bytes | None
    is_utf8: bool = True
    of_text_file: bool = False


class _DamageError(Exception):
    """`--on-damaged-file fail` has to end the work."""


def random_options(rng: random.Random, name: str, num_bytes: int) -> dict[str, Any]:
    """Returns options of `EncodeConfig`, each at its default as often as not."""
    fields = ("text", "id", "n", "doc", "doc.k", "tag", "nope", "url", "date")
    often = {
        "doc_per": lambda: rng.choice(("file", "line", "paragraph")),
        "max_document_bytes": lambda: max(rng.choice((1, 2, 3, 7, 16, 100)), num_bytes // 200),
        "target_shard_bytes": lambda: max(1, num_bytes // rng.randrange(1, 12)),
        "keep_fields": lambda: tuple(rng.sample(fields, rng.randrange(1, 4))),
    }
    seldom = {
        "format": lambda: rng.choice(FORMATS),
        "text_field": lambda: rng.choice(fields),
        "id_field": lambda: rng.choice(fields),
        "utf8": lambda: rng.choice(("reject", "replace")),
        "newlines": lambda: "lf",
        "strip_bom": lambda: True,
        "min_bytes": lambda: rng.choice((1, 2, 5)),
        "max_bytes": lambda: rng.choice((5, 20)),
        "sample": lambda: rng.choice((0.3, 0.8)),
        "limit": lambda: rng.randrange(1, 6),
        "drop_duplicates": lambda: True,
        "on_duplicate_id": lambda: rng.choice(("suffix", "reject")),
        "on_damaged_file": lambda: rng.choice(("drop", "fail")),
        "compression": lambda: "gzip",
        "csv_quoting": lambda: rng.choice(("quotes", "none")),
        "csv_escape": lambda: "\\",
        "csv_delimiter": lambda: rng.choice(";\t,"),
        "max_decompression_ratio": lambda: 1,
    }
    options = {key: make() for key, make in often.items() if rng.random() < 0.5}
    share = rng.choice((0, 0.15, 0.4))
    options |= {key: make() for key, make in seldom.items() if rng.random() < share}
    if name.endswith(".bin"):
        options["format"] = "bytes"
    if options.get("format") == "bytes":
        for key in ("utf8", "newlines", "strip_bom"):
            options.pop(key, None)
    return options


def check_file(path: Path, options: dict[str, Any], rng: random.Random) -> str:
    """Checks all laws on a file; the costly ones on a share of them, which `rng` chooses.

    Returns:
      The kind of outcome, in a few words that are equal for equal ways through the readers.
    """
    config = EncodeConfig(**options)
    files = discover_inputs([path]).files
    whole = build_plan(files, dataclasses.replace(config, target_shard_bytes=_FREE))
    payloads = build_plan(files, config)
    outcome = [whole[0]["files"][0]["format"], whole[0]["files"][0]["compression"]]
    try:
        check_inputs(payloads, config)
    except UserError as error:
        outcome.append(type(error).__name__)
    one = read(whole[0]["files"][0], config)
    if len(one) > _MAX_RECORDS:  # of what grew when it was decompressed
        return f"{outcome} of many records"
    found = [[read(entry, config) for entry in payload["files"]] for payload in payloads]
    records = [record for unit in found for entry in unit for record in entry]
    is_damaged = any(
        isinstance(record, Reject) and (record.ends_input or record.is_damage) for record in one
    )
    # Where a file of row groups is damaged, those after the damage are read in their own units.
    if not is_damaged:
        assert records == one, "the records depend on where the file is split"
        _check_reader(path, whole[0]["files"][0], one, config)
    for record in one:
        words = getattr(record, "reason", "document")
        outcome.append(f"{words} {_FAULT.sub('', getattr(record, 'detail', ''))[:60]}")
    outcome = sorted(set(outcome))
    try:
        expected = [expect(unit, config) for unit in _limited(found, config)]
    except _DamageError:
        expected = None
        outcome.append("fail")
    if rng.random() < 0.5:
        _check_encoding(files, config, expected)
    if expected is not None and rng.random() < 0.15:
        _check_decoding(path, config, one, expected)
    return "; ".join(outcome)


def read(entry: dict[str, Any], config: EncodeConfig) -> list[Made | Reject | Filtered]:
    """Returns the records of an entry, and checks each by itself."""
    done: list[int] = []
    records = []
    for record in read_records(entry, config, done.append):
        if records and getattr(records[-1], "ends_input", False):
            assert records[-1].source != entry["source"], "it goes on after its damage"
        record.source.encode()
        if isinstance(record, Document):
            record.doc_id.encode()
            if record.meta is not None:
                assert isinstance(orjson.loads(record.meta), dict)
            raw = _join(record, config)
            record = Made(
                record.doc_id,
                raw,
                record.source,
                record.position,
                record.meta,
                is_utf8=record.mender is None or record.mender.is_utf8,
                of_text_file=record.of_text_file,
            )
        elif isinstance(record, Reject):
            assert record.reason in REASONS
            record.detail.encode()
            assert record.sample is None or isinstance(record.sample, bytes)
        else:
            assert record.reason in FILTERS
        records.append(record)
    assert sum(done) == entry["num_bytes"]
    return records


def _join(document: Document, config: EncodeConfig) -> bytes:
    parts = list(document.parts)
    assert len(parts) == document.num_parts >= 1
    assert all(len(part) == config.max_document_bytes for part in parts[:-1])
    assert len(parts) == 1 or parts[-1]
    assert len(parts[-1]) <= config.max_document_bytes
    return b"".join(parts)


def _limited(found: list, config: EncodeConfig) -> list:
    """Returns admitted records by unit and entry, up to the document that the limit ends with."""
    left = config.limit
    units = []
    for unit in found:
        units.append([])
        for entry in unit:
            bad = [r for r in entry if isinstance(r, Reject)]
            units[-1].append([])
            for record in entry:
                if left == 0:
                    break
                if isinstance(record, Made):
                    dropped = config.on_damaged_file == "drop" and any(r.is_damage for r in bad)
                    record = (
                        Filtered(record.source, record.position, "damaged_file")
                        if dropped
                        else admit(record, config)
                    )
                elif record in bad and record.is_damage and config.on_damaged_file == "fail":
                    raise _DamageError
                units[-1][-1].append(record)
                if left is not None:
                    left -= isinstance(record, Made)
    seen: Counter[Any] = Counter()
    return [[[decide(r, config, seen) for r in e] for e in unit] for unit in units]


def admit(made: Made, config: EncodeConfig) -> Made | Reject | Filtered:
    """Returns what the rules make of a document by itself."""

    def filtered(reason: str) -> Filtered:
        return Filtered(made.source, made.position, reason)

    if config.sample is not None and not is_sampled(made.doc_id, config.sample):
        return filtered("not_sampled")
    raw, of_text_file = made.raw, made.of_text_file
    if config.strip_bom and not (of_text_file and made.position):
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    if config.newlines == "lf":
        raw = raw.replace(b"\r\n", b"\n")
        if of_text_file and config.doc_per == "line" and made.meta is None:
            raw = raw.removesuffix(b"\r")
        if of_text_file and config.doc_per == "paragraph" and gaps_of(made.meta)[1]:
            raw = raw.removesuffix(b"\r")
    replaced = raw.decode("utf-8", "replace").encode()
    is_utf8 = replaced == raw
    if not is_utf8 and config.utf8 == "reject":
        return Reject(made.source, made.position, "invalid_utf8", "")
    if config.utf8 == "replace":
        raw = replaced
    if config.min_bytes is not None and len(raw) < config.min_bytes:
        return filtered("below_min_bytes")
    if config.max_bytes is not None and len(raw) > config.max_bytes:
        return filtered("above_max_bytes")
    return dataclasses.replace(made, raw=raw, is_utf8=is_utf8 and made.is_utf8)


def decide(
    made: Made | Reject | Filtered, config: EncodeConfig, seen: Counter[Any]
) -> Made | Reject | Filtered:
    """Returns what becomes of a document for those before it."""
    if not isinstance(made, Made):
        return made
    if config.drop_duplicates:
        seen[made.raw] += 1
        if seen[made.raw] > 1:
            return Filtered(made.source, made.position, "duplicate")
    seen[made.doc_id] += 1
    place = seen[made.doc_id]
    if config.on_duplicate_id == "reject" and place > 1:
        return Reject(made.source, made.position, "duplicate_id", "")
    is_ours = re.search(r"~dup[0-9]+\Z", made.doc_id)
    if config.on_duplicate_id == "suffix" and (place > 1 or is_ours):
        return dataclasses.replace(made, doc_id=f"{made.doc_id}~dup{place}")
    return made


def expect(unit: list, config: EncodeConfig) -> dict[str, Any]:
    """Returns what a unit's shards, rejects and rows of sources must hold."""
    records = [record for entry in unit for record in entry]
    documents = [record for record in records if isinstance(record, Made)]
    counts = Counter(f"filtered_{r.reason}" for r in records if isinstance(r, Filtered))
    counts["filtered"] = sum(counts.values())
    counts["invalid_utf8"] = sum(not made.is_utf8 for made in documents)
    counts["documents"] = len(documents)
    counts["bytes"] = sum(len(made.raw) for made in documents)
    counts["records"] = len(records)
    return {
        "documents": [(d.doc_id, d.raw, d.source, d.meta) for d in documents],
        "rejects": [(r.source, r.position, r.reason) for r in records if isinstance(r, Reject)],
        "counts": counts,
        "entries": [len(entry) for entry in unit],
    }


def _check_encoding(files: Any, config: EncodeConfig, expected: list | None) -> None:
    """Encodes for real, and compares all that is written with what must be."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        try:
            try:
                payloads = plan_corpus(files, config)
            except UserError:  # the field is in none of the inputs; so it was refused before
                return
            units = [
                Unit.make(index=index, payload=p, num_bytes=payload_bytes(p), digest=str(index))
                for index, p in enumerate(payloads)
            ]
            find_duplicates(units, config, output)
            for unit in units:
                _check_unit(unit, config, output, expected and expected[unit.index])
        except WorkError as error:
            assert expected is None, f"refused: {error}"
            assert str(files[0].path) in str(error)
            return
        assert expected is not None, "damage was let pass"
        assert not any(any(e["counts"].values()) for e in expected[len(units) :])
        assert not list(output.rglob(".tmp-*"))


def _check_unit(
    unit: Unit, config: EncodeConfig, output: Path, expected: dict[str, Any] | None
) -> None:
    result = encode_unit(unit.payload, config, output, unit.index)
    if expected is None:
        return
    documents = []
    for shard in result.shards:
        held = [read_back(parts) for parts in read_documents(output / shard.name)]
        assert (len(held), sum(len(d[1]) for d in held)) == (shard.documents, shard.bytes)
        assert sum(len(d[1]) for d in held[:-1]) < config.target_shard_bytes
        documents += held
    assert documents == expected["documents"]
    path = output / "_units" / f"{unit.index:05d}.rejects.parquet"
    rejects = pq.read_table(path).to_pylist() if path.exists() else []
    assert [(r["source"], r["position"], r["reason"]) for r in rejects] == expected["rejects"]
    for key, value in expected["counts"].items():
        assert result.counts[key] == value, key
    rows = list(read_sources(unit_sources_path(output, unit.index)))
    assert [row.records for row in rows] == expected["entries"][: len(rows)]
    for row in rows:
        assert row.records == row.documents + row.filtered + row.rejects
        assert row.lost_bytes >= 0
        assert row.rejects <= row.lost_records


def _check_decoding(path: Path, config: EncodeConfig, one: list, expected: list) -> None:
    """Makes a dataset and decodes it: a text file comes back as it was, others as JSON Lines."""
    with tempfile.TemporaryDirectory() as folder:
        data, back = Path(folder, "data"), Path(folder, "back")
        try:
            make_dataset(data, path, **dataclasses.asdict(config))
        except UserError:
            return
        counts = decode_dataset(data, back)
        documents = [document for unit in expected for document in unit["documents"]]
        assert counts["documents"] == len(documents)
        files = sorted(found for found in back.rglob("*") if found.is_file())
        assert counts["files"] == len(files)
        entry = build_plan(discover_inputs([path]).files, config)[0]["files"][0]
        if entry["format"] in ("text", "bytes"):
            is_all = documents and len(documents) == len(one)
            if is_all and not config.changes_bytes and config.utf8 != "replace":
                assert files[0].read_bytes() == unpack(path.read_bytes(), entry["compression"])
        elif entry["format"] != "tar" and documents:
            lines = [json.loads(line) for line in files[0].read_bytes().split(b"\n")[:-1]]
            assert [(line["id"], _text(line)) for line in lines] == [d[:2] for d in documents]


def _text(line: dict[str, str]) -> bytes:
    return (
        base64.b64decode(line["bytes_base64"]) if "bytes_base64" in line else line["text"].encode()
    )


def _check_reader(path: Path, entry: dict[str, Any], records: list, config: EncodeConfig) -> None:
    """Checks the records of a file without damage against what a library reads of it."""
    kind = entry["format"]
    if kind == "parquet":
        metadata = pq.read_metadata(path)
        rows = sum(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
        assert len(records) == rows, "rows are missing"
        return
    if kind in ("arrow", "warc", "tfrecord", "tar"):
        return
    content = unpack(path.read_bytes(), entry["compression"])
    if kind == "bytes" or (kind == "text" and config.doc_per == "file"):
        assert [record.raw for record in records] == [content]
    elif kind == "text" and config.doc_per == "line":
        assert [record.raw for record in records] == _lines(content)
    elif kind == "text":
        # A paragraph's bytes are those at its position.
        for made in records:
            if isinstance(made, Made):
                assert content[made.position :].startswith(made.raw)
    elif kind == "jsonl":
        lines = _lines(content)
        assert len(records) == len(lines)
        position = 0
        for line, record in zip(lines, records, strict=True):
            assert record.position == position
            _check_line(line, record, config)
            position += len(line) + 1
    elif kind in ("csv", "tsv") and config.csv_escape is None:
        _check_table(content, Dialect.of(kind, config), records, config)


def _lines(content: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _check_line(line: bytes, record: Made | Reject | Filtered, config: EncodeConfig) -> None:
    """Checks the record of a line of JSON, unless its bytes have to be mended to be parsed."""
    line = line.removeprefix(b"\xef\xbb\xbf")
    if not line.strip(b" \t\r\n"):
        assert record.reason == "blank"
        return
    try:
        row = json.loads(line.decode("utf-8"), parse_int=parse_integer)
    except UnicodeDecodeError:
        return
    except json.JSONDecodeError:
        assert record.reason in ("invalid_json", "too_deep")
        return
    except (ValueError, RecursionError):  # nesting and numbers that one parser takes, and one not
        return
    text = get_field(row, config.text_field) if isinstance(row, dict) else ABSENT
    if not isinstance(text, str):
        reasons = ("not_an_object", "missing_text", "null_text", "text_not_string")
        assert record.reason in reasons
        return
    try:
        raw = text.encode("utf-8")
        fields = read_fields(row, config)
        doc_id, meta = fields.doc_id, fields.meta
        (doc_id or "").encode("utf-8")
    except (UnicodeEncodeError, RecursionError):
        return
    doc_id = f"{record.source}#{record.position}" if doc_id is None else doc_id
    assert (record.raw, record.meta) == (raw, meta)
    # A fraction keeps its digits, which the object here has lost.
    if not isinstance(get_field(row, config.id_field), float):
        assert record.doc_id == doc_id


def _check_table(content: bytes, dialect: Dialect, records: list, config: EncodeConfig) -> None:
    if any(isinstance(record, Reject) for record in records):
        return
    text = content.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    text = text.replace("\0", _NUL)  # at which Python 3.10 stops
    lines = (line + "\n" for line in text.split("\n"))
    if dialect.has_quotes:
        rows = [row for row in csv.reader(lines, delimiter=dialect.delimiter, strict=True) if row]
    else:
        ends = [line.removesuffix("\n").removesuffix("\r") for line in lines]
        rows = [line.split(dialect.delimiter) for line in ends if line]
    made = [record.raw for record in records if isinstance(record, Made)]
    if rows:
        column = rows[0].index(config.text_field)
        fields = [row[column].replace(_NUL, "\0") for row in rows[1:]]
        assert made == [field.encode("latin-1") for field in fields]
