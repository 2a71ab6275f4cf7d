import gzip
import io
import itertools
import time
import zlib

import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tests.blt.corpus.helpers import encode


def wet(*records, gz=True):
    """A WET file as warcio writes it; records are (url, bytes)."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=gz)
    writer.write_record(writer.create_warcinfo_record("x.warc.wet", {"software": "test"}))
    for number, (url, text) in enumerate(records):
        headers = {
            "WARC-Record-ID": f"<urn:uuid:{number}>",
            "WARC-Date": "2024-01-02T03:04:05Z",
            "WARC-Identified-Content-Language": "eng",
        }
        record = writer.create_warc_record(
            url,
            "conversion",
            payload=io.BytesIO(text),
            warc_content_type="text/plain",
            warc_headers_dict=headers,
        )
        writer.write_record(record)
    return out.getvalue()


def warc(*blocks, kind="response"):
    records = [
        b"WARC/1.0\r\nWARC-Type: %s\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
        % (kind.encode(), len(block), block)
        for block in blocks
    ]
    return b"".join(records)


def encode_warc(tmp_path, data, name="x.warc", **options):
    (tmp_path / name).write_bytes(data)
    return encode(tmp_path / f"out-{name}", tmp_path / name, **options)


RECORDS = [
    ("http://a/ü?x=1", "Grüße\n\n".encode()),
    ("http://b/", b""),
    ("http://b/", b"\xff\0\r\n"),
]


@pytest.mark.parametrize("gz", [False, True])
def test_the_text_of_wet_files_is_read(tmp_path, gz):
    name = "x.warc.wet" + ".gz" * gz
    options = {"keep_fields": ("url", "date", "WARC-Identified-Content-Language")}
    result = encode_warc(tmp_path, wet(*RECORDS, gz=gz), name, **options)
    assert [(i, raw) for i, raw, _, _ in result.documents] == [
        (f"urn:uuid:{number}", text) for number, (_, text) in enumerate(RECORDS)
    ]
    assert result.documents[1][3] == (
        b'{"WARC-Identified-Content-Language": "eng", "date": "2024-01-02T03:04:05Z", '
        b'"url": "http://b/"}'
    )
    assert result.counts["filtered"] == 1  # the warcinfo record
    by_url = encode_warc(tmp_path, wet(*RECORDS, gz=gz), "unnamed", id_field="url")
    assert [i for i, _, _, _ in by_url.documents][1:] == ["http://b/", "http://b/"]


def test_a_response_gives_its_body(tmp_path):
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
    body = io.BytesIO(b"<p>hi\r\n\r\n</p>")
    writer.write_record(writer.create_warc_record("http://a/", "response", body, http_headers=head))
    request = StatusAndHeaders("GET / HTTP/1.1", [], is_http_request=True)
    writer.write_record(writer.create_warc_record("http://a/", "request", http_headers=request))
    result = encode_warc(tmp_path, out.getvalue(), "x.warc.gz", id_field="url")
    assert [(i, raw) for i, raw, _, _ in result.documents] == [("http://a/", b"<p>hi\r\n\r\n</p>")]
    assert result.counts["filtered"] == 1


def test_what_has_no_content_is_filtered_as_that(tmp_path):
    result = encode_warc(tmp_path, warc(b"a", b"b", kind="request"))
    assert (result.documents, result.counts["filtered_no_content"]) == ([], 2)


def http(body, *headers):
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"
RAW_DEFLATE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (http(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", CHUNKED), b"abcde"),
        (http(b"not chunked any more", CHUNKED), b"not chunked any more"),
        (http(gzip.compress(b"text", mtime=0), b"content-encoding: GZIP"), b"text"),
        (http(b"decoded before", b"Content-Encoding: gzip"), b"decoded before"),
        (http(zlib.compress(b"text"), b"Content-Encoding: deflate"), b"text"),
        (
            http(RAW_DEFLATE.compress(b"text") + RAW_DEFLATE.flush(), b"Content-Encoding: deflate"),
            b"text",
        ),
        (http(zstandard.compress(b"text"), b"Content-Encoding: zstd"), b"text"),
        (http(b"", b"Content-Encoding: br"), b""),
        (http(b"x", b"Content-Encoding: identity"), b"x"),
        (b"HTTP/1.0 200 OK\nA: b\n\nunix", b"unix"),
        (b"220 ftp is no HTTP", b"220 ftp is no HTTP"),
    ],
)
def test_encodings_of_http_are_undone(tmp_path, block, expected):
    result = encode_warc(tmp_path, warc(block))
    assert [raw for _, raw, _, _ in result.documents] == [expected]


@pytest.mark.parametrize(
    "block",
    [
        http(gzip.compress(b"text" * 100, mtime=0)[:-9], b"Content-Encoding: gzip"),
        http(zlib.compress(b"text" * 100)[:-5], b"Content-Encoding: deflate"),
        http(b"\x00\x01", b"Content-Encoding: deflate"),
        http(b"x", b"Content-Encoding: br"),
        http(b"5\r\nabc", CHUNKED),
        http(b"ac\r\nshort", CHUNKED),
        b"HTTP/1.1 200 OK\r\nno end",
        http(b"x", b"Content-Encoding: " + b"gzip," * 9),
        http(b"x", b"A: " + b"y" * (2 << 20)),
    ],
)
def test_a_body_that_cannot_be_decoded_is_a_reject_and_the_next_is_read(tmp_path, block):
    result = encode_warc(tmp_path, warc(block, http(b"next")))
    assert [raw for _, raw, _, _ in result.documents] == [b"next"]
    assert [(r["position"], r["reason"]) for r in result.rejects] == [(0, "bad_record")]


@pytest.mark.parametrize("coding", [b"utf-8", b"text/html", b"UTF-8, identity", b"8bit"])
def test_a_coding_that_is_none_leaves_the_body_as_it_is_and_is_counted(tmp_path, coding):
    result = encode_warc(tmp_path, warc(http(b"as it is", b"Content-Encoding: " + coding), b"x"))
    assert [raw for _, raw, _, _ in result.documents] == [b"as it is", b"x"]
    assert result.counts["unknown_content_encoding"] == 1


def test_a_body_that_grows_too_far_is_a_reject(tmp_path, monkeypatch):
    from blt.corpus.files import blocks

    monkeypatch.setattr(blocks, "_PARSED_BYTES_FLOOR", 10_000)
    block = http(gzip.compress(bytes(1 << 20)), b"Content-Encoding: gzip")
    result = encode_warc(tmp_path, warc(block), max_document_bytes=100)
    assert [r["reason"] for r in result.rejects] == ["bad_record"]
    long = encode_warc(tmp_path, warc(http(b"x" * 20_000), b"next"), "l.warc", max_document_bytes=9)
    assert [raw for _, raw, _, _ in long.documents] == [b"next"]
    assert [r["reason"] for r in long.rejects] == ["too_long"]


WHOLE = warc(b"one", kind="conversion")


@pytest.mark.parametrize(
    "after",
    [
        WHOLE[:-8],
        WHOLE[:30],
        WHOLE[:-1],
        WHOLE[:-4],
        b"garbage\r\n",
        b"WARC/1.0\r\nContent-Length: 99\r\n\r\nx",
        b"WARC/1.0\r\nContent-Length: 99999999999999\r\n\r\nx",
        b"WARC/1.0\r\nA: " + b"x" * (2 << 20),
    ],
)
def test_damage_keeps_the_records_before_it(tmp_path, after):
    result = encode_warc(tmp_path, WHOLE + after)
    assert [raw for _, raw, _, _ in result.documents] == [b"one"]
    assert [(r["position"], r["reason"]) for r in result.rejects] == [(0, "damaged_input")]


def test_a_header_that_goes_on_and_on_takes_linear_time(tmp_path):
    data = (
        b"WARC/1.0\r\nWARC-Type: warcinfo\r\nA: b\r\n"
        + b" c\n" * 300_000
        + b"Content-Length: 0\r\n\r\n\r\n\r\n"
    )
    start = time.monotonic()
    result = encode_warc(tmp_path, data)
    assert time.monotonic() - start < 5  # seconds; measured at 0.3, quadratic code needs 20
    assert result.counts["filtered"] == 1


def test_headers_may_go_on_and_come_twice(tmp_path):
    data = (
        b"WARC/1.1\nwarc-type: conversion\ncontent-length: 1\nWARC-Target-URI: a\n b\n"
        b"warc-target-uri: second\nWARC-Record-ID: <x>\n\nt\n\n"
    )
    result = encode_warc(tmp_path, data, keep_fields=("url",))
    assert result.documents == [("x", b"t", "x.warc", b'{"url": "a b"}')]


def test_a_chunked_body_that_is_cut_is_no_text(tmp_path):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    cut = head + b"5\r\nhello\r\n6\r\n wo"
    cut_in_its_first_chunk = head + b"cafe\r\nis a size"
    joined_before = head + b"cafes\r\nare words"
    result = encode_warc(tmp_path, warc(cut, cut_in_its_first_chunk, joined_before))
    assert [raw for _, raw, _, _ in result.documents] == [b"cafes\r\nare words"]
    assert [reject["reason"] for reject in result.rejects] == ["bad_record"] * 2


def test_the_reject_of_a_record_that_is_too_long_has_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("blt.corpus.files.blocks._PARSED_BYTES_FLOOR", 1)
    result = encode_warc(tmp_path, warc(b"x" * 999, b"y", kind="resource"), max_document_bytes=9)
    assert [raw for _, raw, _, _ in result.documents] == [b"y"]
    (reject,) = result.rejects
    assert (reject["reason"], reject["sample"]) == ("too_long", b"x" * 200)


def test_prose_about_warc_is_text(tmp_path):
    result = encode_warc(tmp_path, b"WARC/ is a format.\n", name="unnamed")
    assert [raw for _, raw, _, _ in result.documents] == [b"WARC/ is a format.\n"]


RESOURCE = b"WARC/1.0\r\nWARC-Type: resource\r\nWARC-Record-ID: <%s>\r\nContent-Length: %s\r\n\r\n"
LAST = RESOURCE % (b"z", b"4") + b"last\r\n\r\n"


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    "length",
    [
        b"13",
        b"11",
        b"14",
        b"16",
        b"0",
        b"99",
        b"5000",
        b"99999999999999",
        b"9" * 30,
        b"-5",
        b"",
        b"x",
    ],
)
def test_a_wrong_length_costs_its_own_record_alone(tmp_path, length, gz, is_last):
    """Also where it is one too large or too small, and where the block holds blank lines."""
    text = b"he\r\n\r\nre it!"
    records = [RESOURCE % (b"a", b"5") + b"first\r\n\r\n"]
    records += [RESOURCE % (b"b", length) + text + b"\r\n\r\n"] + [LAST] * (not is_last)
    data = b"".join(map(gzip.compress, records)) if gz else b"".join(records)
    result = encode_warc(tmp_path, data, "x.warc" + ".gz" * gz)
    expected = [("a", b"first"), ("z", b"last")][: len(records) - 1]
    assert [(i, raw) for i, raw, _, _ in result.documents] == expected
    (reject,) = result.rejects
    assert (reject["reason"], reject["position"]) == ("bad_record", len(records[0]))
    assert f"{len(records[1])} bytes passed over" in reject["detail"]
    assert result.counts["damaged_files"] == 0


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2), (1, 4), ()])
def test_members_may_hold_any_number_of_records(tmp_path, cuts):
    records = [RESOURCE % (b"%d" % n, b"4") + b"text\r\n\r\n" for n in range(6)]
    bounds = [0, *cuts, len(records)]
    members = [b"".join(records[a:b]) for a, b in itertools.pairwise(bounds)]
    result = encode_warc(tmp_path, b"".join(map(gzip.compress, members)), "x.warc.gz")
    assert [(i, raw) for i, raw, _, _ in result.documents] == [(f"{n}", b"text") for n in range(6)]
    assert result.rejects == []


def test_records_may_go_on_in_the_next_member(tmp_path):
    data = b"".join(RESOURCE % (b"%d" % n, b"400") + b"t" * 400 + b"\r\n\r\n" for n in range(6))
    pieces = [gzip.compress(data[start : start + 77]) for start in range(0, len(data), 77)]
    result = encode_warc(tmp_path, b"".join(pieces), "x.warc.gz")
    assert [len(raw) for _, raw, _, _ in result.documents] == [400] * 6
    assert result.rejects == []


def test_a_text_that_quotes_a_record_is_not_read_after_damage_where_members_tell(tmp_path):
    quoted = RESOURCE % (b"q", b"4") + b"fake\r\n\r\n"
    records = [RESOURCE % (b"%d" % n, b"4") + b"text\r\n\r\n" for n in range(4)]
    records[2] = RESOURCE % (b"2", b"9") + quoted + b"\r\n\r\n"
    result = encode_warc(tmp_path, b"".join(map(gzip.compress, records)), "x.warc.gz")
    assert [i for i, _, _, _ in result.documents] == ["0", "1", "3"]
    assert f"{len(records[2])} bytes passed over" in result.rejects[0]["detail"]
