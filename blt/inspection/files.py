"""What a single file is: a shard, a model, a calibration, or part of a raw corpus."""

import json
import shlex
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import yaml

from blt.cli.command import Summary
from blt.cli.console import format_bytes
from blt.corpus.files.decompress import DamagedInputError, read_blocks, strip_compression_suffix
from blt.corpus.files.detect import detect
from blt.dataset.rejects import count_rejects
from blt.dataset.storage import Place, open_read, read_json, sha256_file, stat
from blt.errors import UserError
from blt.formats.boundaries import read_boundaries_metadata
from blt.formats.byte_shard import read_byte_shard
from blt.formats.example import ExampleError, parse_example
from blt.formats.parquet import open_parquet
from blt.formats.tfrecord import read_tfrecords
from blt.formats.training_shard import read_training_shard
from blt.inspection.artefacts import flatten
from blt.inspection.datasets import Look, describe_history, describe_sequence
from blt.inspection.documents import beginning, matching_records
from blt.inspection.history import HISTORY_SUFFIX, RUN_HISTORY, read_history
from blt.inspection.visible import visible_bytes, visible_text
from blt.inspection.words import BAR, document_data, document_lines, table_lines

_EXPECTED = (
    "a folder or file that blt made (a shard, a .keras or .ngram model, a threshold.yaml), or a "
    "raw corpus (text, JSONL, Parquet, …), expected"
)
_MAX_CONFIG_BYTES = 16 << 20
_BINARY_SHARE = 0.05  # of control characters in the head of what is no text
_TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".log")  # text, the user says
_REPORT_MARK = b"<title>Byte Latent Transformer: report</title>"


def describe_file(path: Place, look: Look) -> Summary:
    """Describes any file.

    Raises:
      UserError: it is nothing that is known; the message says what is.
      WorkError: it is a shard, and damaged.
    """
    name = path.name
    by_name: list[tuple[bool, Callable[[Place, Look], Summary]]] = [
        (name.endswith((".tfrecord", ".tfrecord.gz")), _describe_tfrecord),
        (name.endswith(".parquet"), _describe_parquet),
        (name.endswith(".keras"), _describe_model),
        (name.endswith(".ngram"), _describe_ngram),
        (name.endswith((".yaml", ".yml")), _describe_yaml),
        (name.endswith(HISTORY_SUFFIX) or name == RUN_HISTORY, _describe_history_file),
        (name.endswith(".json"), _describe_json),
    ]
    for applies, describe in by_name:
        if applies:
            return describe(path, look)
    return _describe_corpus(path, look)


def _describe_tfrecord(path: Place, look: Look) -> Summary:
    first = next(iter(read_tfrecords(path)), None)
    if first is None:
        return _file_summary(path, "an empty TFRecord file", "tfrecord", [])
    try:
        names = set(parse_example(first))
    except ExampleError as error:
        raise UserError(f"{path}: TFRecord, but not of tf.train.Example ({error}).") from error
    if {"tokens", "segment_ids", "patch_lengths"} <= names:
        return _describe_training_shard(path, look)
    if {"tokens", "doc_id", "part"} <= names:
        return _describe_byte_shard(path, look)
    fields = visible_text(", ".join(sorted(names)), 200)
    raise UserError(f"{path}: TFRecord with other fields ({fields}); {_EXPECTED}.")


def _describe_byte_shard(path: Place, look: Look) -> Summary:
    documents, counts = [], {"records": 0, "documents": 0, "tokens": 0}
    for record in read_byte_shard(path):
        counts["records"] += 1
        counts["documents"] += record.part == 0
        counts["tokens"] += len(record.tokens)
        if record.part == 0 and len(documents) < look.documents:
            documents.append(beginning(record, None, look.num_bytes))
    lines = [*table_lines(counts.items()), "The first documents:"]
    for document in documents:
        lines += document_lines(document)
    data = {**counts, "first": [document_data(document) for document in documents]}
    return _file_summary(path, "a byte shard, made by `blt encode`", "byte_shard", lines, data)


def _describe_training_shard(path: Place, look: Look) -> Summary:
    counts = {"sequences": 0, "tokens": 0, "patches": 0}
    lines, first = [], []
    for sequence in read_training_shard(path):
        if counts["sequences"] < look.documents:
            shown = describe_sequence(sequence, f"Sequence {counts['sequences']}", look.num_bytes)
            lines += shown.lines
            first.append(shown.data)
        counts["sequences"] += 1
        counts["tokens"] += len(sequence.tokens)
        counts["patches"] += len(sequence.patch_lengths)
    lines = [*table_lines(counts.items()), *lines]
    data = {**counts, "first": first}
    return _file_summary(
        path, "a training shard, made by `blt pack`", "training_shard", lines, data
    )


def _describe_parquet(path: Place, look: Look) -> Summary:
    try:
        with open_parquet(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file, or damaged ({error}).") from error
    columns = set(schema.names)
    data: dict[str, Any] = {"rows": num_rows, "columns": schema.names}
    lines = table_lines([("rows", num_rows), ("columns", schema.names)])
    if {"doc_id", "patch_lengths"} <= columns:
        metadata = read_boundaries_metadata(path)
        lines += ["Made with:", *table_lines(metadata.items())]
        shown, words = _boundary_documents(path, look)
        data.update(metadata=metadata, first=shown)
        what = "patch boundaries, made by `blt patch`"
        return _file_summary(path, what, "boundaries_shard", [*lines, *words], data)
    if {"doc_id", "bits_per_byte", "num_bytes"} <= columns:
        metadata = read_boundaries_metadata(path)
        lines += ["Made with:", *table_lines(metadata.items())]
        data["metadata"] = metadata
        return _file_summary(path, "scores, made by `blt score`", "scores_shard", lines, data)
    if {"reason", "detail", "sample"} <= columns:
        counts = count_rejects(path)
        lines += ["By reason:", *table_lines(counts.most_common())]
        lines += _first_rejects(path, look)
        data["rejects"] = dict(counts)
        return _file_summary(path, "rejects: records that were refused", "rejects", lines, data)
    lines.append("Encode it with:")
    field = "" if "text" in columns else " --text-field COLUMN"
    lines.append(f"  blt encode --input {shlex.quote(str(path))}{field} --output bytes")
    return _file_summary(path, "a raw corpus in Parquet", "corpus", lines, data)


def _boundary_documents(path: Place, look: Look) -> tuple[list[dict[str, Any]], list[str]]:
    found = matching_records(path, look.data)
    if found is None:
        return [], ["Its documents cannot be shown without their byte shards; give --data BYTES."]
    data, lines = [], [f"The first documents, patches between {BAR}:"]
    for record, row in found:
        if len(data) >= look.documents:
            break
        if record.part == 0:
            document = beginning(record, row, look.num_bytes)
            data.append(document_data(document))
            lines += document_lines(document)
    return data, lines


def _first_rejects(path: Place, look: Look) -> list[str]:
    with open_parquet(path) as file:
        batch = next(file.iter_batches(max(1, look.documents)), None)
    lines = ["The first:"] if batch is not None and batch.num_rows else []
    for row in batch.to_pylist() if batch is not None else []:
        place = f"{visible_text(row['source'])} at {row['position']}"
        lines.append(f"  {place}: {row['reason']} ({visible_text(row['detail'], 200)})")
        if row["sample"] is not None:
            lines.append(f"    {visible_bytes(row['sample'])}")
    return lines


def _describe_model(path: Place, look: Look) -> Summary:
    from blt.cli.quiet import import_keras

    class_name = _model_class(path)
    import_keras()
    from blt.model.entropy_model import EntropyModel
    from blt.model.serialization import fingerprint, load_model_file

    if class_name == "ByteLatentTransformer":
        from blt.model.blt import ByteLatentTransformer

        model = load_model_file(path, ByteLatentTransformer)
        what = "a Byte Latent Transformer, made by `blt train`"
    else:
        model = load_model_file(path, EntropyModel)
        what = "an entropy model, made by `blt train-entropy`"
    config = _plain_config(model.get_config())
    described = {
        "parameters": model.count_params(),
        "dtype policy": model.dtype_policy.name,
        "fingerprint": fingerprint(model),
    }
    lines = [*table_lines(described.items()), "Config:", *table_lines(flatten(config))]
    data = {"class": class_name, **described, "config": json.loads(json.dumps(config, default=str))}
    return _file_summary(path, what, "model", lines, data)


def _describe_ngram(path: Place, look: Look) -> Summary:
    from blt.ngram.model import fingerprint, load_ngram

    model = load_ngram(path)
    described = {"order": model.order, "fingerprint": fingerprint(model)}
    lines = [*table_lines(described.items()), "Made with:", *table_lines(flatten(model.config))]
    what = "an n-gram entropy model, made by `blt train-ngram`"
    return _file_summary(path, what, "ngram_model", lines, {**described, "config": model.config})


def _plain_config(value: Any) -> Any:
    """Reduces a Keras config to the arguments that somebody chose."""
    if not isinstance(value, dict):
        return value
    if "class_name" in value and "config" in value:
        value = value["config"]
    left_out = ("name", "trainable", "dtype")
    return {key: _plain_config(inner) for key, inner in value.items() if key not in left_out}


def _model_class(path: Place) -> str:
    """Returns the class that a model file names; nothing of it is run."""
    try:
        with (
            open_read(path) as file,
            zipfile.ZipFile(file) as archive,
            archive.open("config.json") as member,
        ):
            return str(json.loads(member.read(_MAX_CONFIG_BYTES))["class_name"])
    except (zipfile.BadZipFile, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = visible_text(error, 200)
        raise UserError(f"{path}: not a .keras model file, or damaged ({reason}).") from error


def _describe_yaml(path: Place, look: Look) -> Summary:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a YAML file ({visible_text(error, 200)}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: YAML, but not a mapping; {_EXPECTED}.")
    value = json.loads(json.dumps(value, default=str))
    if "targets" in value and "entropy_model" in value:
        lines = table_lines(flatten({**value, "targets": _numbered(value["targets"])}))
        lines.append(f"Use it with: blt patch --calibration {shlex.quote(str(path))}")
        what = "a calibrated threshold, made by `blt calibrate`"
        return _file_summary(path, what, "calibration", lines, {"calibration": value})
    if "input" in value or "encode" in value:
        lines = [*table_lines(flatten(value)), f"Run it with: blt run {shlex.quote(str(path))}"]
        return _file_summary(path, "the config of a run", "run_config", lines, {"config": value})
    raise UserError(f"{path}: YAML with keys that are not ours; {_EXPECTED}.")


def _numbered(values: Any) -> Any:
    return {str(n): value for n, value in enumerate(values)} if isinstance(values, list) else values


def _describe_history_file(path: Place, look: Look) -> Summary:
    records = read_history(path)
    if not records:
        return _file_summary(path, "the history of a training, empty", "history", [])
    shown = describe_history(records)
    return _file_summary(path, "the history of a training", "history", shown.lines, shown.data)


def _describe_json(path: Place, look: Look) -> Summary:
    value = read_json(path)
    known = {"bits_per_byte": "a summary of scores", "identity": "the note beside a finished file"}
    for key, what in known.items():
        if isinstance(value, dict) and key in value:
            lines = table_lines(flatten(value))
            return _file_summary(path, what, "json", lines, {"content": value})
    raise UserError(f"{path}: JSON that blt did not make; {_EXPECTED} (JSON Lines as .jsonl).")


def _describe_corpus(path: Place, look: Look) -> Summary:
    try:
        detected = detect(str(path))
        head = b""
        for block in read_blocks(str(path), detected.compression):
            head += block
            if len(head) >= max(look.num_bytes, 4096):
                break
    except (DamagedInputError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({visible_text(error, 200)}).") from error
    control = sum(byte < 9 or 13 < byte < 32 for byte in head[:4096])
    if _REPORT_MARK in head:
        return _file_summary(
            path, "a report, made by `blt report`; open it in a browser", "report", []
        )
    said_to_be_text = strip_compression_suffix(path.name)[0].endswith(_TEXT_SUFFIXES)
    is_binary = control > _BINARY_SHARE * len(head[:4096]) and not said_to_be_text
    if detected.format == "text" and is_binary:
        raise UserError(f"{path}: binary data of an unknown kind; {_EXPECTED}.")
    packed = "" if detected.compression == "plain" else f", compressed with {detected.compression}"
    formats = {"text": "text", "jsonl": "JSON Lines", "parquet": "Parquet"}
    lines = [
        *([visible_text(detected.note)] if detected.note else []),
        "It begins:",
        *(f"    {visible_text(line)}" for line in _text_lines(head[: look.num_bytes])),
        "Encode it with:",
        f"  blt encode --input {shlex.quote(str(path))} --output bytes",
    ]
    what = f"a raw corpus: {formats.get(detected.format, detected.format)}{packed}"
    data = {"format": detected.format, "compression": detected.compression}
    return _file_summary(path, what, "corpus", lines, data)


def _text_lines(head: bytes) -> list[str]:
    return [visible_bytes(line) for line in head.splitlines()]


def _file_summary(
    path: Place, what: str, kind: str, lines: list[str], data: dict[str, Any] | None = None
) -> Summary:
    size = stat(path).size
    head = f"{visible_text(path)}: {what}; {format_bytes(size)}."
    facts = {"what": kind, "path": str(path), "size": size, "sha256": sha256_file(path)}
    return Summary({**facts, **(data or {})}, [head, f"  sha256  {facts['sha256']}", *lines])
