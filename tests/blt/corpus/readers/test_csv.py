import csv
import gzip
import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.corpus import EncodeConfig, build_plan, check_inputs, discover_inputs
from blt.corpus.readers import csv_reader
from blt.errors import UserError
from tests.blt.corpus.helpers import encode


def encode_csv(tmp_path, data, name="x.csv", **options):
    (tmp_path / name).write_bytes(data)
    return encode(tmp_path / f"out-{name}", tmp_path / name, **options)


def texts(result):
    return [(doc_id, raw) for doc_id, raw, _, _ in result.documents]


def reasons(result):
    return [(reject["position"], reject["reason"]) for reject in result.rejects]


def test_quoted_fields_hold_anything_and_bytes_are_kept(tmp_path):
    data = (
        b'\xef\xbb\xbfid,"text",n\r\na,"x, ""y""\r\nz",1\r\nb,\xff\x00\xc3\xbc,2\n\n,"",3\nd,last,4'
    )
    result = encode_csv(tmp_path, data, keep_fields=("n",))
    assert texts(result) == [
        ("a", b'x, "y"\r\nz'),
        ("b", b"\xff\x00\xc3\xbc"),
        ("x.csv#45", b""),
        ("d", b"last"),
    ]
    assert [meta for _, _, _, meta in result.documents] == [
        b'{"n": "%d"}' % i for i in (1, 2, 3, 4)
    ]
    assert result.counts["filtered"] == 1
    assert data[45:].startswith(b',"",3')


def test_tsv_and_compressed_tables_are_read(tmp_path):
    assert texts(encode_csv(tmp_path, b"text\tid\na,b\t1\n", "x.tsv")) == [("1", b"a,b")]
    data = gzip.compress(b"text,id\na,1\n")
    assert texts(encode_csv(tmp_path, data, "x.csv.gz")) == [("1", b"a")]


def test_a_bad_row_is_a_reject_and_the_next_is_read(tmp_path):
    data = b'id,text\na,one\nb\nc,two,more\nd,"x"y\ne,three\nf,"never closed\ng,four\nh,five'
    result = encode_csv(tmp_path, data)
    assert [raw for _, raw in texts(result)] == [b"one", b"three", b"four", b"five"]
    assert reasons(result) == [
        (data.index(line), "bad_row") for line in (b"b\n", b"c,", b'd,"', b"f,")
    ]
    assert result.rejects[0]["detail"] == "1 fields where the header has 2"
    assert result.rejects[-1]["sample"] == b'f,"never closed'


def test_ids_that_are_not_utf8_are_rejected(tmp_path):
    result = encode_csv(tmp_path, b"id,text\n\xff,a\n1,b\n")
    assert texts(result) == [("1", b"b")]
    assert reasons(result) == [(8, "invalid_id")]


def test_a_table_without_the_column_is_one_reject_and_refused_beforehand(tmp_path):
    result = encode_csv(tmp_path, b"id,body\n1,x\n")
    assert [(r["reason"], r["detail"]) for r in result.rejects] == [
        ("missing_column", "no column 'text'; it has 'id', 'body'")
    ]
    payloads = build_plan(discover_inputs([tmp_path / "x.csv"]).files, EncodeConfig())
    with pytest.raises(UserError, match=r"--text-field text: no such column in .*x\.csv; it has"):
        check_inputs(payloads, EncodeConfig())
    twice = encode_csv(tmp_path, b"text,text\n1,x\n", "y.csv")
    assert [r["reason"] for r in twice.rejects] == ["missing_column"]
    unread = encode_csv(tmp_path, b'"text\n1\n', "z.csv")
    assert [r["reason"] for r in unread.rejects] == ["bad_row"]
    assert encode_csv(tmp_path, b"", "none.csv").counts["records"] == 0
    assert encode_csv(tmp_path, b"text\n", "head.csv").counts["records"] == 0


def test_a_row_over_the_limit_gives_up_its_first_line(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_reader, "max_parsed_bytes", lambda config: 3000)
    data = b'text\n"' + b"x" * 600 + b"\n" + b"y" * 600 + b"\nend\n" + b"z" * 3000 + b"\nlast\n"
    result = encode_csv(tmp_path, data)
    assert [raw for _, raw in texts(result)] == [b"y" * 600, b"end", b"last"]
    assert reasons(result) == [(5, "too_long"), (data.index(b"zzz"), "too_long")]


def test_many_short_lines_in_a_quote_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_reader, "max_parsed_bytes", lambda config: 200_000)
    result = encode_csv(tmp_path, b'text\n"' + b"\n" * 1000 + b"end\nlast")
    assert reasons(result) == [(5, "too_long")]
    assert [raw for _, raw in texts(result)] == [b"end", b"last"]
    assert result.counts["filtered"] == 999


def test_time_is_linear_where_every_line_opens_a_quote_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_reader, "_FREE_BYTES", 1 << 20)
    line = b'x","y\n'  # closes a quote and opens another, or opens one
    start = time.monotonic()
    result = encode_csv(tmp_path, b'text,"b"\n' + line * 30_000)
    assert time.monotonic() - start < 10  # quadratic code reads 2.7 GB
    assert not result.documents
    assert len(result.rejects) == 30_000  # every line is accounted for


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.sampled_from('ab,"\n\r\t\0ü '), max_size=8),
            st.text(st.characters(max_codepoint=255), max_size=8),
        ),
        max_size=6,
    ),
    delimiter=st.sampled_from(",\t"),
)
def test_what_the_csv_module_writes_is_read(rows, delimiter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    nul = "\u0100"  # Python 3.10 does not write a NUL
    writer.writerows([("k", "text"), *([v.replace("\0", nul) for v in row] for row in rows)])
    data = out.getvalue().replace(nul, "\0").encode("latin-1")
    name = "x.csv" if delimiter == "," else "x.tsv"
    result = encode_csv(folder, data, name, csv_quoting="quotes")
    assert [raw for _, raw in texts(result)] == [text.encode("latin-1") for _, text in rows]
    assert not result.rejects


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"text\na\rb\nok\n", "a CR outside of quotes that is not part of a line end"),
        (b'text\n"open\nok\n', "a quote that does not end"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_in_our_words(tmp_path, data, detail):
    (tmp_path / "x.csv").write_bytes(data)
    result = encode(tmp_path / "out", tmp_path / "x.csv")
    assert [raw for _, raw, _, _ in result.documents] == [b"ok"]
    assert [reject["detail"] for reject in result.rejects] == [detail]
