"""Reads a quickstart's outputs with plain pyarrow and plain tf.data, and checks that they agree.

Nothing of this project is imported: what users of other tools see must be right.

    python .ci/read_back.py FOLDER
"""

import hashlib
import html.parser
import json
import math
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pyarrow.parquet as pq
import tensorflow as tf

INT64 = tf.io.RaggedFeature(tf.int64)
TEXT = tf.io.FixedLenFeature([], tf.string)
NUMBER = tf.io.FixedLenFeature([], tf.int64)


def read_manifest(folder: Path, kind: str) -> dict:
    manifest = json.loads((folder / "_manifest.json").read_text())
    assert manifest["kind"] == kind, manifest["kind"]
    for shard in manifest["shards"]:
        found = hashlib.sha256((folder / shard["name"]).read_bytes()).hexdigest()
        assert found == shard["sha256"], shard["name"]
    return manifest


def read_documents(folder: Path) -> dict[str, list[tuple[str, list[int]]]]:
    """Returns shard name -> (doc_id, tokens) of every record."""
    features = {"doc_id": TEXT, "tokens": INT64, "part": NUMBER, "num_parts": NUMBER}
    documents = {}
    for shard in read_manifest(folder, "byte_shards")["shards"]:
        records = tf.data.TFRecordDataset(str(folder / shard["name"])).map(
            lambda record: tf.io.parse_single_example(record, features)
        )
        documents[shard["name"]] = [
            (r["doc_id"].decode(), r["tokens"].tolist()) for r in records.as_numpy_iterator()
        ]
    return documents


def check_bytes(folder: Path) -> dict[str, list[tuple[str, list[int]]]]:
    documents = read_documents(folder)
    totals = json.loads((folder / "_manifest.json").read_text())["totals"]
    rows = [row for shard in documents.values() for row in shard]
    assert totals["documents"] == len(rows) > 1000, (totals, len(rows))
    assert all(tokens[0] == 1 and tokens[-1] == 2 for _, tokens in rows)
    assert sum(len(tokens) - 2 for _, tokens in rows) == totals["bytes"]
    assert pq.read_table(folder / "_rejects.parquet").num_rows == totals["rejects"] == 0
    return documents


def check_patches(folder: Path, documents: dict[str, list[tuple[str, list[int]]]]) -> None:
    manifest = read_manifest(folder, "boundaries")
    lengths = []
    for shard in manifest["shards"]:
        table = pq.read_table(folder / shard["name"])
        name = shard["name"].replace("patches-", "bytes-").replace(".parquet", ".tfrecord")
        assert table.num_rows == len(documents[name])
        for row, (doc_id, tokens) in zip(table.to_pylist(), documents[name], strict=True):
            assert row["doc_id"] == doc_id
            assert row["num_tokens"] == len(tokens) == sum(row["patch_lengths"])
            assert min(row["patch_lengths"]) >= 1
            lengths += row["patch_lengths"]
    assert 2 < sum(lengths) / len(lengths) < 10, "mean patch length"


def check_training_shards(folder: Path, num_tokens: int) -> None:
    features = {"tokens": INT64, "patch_lengths": INT64, "segment_ids": INT64}
    seen = 0
    for shard in read_manifest(folder, "training_shards")["shards"]:
        for record in tf.data.TFRecordDataset(str(folder / shard["name"])):
            row = tf.io.parse_single_example(record, features)
            assert len(row["tokens"]) == len(row["segment_ids"]) <= 512
            assert len(row["patch_lengths"]) <= 160
            assert int(tf.reduce_sum(row["patch_lengths"])) == len(row["tokens"])
            seen += len(row["tokens"])
    assert seen == num_tokens, f"{seen} tokens in training shards, {num_tokens} in byte shards"


def check_scores(folder: Path, sizes: dict[str, int]) -> None:
    bits, num_bytes = [], 0
    for shard in read_manifest(folder, "scores")["shards"]:
        for row in pq.read_table(folder / shard["name"]).to_pylist():
            assert row["num_bytes"] == row["scored_bytes"] == sizes[row["doc_id"]]
            assert math.isclose(
                row["bits_per_byte"], row["nats"] / math.log(2) / row["num_bytes"], rel_tol=1e-9
            )
            assert 0 < row["bits_per_byte"] < 12
            bits.append(row["nats"] / math.log(2))
            num_bytes += row["num_bytes"]
    summary = json.loads((folder / "_summary.json").read_text())
    assert math.isclose(summary["bits_per_byte"], math.fsum(bits) / num_bytes, rel_tol=1e-9)
    assert 0.03 * len(sizes) < len(bits) < 0.2 * len(sizes), "one document in ten is held out"


class _Fetches(html.parser.HTMLParser):
    """Collects what a page fetches; the documents that it quotes may speak of addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        if tag in ("script", "link", "iframe", "object"):
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            is_address = name in ("src", "href", "xlink:href") and not (value or "").startswith("#")
            if is_address or (name == "style" and "url(" in (value or "")):
                self.found.append(f"<{tag} {name}={value!r:.80}>")

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style and re.search(r"url\(|@import", data):
            self.found.append("<style> with an address")


def check_fetches_nothing(page: str) -> None:
    parser = _Fetches()
    parser.feed(page)
    assert not parser.found, parser.found


def main(root: Path) -> None:
    documents = check_bytes(root / "bytes")
    rows = [row for shard in documents.values() for row in shard]
    sizes = {doc_id: len(tokens) - 2 for doc_id, tokens in rows}
    check_patches(root / "patches", documents)
    check_training_shards(root / "train", sum(len(tokens) for _, tokens in rows))
    check_scores(root / "scores-blt", sizes)
    check_scores(root / "scores-entropy", sizes)
    page = (root / "report.html").read_text()
    assert "<svg" in page
    check_fetches_nothing(page)
    print(f"read back: {len(rows)} documents agree in every artefact of {root}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
