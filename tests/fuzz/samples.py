"""Small whole files of every format, by name, and which of them each reader is fuzzed with."""

import bz2
import functools
import gzip
import io
import lzma
import tarfile
import tempfile
from pathlib import Path

import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from blt.formats.example import encode_example
from blt.formats.tfrecord import TFRecordWriter
from tests.blt.corpus.readers.test_arrow import stream_bytes, write_file
from tests.blt.corpus.readers.test_tar import tar_bytes
from tests.blt.corpus.readers.test_warc import http, warc, wet

ROWS = {"id": ["a", None, "c", "d"], "text": ["one", "", "dréi " * 30, None], "n": [1, 2, 3, 4]}
TABLE = pa.table({**ROWS, "doc": [{"k": "v"}] * 4, "tag": pa.array(["x"] * 4).dictionary_encode()})
JSONL = b'{"id": 1, "text": "one", "n": [1]}\n\n{"text": "\\ud83d\\ude00"}\n[[[1]]]\n'
MORE_JSONL = (
    b'\xef\xbb\xbf {"text":"a\\u0000\\ud800","id":1.50,"n":123456789012345678901234567890}\r\n'
    b'{"text": "\xff\xc3", "id": "a~dup2", "doc": {"k": NaN}, "tag": -0.0, "tag": 1e400}\n'
    b'{"doc": {"text": null}, "doc.k": true, "text": "one"}\n"x"\n{"text": 1}'
)
CSV = b'id,text,n\n1,"a ""b""\nc",2\n\n2,x,y\n'

# The readers by the name that the command knows them by.
READERS = {
    "text": ("x.txt", "y.txt"),
    "jsonl": ("x.jsonl", "y.jsonl", "unnamed"),
    "csv": ("x.csv", "x.tsv"),
    "parquet": ("x.parquet", "y.parquet"),
    "arrow": ("x.arrow", "y.arrow", "x.arrows"),
    "warc": ("x.warc", "x.wet", "x.wet.gz"),
    "tfrecord": ("x.tfrecord",),
    "tar": ("x.tar", "y.tar", "x.tar.gz"),
    "bytes": ("x.bin",),
    "compressed": ("x.jsonl.bz2", "x.jsonl.gz", "x.jsonl.lz4", "x.jsonl.xz", "x.jsonl.zst"),
}
NAMES = sorted(name for names in READERS.values() for name in names)


@functools.cache
def samples() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        found = _sample_files(Path(folder))
    assert sorted(found) == NAMES
    return found


def _sample_files(folder: Path) -> dict[str, bytes]:
    arrow = write_file(folder / "a", TABLE)
    packed = write_file(folder / "b", TABLE, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    members = {"a.txt": b"a\n\nb", "b.jsonl": JSONL, "c.csv.gz": gzip.compress(CSV)}
    return {
        "x.jsonl": JSONL,
        "y.jsonl": MORE_JSONL,
        "unnamed": JSONL,
        "x.txt": b"a\n\nb \n\t\n\r\n\xff\n",
        "y.txt": b"\xef\xbb\xbf\r\n \ndr\xc3\xa9i\r\nb\r\n\r\n\r\n\xe2\x82c\r",
        "x.bin": b"\xef\xbb\xbfa\r\n\xff\0\n\nb",
        "x.csv": CSV,
        "x.tsv": b'id\ttext\tn\n1\t"a ""b""\t2\n\n2\tx "\ty\r\n',
        "x.parquet": _parquet_bytes(row_group_size=2),
        "y.parquet": _parquet_bytes(compression="none", data_page_version="2.0"),
        "x.arrow": arrow.read_bytes(),
        "y.arrow": packed.read_bytes(),
        "x.arrows": stream_bytes(TABLE),
        "x.tfrecord": _tfrecord_bytes(folder),
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
    }


def _parquet_bytes(**options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, **options)
    return sink.getvalue()


def _tfrecord_bytes(folder: Path) -> bytes:
    writer = TFRecordWriter(folder / "w")
    for number in range(3):
        writer.write(encode_example({"text": [b"text %d" % number], "id": [b"i"]}))
    writer.close()
    return (folder / "w").read_bytes()
