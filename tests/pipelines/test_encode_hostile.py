"""The shared hostile set through `blt encode`: all in one run, then each file against its facts."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from blt.dataset.manifest import read_manifest
from blt.formats.byte_shard import read_byte_shard
from blt.tokenizer import tokens_to_bytes
from tests.blt.corpus.test_hostile import FACTS, GIVEN_UP, HOSTILE, READ_ALL_THE_SAME
from tests.pipelines.test_encode import run
from tests.shared import needs_shared


class Encoded:
    """A finished dataset, by source."""

    def __init__(self, folder):
        self.totals = read_manifest(folder).totals
        self.rows = {r["source"]: r for r in pq.read_table(folder / "_sources.parquet").to_pylist()}
        self.reasons = {source: [] for source in self.rows}
        for reject in pq.read_table(folder / "_rejects.parquet").to_pylist():
            self.reasons[reject["source"]].append(reject["reason"])
        self.raws = {source: [] for source in self.rows}
        for shard in read_manifest(folder).shards:
            for record in read_byte_shard(folder / shard.name):
                raw = tokens_to_bytes(record.tokens)
                if record.part:
                    self.raws[record.source][-1] += raw
                else:
                    self.raws[record.source].append(raw)


def encode(output, *argv):
    flags = ("--max-lost-fraction", "1", "--on-unusable-table", "reject")
    assert run("--output", output, *flags, *argv) == 0
    return Encoded(output)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The set with a document per file of text."""
    folder = tmp_path_factory.mktemp("hostile")
    return encode(folder / "bytes", "--input", HOSTILE, "--max-document-bytes", "1000")


@pytest.mark.parametrize("name", sorted(FACTS))
def test_each_file_gives_what_its_manifest_says(name, whole):
    facts, row = FACTS[name], whole.rows[name]
    assert (row["stored_bytes"], row["sha256"]) == (facts["bytes"], facts["sha256"])
    assert row["records"] == row["documents"] + row["filtered"] + row["rejects"]
    assert (row["documents"], row["rejects"]) == (len(whole.raws[name]), len(whole.reasons[name]))
    assert row["bytes"] == sum(map(len, whole.raws[name]))
    good, either, bad = (facts.get(key, 0) for key in ("good", "either", "bad"))
    if name in READ_ALL_THE_SAME:
        assert row["documents"] == READ_ALL_THE_SAME[name]
    elif name.startswith("text/"):
        assert whole.raws[name] == [(HOSTILE / name).read_bytes()]
    elif facts.get("error"):
        assert row["given_up"] or row["damaged"]
        assert set(whole.reasons[name]) & GIVEN_UP
        assert row["documents"] >= good
    else:
        assert good <= row["documents"] <= good + either
        assert row["given_up"] or row["rejects"] >= bad


@needs_shared
def test_the_totals_are_those_of_the_files(whole):
    for name in ("records", "documents", "bytes", "filtered", "rejects"):
        assert whole.totals[name] == sum(row[name] for row in whole.rows.values())
    assert whole.totals["damaged_files"] == sum(row["damaged"] for row in whole.rows.values())
    assert set(FACTS) <= set(whole.rows)


@needs_shared
def test_lines_are_those_that_lf_ends(tmp_path):
    names = [name for name in FACTS if "lines" in FACTS[name]]
    found = encode(
        tmp_path / "bytes", "--input", *(HOSTILE / n for n in names), "--doc-per", "line"
    )
    for name in names:
        data = (HOSTILE / name).read_bytes()
        source = name.split("/")[1]
        assert found.rows[source]["documents"] == FACTS[name]["lines"]
        newline = b"\n" if data.endswith(b"\n") else b""
        assert b"\n".join(found.raws[source]) + newline == data


@needs_shared
def test_strictly_everything_that_is_left_is_utf8_and_unique(tmp_path):
    flags = ("--utf8", "reject", "--on-duplicate-id", "reject", "--drop-duplicates")
    flags += ("--min-bytes", "1", "--strip-bom", "--newlines", "lf", "--on-damaged-file", "drop")
    found = encode(tmp_path / "bytes", "--input", HOSTILE, *flags)
    raws = [raw for raws in found.raws.values() for raw in raws]
    assert len(raws) == len(set(raws)) == found.totals["documents"] > 200
    for raw in raws:
        raw.decode("utf-8")
        assert raw
    # One CR goes from before each LF, and no more: this file has CR CR LF too.
    assert found.raws["text/mixed_line_ends.txt"] == [b"a\nb\nc\rd\n\re\r\nf"]
    assert not any(row["documents"] for row in found.rows.values() if row["damaged"])


@needs_shared
def test_lines_of_5_mb_are_one_document_each(tmp_path):
    big = tmp_path / "big"
    make = [sys.executable, str(HOSTILE / "make.py")]
    subprocess.run([*make, "--big", str(big)], check=True, capture_output=True)
    flags = ("--doc-per", "line", "--target-shard-bytes", "1MB")
    found = encode(tmp_path / "bytes", "--input", big, *flags)
    (blob,) = found.raws["single_line_5mb.txt"]
    assert len(blob) == 5_000_000
    assert blob == (big / "single_line_5mb.txt").read_bytes()
    assert found.raws["single_line_5mb_nl.txt"] == found.raws["single_line_5mb.jsonl"] == [blob]


@needs_shared
def test_names_that_are_trouble_give_one_document_each(tmp_path):
    make = [sys.executable, str(HOSTILE / "make.py")]
    subprocess.run([*make, "--names", str(tmp_path / "made")], check=True, capture_output=True)
    facts = json.loads((tmp_path / "made" / "MANIFEST.json").read_text("utf-8"))
    paths = [tmp_path / "made" / name for name, fact in facts.items() if fact.get("good")]
    found = encode(tmp_path / "named", "--input", *paths)
    assert [row["documents"] for row in found.rows.values()] == [1] * len(paths)
    walked = encode(tmp_path / "walked", "--input", tmp_path / "made" / "names")
    assert (
        sum(row["documents"] for row in walked.rows.values()) == len(paths) - 2
    )  # .hidden.jsonl, tilde~
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "named", "walked"]
