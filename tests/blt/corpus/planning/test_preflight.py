import gzip
import importlib.util

import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.corpus import EncodeConfig, build_plan, check_inputs, discover_inputs
from blt.errors import UserError


def check(*paths, **options):
    config = EncodeConfig(**options)
    check_inputs(build_plan(discover_inputs([str(p) for p in paths]).files, config), config)


def test_a_misspelt_column_is_named_with_the_nearest(tmp_path):
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    message = (
        r"--text-field bodi: no such column in .*a\.parquet; it has: id, body\. Did you mean 'body'"
    )
    with pytest.raises(UserError, match=message):
        check(tmp_path / "a.parquet", text_field="bodi")
    check(tmp_path / "a.parquet", text_field="body")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_misspelt_field_is_named_with_the_nearest(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    data = b'\xef\xbb\xbf\n\n{"id": 1, "content": "%s"}\n' % (b"x" * 3_000_000)
    path.write_bytes(gzip.compress(data) if suffix else data)
    message = (
        r"--text-field contents: no such field in .*it has: id, content\. Did you mean 'content'"
    )
    with pytest.raises(UserError, match=message):
        check(path, text_field="contents")
    check(path, text_field="content")


def test_one_file_with_the_field_is_enough(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "x"}\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x"}\n')
    check(tmp_path)
    with pytest.raises(UserError, match=r"a\.jsonl \(nor in 1 other inputs\)"):
        check(tmp_path, text_field="missing")


@pytest.mark.parametrize("data", [b"", b"\n\n", b"broken\n", b"[1]\n", b"[" * 100_000])
def test_files_that_cannot_be_judged_are_left_to_encode(tmp_path, data):
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(b"damaged")
    (tmp_path / "c.parquet").write_bytes(b"damaged")
    check(tmp_path, text_field="anything")


def test_the_start_of_a_split_file_is_judged(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "x"}\n' * 100)
    with pytest.raises(UserError, match="it has: body"):
        check(tmp_path, target_shard_bytes=100)
    check(tmp_path, target_shard_bytes=100, text_field="body")


@pytest.mark.parametrize("name", ["x.jsonl.lz4", "unnamed"])
def test_lz4_without_its_package_is_refused_with_what_to_install(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(lz4.frame.compress(b'{"text": "a"}'))
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"pip install 'blt\[lz4\]'"):
        check_inputs(build_plan(discover_inputs([tmp_path]).files, EncodeConfig()), EncodeConfig())


def test_one_object_with_the_field_near_the_start_is_enough(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"header": 1}\nbroken\n[]\n{"id": 1}\n{"text": "x"}\n')
    check(path)
    with pytest.raises(UserError, match="it has: header"):
        check(path, text_field="body")


def test_a_column_that_comes_twice_is_no_missing_one(tmp_path):
    column = pa.array(["x"])
    table = pa.Table.from_arrays([column, column], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(b"text,text\na,b\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(UserError, match=r"more than one such column in .*; it has: text, text"):
            check(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"id;text\n1;a\n", "seem to be delimited by semicolons"),
        ("id,text\n1,a\n".encode("utf-16"), "seems to be UTF-16"),
    ],
)
def test_what_may_be_wrong_with_a_header_is_said(tmp_path, data, hint):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UserError, match=hint):
        check(tmp_path / "a.csv")
