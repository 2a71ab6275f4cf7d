"""Altered, cut and made-up bytes for every reader: no crash, no hang, and every record counted.

The number of examples is small here; `BLT_FUZZ_EXAMPLES=100000` makes more.
"""

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import os
import tarfile
import tempfile
from pathlib import Path

import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blt.corpus import EncodeConfig, build_plan, check_inputs, discover_inputs
from blt.corpus.readers import read_records
from blt.corpus.records import Document, Filtered, Reject
from blt.errors import UserError
from blt.formats.example import encode_example
from blt.formats.rejects import REASONS
from blt.formats.tfrecord import TFRecordWriter
from tests.blt.corpus.test_arrow import stream_bytes, write_file
from tests.blt.corpus.test_tar import tar_bytes
from tests.blt.corpus.test_warc import http, warc, wet

ROWS = {"id": ["a", None, "c", "d"], "text": ["one", "", "dréi " * 30, None], "n": [1, 2, 3, 4]}
TABLE = pa.table({**ROWS, "doc": [{"k": "v"}] * 4, "tag": pa.array(["x"] * 4).dictionary_encode()})
JSONL = b'{"id": 1, "text": "one", "n": [1]}\n\n{"text": "\\ud83d\\ude00"}\n[[[1]]]\n'
CSV = b'id,text,n\n1,"a ""b""\nc",2\n\n2,x,y\n'


def tfrecord_bytes(folder):
    writer = TFRecordWriter(folder / "w")
    for number in range(3):
        writer.write(encode_example({"text": [b"text %d" % number], "id": [b"i"]}))
    writer.close()
    return (folder / "w").read_bytes()


def sample_files(folder):
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, row_group_size=2)
    arrow = write_file(folder / "a", TABLE)
    packed = write_file(folder / "b", TABLE, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    members = {"a.txt": b"a\n\nb", "b.jsonl": JSONL, "c.csv.gz": gzip.compress(CSV)}
    return {
        "x.jsonl": JSONL,
        "x.txt": b"a\n\nb \n\t\n\r\n\xff\n",
        "x.csv": CSV,
        "x.tsv": CSV.replace(b",", b"\t"),
        "x.parquet": sink.getvalue(),
        "x.arrow": arrow.read_bytes(),
        "y.arrow": packed.read_bytes(),
        "x.arrows": stream_bytes(TABLE),
        "x.tfrecord": tfrecord_bytes(folder),
        "x.wet": wet(("http://a/", b"text"), gz=False),
        "x.wet.gz": wet(("http://a/", b"text"), ("http://b/", b"more")),
        "x.warc": warc(
            http(b"3\r\nabc\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
            http(gzip.compress(b"text"), b"Content-Encoding: gzip"),
        ),
        "x.tar": tar_bytes(members),
        "y.tar": tar_bytes({"n" * 200: b"x", "ü": b"y"}, tarfile.GNU_FORMAT),
        "x.tar.gz": gzip.compress(tar_bytes(members)),
        "x.jsonl.gz": gzip.compress(JSONL) * 2,
        "x.jsonl.zst": zstandard.compress(JSONL) * 2,
        "x.jsonl.bz2": bz2.compress(JSONL),
        "x.jsonl.xz": lzma.compress(JSONL),
        "x.jsonl.lz4": lz4.frame.compress(JSONL, content_checksum=True) * 2,
        "unnamed": JSONL,
    }


NAMES = [
    "unnamed",
    "x.arrow",
    "x.arrows",
    "x.csv",
    "x.jsonl",
    "x.jsonl.bz2",
    "x.jsonl.gz",
    "x.jsonl.lz4",
    "x.jsonl.xz",
    "x.jsonl.zst",
    "x.parquet",
    "x.tar",
    "x.tar.gz",
    "x.tfrecord",
    "x.tsv",
    "x.txt",
    "x.warc",
    "x.wet",
    "x.wet.gz",
    "y.arrow",
    "y.tar",
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "drop", "double", "insert", "number"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=6,
)
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1]


def altered(data, edits):
    data = bytearray(data)
    for kind, where, value, size in edits:
        at = int(where * max(1, len(data)))
        if kind == "flip" and data:
            data[at] ^= 1 << (value % 8)
        elif kind == "set" and data:
            data[at] = value
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + size]
        elif kind == "double":
            data[at:at] = data[at : at + size]
        elif kind == "insert":
            data[at:at] = bytes([value]) * size
        else:
            width = (1, 2, 4, 8)[size % 4]
            data[at : at + width] = NUMBERS[value % 10].to_bytes(8, "little")[:width]
    return bytes(data)


@functools.cache
def samples():
    with tempfile.TemporaryDirectory() as folder:
        found = sample_files(Path(folder))
    assert sorted(found) == sorted(NAMES)
    return found


def read_all(path, **options):
    config = EncodeConfig(keep_fields=("n", "doc.k", "tag"), max_document_bytes=16, **options)
    payloads = build_plan(discover_inputs([path]).files, config)
    with contextlib.suppress(UserError):
        check_inputs(payloads, config)
    records = []
    for payload in payloads:
        for entry in payload["files"]:
            for record in read_records(entry, config, lambda n: None):
                assert isinstance(record, Document | Reject | Filtered)
                if isinstance(record, Document):
                    record.doc_id.encode()
                    parts = list(record.parts)
                    assert len(parts) == record.num_parts
                    assert all(len(part) <= 16 for part in parts)
                elif isinstance(record, Reject):
                    assert record.reason in REASONS
                    record.detail.encode()
                record.source.encode()
                records.append(record)
    return records


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=int(os.environ.get("BLT_FUZZ_EXAMPLES", 40)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(edits=EDITS, doc_per=st.sampled_from(["file", "line", "paragraph"]))
def test_altered_files_are_read_or_said_to_be_damaged(name, edits, doc_per, tmp_path):
    (tmp_path / name).write_bytes(altered(samples()[name], edits))
    read_all(tmp_path / name, doc_per=doc_per)


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=600), after=st.booleans())
def test_any_bytes_are_read_or_said_to_be_damaged(name, data, after, tmp_path):
    head = samples()[name][:12] if after else b""
    (tmp_path / name).write_bytes(head + data)
    read_all(tmp_path / name)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("x.txt", "unnamed")])
def test_what_is_whole_gives_no_damage(name, tmp_path):
    (tmp_path / name).write_bytes(samples()[name])
    records = read_all(tmp_path / name)
    assert sum(isinstance(record, Document) for record in records) >= 2 - (name == "x.wet")
    assert not [r for r in records if isinstance(r, Reject) and r.reason == "damaged_input"]
