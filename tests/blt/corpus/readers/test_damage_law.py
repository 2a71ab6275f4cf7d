"""Damage to any one record of a file of several changes none of the others, in every format."""

import bz2
import gzip
import io
import json
import lzma
import struct
from random import Random

import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from blt.corpus import EncodeConfig, build_plan, discover_inputs
from blt.corpus.readers.registry import read_records
from blt.corpus.records import Document
from blt.formats.example import encode_example
from tests.blt.corpus.readers.test_tar import tar_bytes
from tests.blt.corpus.readers.test_tfrecord_reader import record

WARC = b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Record-ID: <%d>\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
TEXTS = st.lists(st.text('abc \n\r"{},é\0\t', max_size=30), min_size=2, max_size=6)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


def warc_record(number, text, kind=b"conversion"):
    return WARC % (kind, number, len(text), text)


def response_record(number, text):
    return warc_record(number, HEAD + text, b"response")


def csv_record(number, text):
    for mark, instead in ((b'"', b'""'), (b"\n", b" "), (b"\r", b"")):
        text = text.replace(mark, instead)
    return b'%d,"%s"\n' % (number, text)


def json_record(number, text):
    return json.dumps({"id": str(number), "text": text.decode()}).encode() + b"\n"


# Of each name: how a record is made, how many of its last bytes end it, and what goes before all.
MAKERS = {
    "x.jsonl": (json_record, 1, b""),
    "x.jsonl.gz": (lambda n, text: gzip.compress(json_record(n, text)), 0, b""),
    "x.jsonl.zst": (lambda n, text: checked_zstd(json_record(n, text)), 0, b""),
    "x.csv": (csv_record, 1, b"id,text\n"),
    "x.warc": (warc_record, 0, b""),
    "y.warc": (response_record, 0, b""),
    "x.warc.gz": (lambda n, text: gzip.compress(warc_record(n, text)), 0, b""),
    "y.warc.gz": (lambda n, text: gzip.compress(response_record(n, text)), 0, b""),
    "x.warc.zst": (lambda n, text: checked_zstd(warc_record(n, text)), 0, b""),
    "x.tfrecord": (
        lambda n, text: record(encode_example({"text": [text], "id": [b"%d" % n]})),
        0,
        b"",
    ),
}


def checked_zstd(data):
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


# The same examples in every run: looking for more is what `python -m tests.fuzz` is for.
QUIET = {"suppress_health_check": list(HealthCheck)}


@st.composite
def damages(draw):
    """Where in a record, as a share of it, how many bytes are taken away, and what is put there."""
    return draw(st.floats(0, 1)), draw(st.integers(0, 40)), draw(st.binary(max_size=40))


def damaged(data, damage, end):
    at, length, new = damage
    body, tail = data[: len(data) - end], data[len(data) - end :]
    start = min(int(at * len(body)), len(body) - 1)
    if not length and not new:
        length, new = 1, bytes([body[start] ^ 1])
    return body[:start] + new + body[start + length :] + tail


def read(path, **options):
    config = EncodeConfig(**options)
    (payload,) = build_plan(discover_inputs([path]).files, config)
    found = list(read_records(payload["files"][0], config, lambda n: None))
    documents = [(r.doc_id, b"".join(r.parts)) for r in found if isinstance(r, Document)]
    return documents, [r for r in found if not isinstance(r, Document)]


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=150, deadline=None, derandomize=True, **QUIET)
@given(texts=TEXTS, which=st.integers(0, 5), damage=damages())
def test_damage_to_one_record_leaves_the_others(name, texts, which, damage, tmp_path):
    make, end, head = MAKERS[name]
    records = [make(number, text.encode()) for number, text in enumerate(texts)]
    path = tmp_path / name
    path.write_bytes(head + b"".join(records))
    before, rejects = read(path)
    assert (len(before), rejects) == (len(texts), [])
    which %= len(texts)
    records[which] = damaged(records[which], damage, end)
    path.write_bytes(head + b"".join(records))
    after, rejects = read(path)
    # Damage may open a quote that ends in a later row, as a row of several lines that is well
    # formed. Nothing tells it from one that was meant.
    assume(name != "x.csv" or not any("\n" in i or b"\n" in text for i, text in after))
    assert [d for d in before if d[0] != str(which) and d not in after] == []
    if len(after) < len(texts):
        assert rejects or not records[which].strip(), "nothing is said of what was lost"


MAGICS = [b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"BZh91AY&SY", b"\x04\x22\x4d\x18", b"\xfd7zXZ\0"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.warc", "x.tfrecord"])
@pytest.mark.parametrize("magic", MAGICS)
def test_a_damaged_start_like_that_of_compressed_data_leaves_the_others(name, magic, tmp_path):
    make, _, _ = MAKERS[name]
    path = tmp_path / name
    path.write_bytes(b"".join(make(number, b"text") for number in range(3)))
    before, _ = read(path)
    path.write_bytes(magic + path.read_bytes()[len(magic) :])
    after, rejects = read(path)
    assert after == before[1:]
    assert len(rejects) == 1


@settings(max_examples=60, deadline=None, derandomize=True, **QUIET)
@given(which=st.integers(0, 4), at=st.integers(0, 511), byte=st.integers(1, 255))
def test_damage_to_the_head_of_one_member_leaves_the_others(which, at, byte, tmp_path):
    members = {f"{n}" * (1 + 150 * (n % 2)) + ".txt": b"%d" % n * 700 for n in range(5)}
    data = bytearray(tar_bytes(members))
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    before, rejects = read(path)
    assert (len(before), rejects) == (5, [])
    at += data.index(b"%d" % which * 700) - 512
    data[at] ^= byte
    path.write_bytes(data)
    after, _ = read(path)
    assert [d for d in before if d != before[which] and d not in after] == []


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@settings(max_examples=60, deadline=None, derandomize=True, **QUIET)
@given(which=st.integers(0, 4), at=st.integers(0, 99), byte=st.integers(1, 255))
def test_damage_to_one_batch_of_a_table_leaves_the_others(suffix, which, at, byte, tmp_path):
    table = pa.table({"text": [f"{n}" * 100 for n in range(10)]})
    sink = io.BytesIO()
    if suffix == "parquet":
        options = {"row_group_size": 2, "compression": "none", "use_dictionary": False}
        options["write_statistics"] = False
        pq.write_table(table, sink, write_page_checksum=True, **options)
        start = sink.getvalue().index(f"{2 * which}".encode() * 100)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        start = -1
        for _ in range(which + 1):  # the offsets of the texts in the batch
            start = sink.getvalue().index(struct.pack("<3i", 0, 100, 200), start + 1)
        start, at = start + 7, 0
    data = bytearray(sink.getvalue())
    path = tmp_path / f"x.{suffix}"
    data[start + at] ^= byte
    path.write_bytes(data)
    after, (reject,) = read(path)
    lost = (f"x.{suffix}#{2 * which}", f"x.{suffix}#{2 * which + 1}")
    names = [(n, f"x.{suffix}#{n}") for n in range(10)]
    assert after == [(i, f"{n}".encode() * 100) for n, i in names if i not in lost]
    assert (reject.reason, reject.num_records) == ("damaged_input", 2)
    assert reject.position == 2 * which
    assert 0 < reject.num_bytes < len(data) / 2


def test_a_batch_whose_head_is_damaged_leaves_the_others(tmp_path):
    table = pa.table({"text": [f"{n}" * 100 for n in range(10)]})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    data = bytearray(sink.getvalue())
    start = data.rindex(b"\xff\xff\xff\xff", 0, data.index(b"2" * 100))
    data[start + 8 : start + 24] = b"\xff" * 16
    path = tmp_path / "x.arrow"
    path.write_bytes(data)
    after, (reject,) = read(path)
    assert after == [(f"x.arrow#{n}", f"{n}".encode() * 100) for n in range(10) if n not in (2, 3)]
    assert (reject.reason, reject.num_records, reject.ends_input) == ("damaged_input", 2, False)
    assert "longest other batch" in reject.detail


COMPRESSORS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": checked_zstd,
    "lz4": lambda data: lz4.frame.compress(data, content_checksum=True),
}


@pytest.mark.parametrize("num_words", [50, 3000, 20000])
@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("name", ["x.warc", "x.jsonl"])
def test_damage_to_one_compressed_member_leaves_the_others(name, suffix, num_words, tmp_path):
    make, _, _ = MAKERS[name]
    random = Random(0)
    words = [" ".join(str(random.randrange(10**6)) for _ in range(num_words)) for _ in range(6)]
    members = [COMPRESSORS[suffix](make(n, text.encode())) for n, text in enumerate(words)]
    path = tmp_path / f"{name}.{suffix}"
    path.write_bytes(b"".join(members))
    before, rejects = read(path)
    assert (len(before), rejects) == (6, [])
    altered = bytearray(members[2])
    altered[len(altered) // 2] ^= 0xFF
    path.write_bytes(b"".join([*members[:2], altered, *members[3:]]))
    after, rejects = read(path)
    # What lz4 or zstd gave before the damage showed may hold a whole record.
    assert [d for d in before if d not in after] in ([], [before[2]])
    assert len(rejects) == 1


def test_a_damaged_member_of_large_lz4_blocks_leaves_the_others(tmp_path):
    words = [f"word{number:03}-" for number in range(256)]  # a block of 4 MiB becomes 1.5 MiB
    texts = ["".join(map(words.__getitem__, Random(n).randbytes(700_000))) for n in range(4)]
    members = [
        lz4.frame.compress(
            warc_record(n, text.encode()),
            block_size=lz4.frame.BLOCKSIZE_MAX4MB,
            content_checksum=True,
        )
        for n, text in enumerate(texts)
    ]
    altered = bytearray(members[1])
    altered[len(altered) // 2] ^= 0xFF
    path = tmp_path / "x.warc.lz4"
    path.write_bytes(b"".join([members[0], altered, *members[2:]]))
    after, rejects = read(path, max_document_bytes=8 << 20)
    kept = dict(after)
    assert [kept[i] == texts[int(i)].encode() for i in ("0", "2", "3")] == [True] * 3
    assert len(rejects) == 1


def test_a_head_of_zeros_costs_its_own_member_alone(tmp_path):
    data = bytearray(tar_bytes({f"{n}.txt": b"%d" % n * 700 for n in range(5)}))
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    before, _ = read(path)
    at = data.index(b"2" * 700) - 512
    data[at : at + 512] = bytes(512)
    path.write_bytes(data)
    after, (reject,) = read(path)
    assert after == before[:2] + before[3:]
    assert (reject.reason, reject.position, reject.num_bytes) == ("bad_record", at, 1536)


def test_archives_one_after_the_other_are_read_as_one(tmp_path):
    first, second = tar_bytes({"a.txt": b"first"}), tar_bytes({"b.txt": b"second"})
    path = tmp_path / "x.tar"
    path.write_bytes(first + second)
    documents, rejects = read(path)
    assert [text for _, text in documents] == [b"first", b"second"]
    assert rejects == []
    path.write_bytes(first + b"other" * 300)
    documents, (reject,) = read(path)
    assert [text for _, text in documents] == [b"first"]
    assert (reject.reason, reject.ends_input) == ("damaged_input", True)
    assert "bytes after the end" in reject.detail
