"""Every file of the shared hostile set, against the facts in its manifest."""

import json
import subprocess
import sys

import pytest

from blt.corpus.planning.sources import read_sources
from tests.blt.corpus.helpers import encode
from tests.shared import SHARED, needs_shared

HOSTILE = SHARED / "corpora" / "hostile"
MANIFEST = HOSTILE / "MANIFEST.json"
FACTS = json.loads(MANIFEST.read_text("utf-8")) if MANIFEST.exists() else {}
WIKITEXT = SHARED / "corpora" / "wikitext2"
GIVEN_UP = {"damaged_input", "unread_format", "missing_column", "column_type"}
# Read decompressed, with a note, which the set's README allows.
READ_ALL_THE_SAME = {"gz/gzip_without_suffix.jsonl": 4, "gz/plain_text.jsonl.gz": 4}


@pytest.mark.parametrize("name", sorted(FACTS))
def test_each_file_gives_what_its_manifest_says(name, tmp_path):
    facts = FACTS[name]
    result = encode(tmp_path, HOSTILE / name)
    reasons = {reject["reason"] for reject in result.rejects}
    assert {reject["source"] for reject in result.rejects} <= {name.split("/")[1]}
    if name in READ_ALL_THE_SAME:
        assert len(result.documents) == READ_ALL_THE_SAME[name]
    elif name.startswith("text/"):
        (document,) = result.documents
        assert document[1] == (HOSTILE / name).read_bytes()
    elif facts.get("error"):
        assert reasons & GIVEN_UP
        (row,) = read_sources(tmp_path / "_units" / "00000.sources.parquet")
        assert row.given_up
        assert len(result.documents) >= facts.get("good", 0)
    else:
        good, either = facts.get("good", 0), facts.get("either", 0)
        assert good <= len(result.documents) <= good + either
        assert reasons & GIVEN_UP or len(result.rejects) >= facts.get("bad", 0)


@pytest.mark.parametrize("name", sorted(name for name in FACTS if "lines" in FACTS[name]))
def test_lines_are_those_that_lf_ends(name, tmp_path):
    result = encode(tmp_path, HOSTILE / name, doc_per="line")
    data = (HOSTILE / name).read_bytes()
    assert len(result.documents) == FACTS[name]["lines"]
    newline = b"\n" if data.endswith(b"\n") else b""
    assert b"\n".join(raw for _, raw, _, _ in result.documents) + newline == data


@needs_shared
def test_the_whole_set_at_once_loses_nothing(tmp_path):
    alone = [encode(tmp_path / name.replace("/", "_"), HOSTILE / name) for name in FACTS]
    together = encode(tmp_path / "all", *(HOSTILE / name for name in FACTS))
    assert together.counts == {
        key: sum(result.counts[key] for result in alone) for key in together.counts
    }


@needs_shared
def test_known_contents_come_out_as_bytes(tmp_path):
    def text_of(name):
        result = encode(tmp_path / name.replace("/", "_"), HOSTILE / name)
        return {doc_id: raw for doc_id, raw, _, _ in result.documents}

    assert text_of("jsonl/lone_surrogates.jsonl") == {
        "s4": b"a pair \xf0\x9f\x98\x80",
        "s6": b"raw \xed\xa0\x80 bytes",
    }
    assert text_of("jsonl/invalid_utf8.jsonl") == {
        "i1": b"bad \xff\xfe bytes",
        "i2": b"latin-1 caf\xe9",
        "i3": b"good caf\xc3\xa9",
    }
    assert text_of("jsonl/duplicate_keys.jsonl") == {"k": b"second", "k2": b"two ids"}
    assert list(text_of("jsonl/numbers.jsonl")) == [
        "Infinity",
        "123456789012345678901234567890",
        "NaN",
        "-0.0",
        "true",
    ]
    assert text_of("parquet/binary_text.parquet")["p1"] == b"\xff\x00\x80"
    assert list(text_of("parquet/null_id.parquet")) == [
        "p0",
        "null_id.parquet#1",
        "null_id.parquet#2",
        "p3",
    ]
    assert list(text_of("parquet/int_ids.parquet")) == ["1", "2", "3", "4"]


@needs_shared
def test_names_that_are_trouble_lead_to_one_document_each(tmp_path):
    script = [sys.executable, str(HOSTILE / "make.py"), "--names", str(tmp_path / "made")]
    subprocess.run(script, check=True, capture_output=True)
    names = tmp_path / "made" / "names"
    facts = json.loads((tmp_path / "made" / "MANIFEST.json").read_text("utf-8"))
    files = [tmp_path / "made" / name for name, fact in facts.items() if fact.get("good")]
    for index, path in enumerate(files):
        result = encode(tmp_path / f"one{index}", path)
        assert [source for _, _, source, _ in result.documents] == [path.name]
    whole = encode(tmp_path / "folder", names)
    assert len(whole.documents) == len(files) - 2  # without .hidden.jsonl and tilde~
    assert "deep/a/b/c/d/e/f/g/h/inner.jsonl" in [source for _, _, source, _ in whole.documents]
    parts = encode(tmp_path / "glob", names / "part-*-of-00002.jsonl")
    assert [doc_id for doc_id, _, _, _ in parts.documents] == ["name-11", "name-12"]


@needs_shared
def test_one_corpus_in_three_containers_gives_the_same_documents(tmp_path):
    results = [
        encode(tmp_path / suffix, WIKITEXT / f"valid{suffix}")
        for suffix in (".jsonl", ".jsonl.zst", ".parquet")
    ]
    first, *others = [[(i, raw) for i, raw, _, _ in result.documents] for result in results]
    lines = (WIKITEXT / "valid.jsonl").read_text("utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    assert first == [(row["id"], row["text"].encode()) for row in rows]
    assert others == [first, first]
