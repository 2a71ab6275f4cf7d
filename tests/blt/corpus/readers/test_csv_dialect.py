"""Dialects of CSV and TSV: what other programs write is read as they meant it."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.corpus import EncodeConfig
from blt.errors import UserError
from tests.blt.corpus.helpers import encode


def read(folder, name, data, **options):
    (folder / name).write_bytes(data)
    return encode(folder / f"out-{name}", folder / name, **options)


def texts(result):
    return [raw for _, raw, _, _ in result.documents]


def test_quotes_in_tsv_are_data_and_every_line_is_a_row(tmp_path):
    fields = [b'"Heroes" (album)', b'an inch is 1"', b'"', b"plain", b'more "', b"a\rb", b'""']
    data = b"id\ttext\n" + b"".join(b"%d\t%s\r\n" % row for row in enumerate(fields))
    result = read(tmp_path, "x.tsv", data)
    assert texts(result) == fields
    assert not result.rejects
    assert result.counts["quotes_as_data"] == 1  # the last looks quoted


def test_quoted_tsv_is_read_when_asked_for_and_else_said(tmp_path):
    data = b'id\ttext\n1\t"a\tb"\n2\tc\n'
    quoted = read(tmp_path, "x.tsv", data, csv_quoting="quotes")
    assert texts(quoted) == [b"a\tb", b"c"]
    plain = read(tmp_path, "y.tsv", data)
    assert texts(plain) == [b"c"]
    assert [reject["detail"] for reject in plain.rejects] == [
        "3 fields where the header has 2; --csv-quoting quotes reads quoted fields"
    ]


def test_csv_without_quotes_and_other_delimiters(tmp_path):
    plain = {"csv_quoting": "none", "csv_delimiter": "|"}
    assert texts(read(tmp_path, "x.csv", b'id|text\n1|"a\n', **plain)) == [b'"a']
    assert texts(read(tmp_path, "y.csv", b'id;text\n1;"a;b"\n', csv_delimiter=";")) == [b"a;b"]
    assert texts(read(tmp_path, "z.csv", b"id\x01text\n1\x01a\n", csv_delimiter="\x01")) == [b"a"]


def test_files_of_spark(tmp_path):
    data = (
        b"id,text\n"
        b'1,"say \\"hi\\", she said"\n'
        b'2,"ends in a backslash, \\\\"\n'
        b"3,C:\\temp\\\n"
        b'4,"two\nlines \\" and \\\\\n"\n'
        b'5,""\n'
        b"6,\\\\server\\share\n"
        b'7,"\\n is no line end, nor \\,"\n'
        b'8,"open\n'
        b'9,"x"y\n'
        b"10,last"
    )
    result = read(tmp_path, "x.csv", data, csv_escape="\\")
    assert texts(result) == [
        b'say "hi", she said',
        b"ends in a backslash, \\",
        b"C:\\temp\\",
        b'two\nlines " and \\\n',
        b"",
        b"\\\\server\\share",
        b"\\n is no line end, nor \\,",
        b"last",
    ]
    assert [(r["position"], r["reason"]) for r in result.rejects] == [
        (data.index(b"8,"), "bad_row"),
        (data.index(b"9,"), "bad_row"),
    ]


def test_dumps_of_databases(tmp_path):
    data = (
        b"id\ttext\tk\n"
        b"1\ta\\tb\\nc\\\\d\t\\N\n"  # PostgreSQL
        b"2\ta\\\tb\\\nc\tx\n"  # MySQL
        b"3\t\\N\tx\n"
        b"\\N\tC:\\Users\\\\\tx\n"
    )
    made_at = data.index(b"\\N\tC:")
    options = {"csv_escape": "\\", "keep_fields": ("k",)}
    result = read(tmp_path, "x.tsv", data, **options)
    assert [(doc_id, raw, meta) for doc_id, raw, _, meta in result.documents] == [
        ("1", b"a\tb\nc\\d", b'{"k": null}'),
        ("2", b"a\tb\nc", b'{"k": "x"}'),
        (f"x.tsv#{made_at}", b"C:\\Users\\", b'{"k": "x"}'),
    ]
    assert [reject["reason"] for reject in result.rejects] == ["null_text"]


def test_every_line_of_a_row_that_is_given_up_is_accounted_for(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "blt.corpus.readers.csv_reader._FREE_BYTES", -(1 << 40)
    )  # nothing is read again
    result = read(tmp_path, "x.csv", b'id,text\n1,"open\n2,b\n\n3,c\n')
    assert len(result.rejects) == 3
    assert result.counts["filtered"] == 1


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"csv_delimiter": "||"}, "--csv-delimiter"),
        ({"csv_delimiter": "\n"}, "--csv-delimiter"),
        ({"csv_escape": '"'}, "--csv-escape"),
        ({"csv_escape": ""}, "--csv-escape"),
        ({"csv_escape": "é"}, "--csv-escape"),
        ({"csv_escape": ",", "csv_delimiter": ","}, "--csv-escape"),
        ({"csv_quoting": "all"}, "--csv-quoting"),
    ],
)
def test_what_is_no_dialect_is_refused(options, flag):
    with pytest.raises(UserError, match=flag):
        EncodeConfig(**options)


_FIELDS = st.text(st.sampled_from('ab,"\n\\; ü'), max_size=8)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(_FIELDS, _FIELDS), max_size=6), newline=st.sampled_from(["\n", "\r\n"])
)
def test_what_spark_writes_is_read(rows, newline, tmp_path_factory):
    """Spark quotes what holds a quote, a delimiter or a line end, and escapes there alone."""

    def written(field):
        if any(character in field for character in '",\n') or not field:
            return '"' + field.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return field

    lines = ["id,text", *(",".join(map(written, row)) for row in rows)]
    data = newline.join([*lines, ""]).encode()
    result = read(tmp_path_factory.mktemp("spark"), "x.csv", data, csv_escape="\\")
    assert texts(result) == [text.encode() for _, text in rows]
    assert not result.rejects


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(_FIELDS, _FIELDS), max_size=6))
def test_what_python_writes_with_escapes_and_quotes_is_read(rows, tmp_path_factory):
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\")
    writer.writerows([("id", "text"), *rows])
    data = out.getvalue().encode()
    result = read(tmp_path_factory.mktemp("python"), "x.csv", data, csv_escape="\\")
    assert texts(result) == [text.encode() for _, text in rows]
    assert not result.rejects


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(_FIELDS, _FIELDS), max_size=6))
def test_rows_of_tsv_are_lines_whatever_they_hold(rows, tmp_path_factory):
    rows = [[field.replace("\n", " ") for field in row] for row in rows]
    data = "".join("\t".join(row) + "\n" for row in [("id", "text"), *rows]).encode()
    result = read(tmp_path_factory.mktemp("tsv"), "x.tsv", data)
    assert texts(result) == [text.encode() for _, text in rows]
    assert not result.rejects
