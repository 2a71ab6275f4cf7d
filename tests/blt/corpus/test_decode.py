import base64
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.corpus import decode_dataset
from blt.errors import UserError
from tests.blt.corpus.helpers import make_dataset
from tests.shared import SHARED, needs_shared


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize("doc_per", ["file", "line"])
@settings(max_examples=25, deadline=None)
@given(
    files=st.lists(
        st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xff"])).map(b"".join), max_size=4
    )
)
def test_text_files_come_back_byte_for_byte(doc_per, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    files = {f"d{i % 2}/f{i}.txt": data for i, data in enumerate([b"first", *files])}
    data = make_dataset(folder / "data", write(folder / "in", files), doc_per=doc_per)
    decode_dataset(data, folder / "out")
    # Without a line there is no document, so an empty file of lines leaves nothing.
    expected = {k: v for k, v in files.items() if v or doc_per == "file"}
    assert contents(folder / "out") == expected


def test_split_files_and_parts_come_back_whole(tmp_path):
    lines = b"".join(b"line %d\n" % i for i in range(500)) + b"no end"
    write(tmp_path / "in", {"a.txt": lines, "b.txt": b"b"})
    for number, options in enumerate(
        [
            {"doc_per": "line", "target_shard_bytes": 700},
            {"max_document_bytes": 64, "target_shard_bytes": 700},
        ]
    ):
        data = make_dataset(tmp_path / f"data{number}", tmp_path / "in", **options)
        out = tmp_path / f"out{number}"
        counts = decode_dataset(data, out)
        assert contents(out) == {"a.txt": lines, "b.txt": b"b"}
        assert counts["files"] == 2
        assert counts["documents"] == (502 if number == 0 else 2)


def test_records_become_json_lines_with_ids(tmp_path):
    write(tmp_path / "in", {"a.jsonl": b'{"id": "../x", "text": "\xc3\xbc\\n"}\n{"text": ""}\n'})
    table = {"id": ["p0", "p1"], "text": [b"\xff", b"ok"]}
    pq.write_table(pa.table(table), tmp_path / "in" / "b.parquet")
    data = make_dataset(tmp_path / "data", tmp_path / "in")
    assert decode_dataset(data, tmp_path / "out") == {"documents": 4, "bytes": 6, "files": 2}
    lines = {
        name: [json.loads(line) for line in data.splitlines()]
        for name, data in contents(tmp_path / "out").items()
    }
    assert lines == {
        "a.jsonl": [{"id": "../x", "text": "ü\n"}, {"id": "a.jsonl#31", "text": ""}],
        "b.parquet.jsonl": [
            {"id": "p0", "bytes_base64": base64.b64encode(b"\xff").decode()},
            {"id": "p1", "text": "ok"},
        ],
    }


def test_kept_fields_come_back_with_the_records_of_every_format(tmp_path):
    kept = {"lang": "d\u00e9", "score": 1.5, "tags": ["a", {"b": None}]}
    rows = [{"id": "1", "text": "one", **kept}, {"id": "2", "text": "two"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write(tmp_path / "in", {"a.jsonl": lines, "lang=fr/t.txt": b"text\n"})
    pq.write_table(pa.table({"text": ["three"], "lang": ["en"]}), tmp_path / "in" / "b.parquet")
    options = {"keep_fields": ("lang", "score", "tags"), "max_document_bytes": 2}
    data = make_dataset(tmp_path / "data", tmp_path / "in", **options)
    decode_dataset(data, tmp_path / "out")
    assert [json.loads(line) for line in (tmp_path / "out/a.jsonl").read_text().splitlines()] == [
        {"id": "1", "text": "one", "meta": kept},
        {"id": "2", "text": "two"},
    ]
    (row,) = (tmp_path / "out/b.parquet.jsonl").read_text().splitlines()
    assert json.loads(row) == {"id": "b.parquet#0", "text": "three", "meta": {"lang": "en"}}
    # A text file is what it was.
    assert (tmp_path / "out/lang=fr/t.txt").read_bytes() == b"text\n"


def test_sources_that_would_share_a_file_do_not(tmp_path):
    row = b'{"text": "%d"}\n'
    files = {"a.jsonl": row % 1, "a.jsonl.gz": gzip.compress(row % 2), "a": row % 3}
    files |= {"t.txt": b"4", "t.txt.gz": gzip.compress(b"5"), "t.txt.gz.gz": gzip.compress(b"6")}
    data = make_dataset(tmp_path / "data", write(tmp_path / "in", files))
    decode_dataset(data, tmp_path / "out")
    texts = {
        name: json.loads(data)["text"] if name.endswith("jsonl") else data.decode()
        for name, data in contents(tmp_path / "out").items()
    }
    assert sorted(texts.values()) == ["1", "2", "3", "4", "5", "6"]
    assert texts["t.txt"] == "4"
    # Was: plain text that was called t.txt.gz.
    assert not [name for name in texts if name.endswith(".gz")]


def test_nothing_is_written_outside_the_output(tmp_path, monkeypatch):
    write(tmp_path / "x", {"a.txt": b"1", "w/a.txt": b"2"})
    (tmp_path / "x" / "w").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "x" / "w")
    data = make_dataset(tmp_path / "data", "../a.txt", tmp_path / "x" / "w" / "a.txt")
    before = set(contents(tmp_path))
    decode_dataset(data, tmp_path / "out")
    made = set(contents(tmp_path)) - before
    absolute = (tmp_path / "x" / "w" / "a.txt").as_posix()
    assert made == {"out/__/a.txt", "out" + absolute}


def test_a_file_where_a_folder_must_be_gets_another_name(tmp_path):
    write(tmp_path / "in", {"x": b"a file", "d/x/y.txt": b"below"})
    data = make_dataset(tmp_path / "data", tmp_path / "in" / "x", tmp_path / "in" / "d")
    decode_dataset(data, tmp_path / "out")
    assert sorted(contents(tmp_path / "out").values()) == [b"a file", b"below"]


def test_an_output_that_holds_something_is_refused(tmp_path):
    data = make_dataset(tmp_path / "data", write(tmp_path / "in", {"a.txt": b"x"}))
    with pytest.raises(UserError, match=r"--output .*in: is not empty"):
        decode_dataset(data, tmp_path / "in")
    with pytest.raises(UserError, match="so it is no dataset"):
        decode_dataset(tmp_path / "in", tmp_path / "out")


@needs_shared
def test_wikitext_comes_back_byte_for_byte(tmp_path):
    path = SHARED / "corpora" / "wikitext2" / "valid.jsonl"
    data = make_dataset(tmp_path / "data", path)
    decode_dataset(data, tmp_path / "out")
    wanted = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    got = [
        json.loads(line) for line in (tmp_path / "out/valid.jsonl").read_bytes().split(b"\n")[:-1]
    ]
    assert got == [{"id": row["id"], "text": row["text"]} for row in wanted]
