"""Ids and kept fields have one plain value, whatever format they come from."""

import datetime
import decimal
import json
import uuid

import orjson
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from blt.corpus import EncodeConfig
from blt.corpus.plain import id_text, strict_json
from blt.errors import UserError
from tests.blt.corpus.helpers import encode

UUID = uuid.UUID(int=1)
MORNING = datetime.datetime(2024, 1, 2, 3, 4, 5)


def ids(result):
    assert not result.rejects
    return [doc_id for doc_id, _, _, _ in result.documents]


def metas(result):
    return [orjson.loads(meta) for _, _, _, meta in result.documents]


def encode_table(tmp_path, name, columns, **options):
    table = pa.table({"text": ["a"], **columns})
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    else:
        feather.write_feather(table, path, compression="uncompressed")
    return encode(tmp_path / f"out-{name}", path, **options)


@pytest.mark.parametrize(
    ("literal", "column", "wanted"),
    [
        ("7", pa.array([7]), "7"),
        ("7", pa.array([7.0]), "7"),
        ("7.0", pa.array([7.0]), "7"),
        ("1e16", pa.array([1e16]), "10000000000000000"),
        ("0.5", pa.array([0.5]), "0.5"),
        ("18446744073709551615", pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        ("12345", pa.array([decimal.Decimal(12345)], pa.decimal128(38, 0)), "12345"),
        ("1.50", pa.array([decimal.Decimal("1.50")], pa.decimal128(9, 2)), "1.50"),
        ("0.00000001", pa.array([decimal.Decimal("1E-8")], pa.decimal128(9, 8)), "0.00000001"),
        ('"2024-01-02"', pa.array([datetime.date(2024, 1, 2)]), "2024-01-02"),
        ('"2024-01-02 03:04:05"', pa.array([MORNING], pa.timestamp("s")), "2024-01-02 03:04:05"),
        ('"2024-01-02 03:04:05"', pa.array([MORNING], pa.timestamp("ms")), "2024-01-02 03:04:05"),
        ('"2024-01-02 03:04:05"', pa.array([MORNING], pa.timestamp("ns")), "2024-01-02 03:04:05"),
        ("true", pa.array([True]), "true"),
        ('"x"', pa.array(["x"]).dictionary_encode(), "x"),
        ('"x"', pa.array([b"x"]), "x"),
        (f'"{UUID}"', pa.array([UUID.bytes], pa.uuid()), str(UUID)),
    ],
)
def test_an_id_is_the_same_from_every_format(tmp_path, literal, column, wanted):
    (tmp_path / "x.jsonl").write_text(f'{{"text": "a", "id": {literal}}}\n')
    (tmp_path / "x.csv").write_text(f"text,id\na,{wanted}\n")
    assert ids(encode(tmp_path / "j", tmp_path / "x.jsonl")) == [wanted]
    assert ids(encode(tmp_path / "c", tmp_path / "x.csv")) == [wanted]
    assert ids(encode_table(tmp_path, "x.parquet", {"id": column})) == [wanted]
    assert ids(encode_table(tmp_path, "x.arrow", {"id": column})) == [wanted]


def test_meta_is_strict_json_whatever_the_value(tmp_path):
    long = "3" + "1" * 4999
    lines = [
        '{"text": "a", "x": NaN}',
        '{"text": "b", "x": [1e999, {"y": -Infinity}]}',
        f'{{"text": "c", "x": {long}}}',
        f'{{"text": "d", "x": 1, "unasked": -{long}}}',
        r'{"text": "e", "x": "a\udc00", "unasked": "\ud800"}',
        r'{"text": "f", "x": {"\ud800": 1, "\ud801": 2}}',
        f'{{"text": "g", "x": 0.{long}}}',
        '{"text": "h", "x": 1.0}',
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    result = encode(tmp_path / "out", tmp_path / "x.jsonl", keep_fields=("x",))
    assert not result.rejects
    assert [meta["x"] for meta in metas(result)] == [
        None,
        [None, {"y": None}],
        long,
        1,
        "a\ufffd",
        {r"\ud800": 1, r"\ud801": 2},
        float(f"0.{long}"),
        1.0,
    ]
    counts = {key: value for key, value in result.counts.items() if key.startswith("changed_")}
    assert counts == {
        "changed_nonfinite": 2,
        "changed_long_integer": 1,
        "changed_not_unicode": 2,
        "changed_id": 0,
    }


def test_meta_of_tables_is_strict_json(tmp_path):
    column = pa.array([[float("nan"), 1.0]])
    result = encode_table(tmp_path, "x.parquet", {"x": column}, keep_fields=("x",))
    assert metas(result) == [{"x": [None, 1.0]}]
    assert result.counts["changed_nonfinite"] == 1
    result = encode_table(tmp_path, "y.parquet", {"x": pa.array([b"\xff"])}, keep_fields=("x",))
    assert metas(result) == [{"x": "\\xff"}]
    assert result.counts["changed_not_unicode"] == 1


def test_a_kept_field_that_is_not_utf8_reads_the_same_from_json_and_csv(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a", "x": "caf\xe9"}\n')
    (tmp_path / "x.csv").write_bytes(b"text,x\na,caf\xe9\n")
    for name in ("x.jsonl", "x.csv"):
        result = encode(tmp_path / f"out-{name}", tmp_path / name, keep_fields=("x",))
        assert metas(result) == [{"x": "caf\\xe9"}]
        assert result.counts["changed_not_unicode"] == 1


def test_a_pair_of_escapes_in_a_line_that_is_not_utf8_is_no_lone_surrogate(tmp_path):
    data = b'{"text": "\xff \\ud83d\\ude00"}\n{"text": "\xff", "x": "\\udc80"}\n'
    (tmp_path / "x.jsonl").write_bytes(data + b'{"text": "\xff \\udc80"}\n{"text": "last"}\n')
    result = encode(tmp_path / "out", tmp_path / "x.jsonl")
    texts = [raw for _, raw, _, _ in result.documents]
    assert texts[0] == b"\xff \xf0\x9f\x98\x80"
    assert texts[-1] == b"last"
    assert {reject["reason"] for reject in result.rejects} == {"lone_surrogate"}


@pytest.mark.parametrize("utf8", ["keep", "replace", "reject"])
def test_a_surrogate_in_a_kept_field_never_loses_a_document(tmp_path, utf8):
    (tmp_path / "x.jsonl").write_text('{"id": "4", "text": "ok", "lang": "\\udc00"}\n')
    result = encode(tmp_path / "out", tmp_path / "x.jsonl", keep_fields=("lang",), utf8=utf8)
    assert metas(result) == [{"lang": "\ufffd"}]
    assert result.counts["changed_not_unicode"] == 1


def test_an_id_that_is_not_unicode_is_mended_where_text_is(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": "5\\ud800", "text": "ok"}\n')
    (tmp_path / "x.csv").write_bytes(b"id,text\n5\xff,ok\n")
    for name in ("x.jsonl", "x.csv"):
        kept = encode(tmp_path / f"keep-{name}", tmp_path / name)
        assert [reject["reason"] for reject in kept.rejects] == ["invalid_id"]
        changed = encode(tmp_path / f"replace-{name}", tmp_path / name, utf8="replace")
        assert ids(changed) == ["5\ufffd"]
        assert changed.counts["changed_id"] == 1


def test_kept_fields_may_have_names_of_ours(tmp_path):
    names = ("source", "doc_id", "meta", "part", "tokens", "after", "no_final_newline", "a,b", "")
    row = {"text": "a", **{name: f"<{name}>" for name in names}}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    result = encode(
        tmp_path / "out", tmp_path / "x.jsonl", keep_fields=names, newlines="lf", strip_bom=True
    )
    assert metas(result) == [{name: f"<{name}>" for name in names}]
    assert [source for _, _, source, _ in result.documents] == ["x.jsonl"]


def test_names_that_are_not_unicode_are_refused():
    for option in ({"keep_fields": ("caf\udce9",)}, {"id_field": "\udce9"}):
        with pytest.raises(UserError, match="is not UTF-8"):
            EncodeConfig(**option)


def test_values_in_words():
    assert id_text([1, None, "x"]) == '[1, null, "x"]'
    assert id_text(float("inf")) == "Infinity"
    assert strict_json({"t": datetime.timedelta(seconds=1)}) == ('{"t": "0:00:01"}', ())
