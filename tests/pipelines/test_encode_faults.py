"""Inputs that people have, from the bug reports of other tools; each as `blt encode` must take it.

Every case makes its own files, runs the command, and looks at all that comes out: documents in
order, their kept fields, reasons of rejects, the exit status and what is said.
"""

import dataclasses
import datetime
import decimal
import gzip
import json
import uuid
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from blt.cli import command
from blt.dataset.manifest import read_manifest
from blt.formats.byte_shard import read_documents
from pipelines import encode
from tests.blt.corpus.helpers import read_back


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A situation, and what a user expects of it.

    Attributes:
      files: by name, as bytes, text, columns of Parquet, or what a link leads to.
      flags: besides --input and --output.
      status: of the command.
      documents: (id, text) of all; None if that is not looked at.
      meta: of all, parsed; None if it is not looked at.
      rejects: reasons, with their number.
      says: words that stand in the output or the error.
    """

    files: dict[str, Any]
    flags: str = "--max-lost-fraction 1"
    status: int = 0
    documents: list[tuple[str, str]] | None = None
    meta: list[dict | None] | None = None
    rejects: dict[str, int] = dataclasses.field(default_factory=dict)
    says: tuple[str, ...] = ()


def json_lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def warc(*records: tuple[bytes, int | None], kind: bytes = b"conversion") -> list[bytes]:
    """Returns records of these blocks; what their Content-Length says more, or None for none."""
    made = []
    for number, (block, more) in enumerate(records):
        length = b"" if more is None else b"Content-Length: %d\r\n" % (len(block) + more)
        head = b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Record-ID: <%d>\r\n%s\r\n"
        made.append(head % (kind, number, length) + block + b"\r\n\r\n")
    return made


def response(head: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body


_WRONG = warc((b"first", 0), (b"second", 1), (b"third", 0), (b"fourth", -1), (b"fifth", None))
_AFTER_WRONG = warc((b"first", 0), (b"second", 0))
_CHUNKED = response(b"Transfer-Encoding: chunked", b"5\r\nab")
_RESPONSES = warc(
    (response(b"Content-Encoding: utf-8", b"plain"), 0),
    (_CHUNKED, 0),
    (response(b"Content-Type: text/plain", b"last"), 0),
    kind=b"response",
)
_HALF_OF_500_LINES = gzip.compress(json_lines(*({"text": str(n)} for n in range(500))).encode())
_HALF_OF_500_LINES = _HALF_OF_500_LINES[: len(_HALF_OF_500_LINES) // 2]
_ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(b"x" * 99)
_IDS = {
    "decimal": (pa.decimal128(38, 0), decimal.Decimal(10**30), str(10**30)),
    "date": (pa.date32(), datetime.date(2020, 1, 2), "2020-01-02"),
    "uuid": (pa.string(), str(uuid.UUID(int=7)), str(uuid.UUID(int=7))),
    "double": (pa.float64(), 7.0, "7"),
    "integer": (pa.uint64(), 2**63 + 1, str(2**63 + 1)),
}

CASES = {
    "a table whose text column has another name": Case(
        files={"a.parquet": {"text": ["x"] * 3}, "b.parquet": {"content": ["y"] * 50}},
        status=2,
        says=("no such column in", "b.parquet", "content", "--on-unusable-table reject"),
    ),
    "the same, told to go on, and most of the corpus missing": Case(
        files={"a.parquet": {"text": ["x"] * 3}, "b.parquet": {"content": ["y"] * 50}},
        flags="--on-unusable-table reject",
        status=1,
        says=("94.3 % of records (50 of 53)",),
    ),
    "NaN and Infinity in kept fields of JSON": Case(
        files={"a.jsonl": '{"id":"a","text":"x","s":NaN}\n{"id":"b","text":"y","s":-Infinity}\n'},
        flags="--keep-fields s",
        documents=[("a", "x"), ("b", "y")],
        meta=[{"s": None}, {"s": None}],
        says=("2 documents: NaN or infinite, made null",),
    ),
    "NaN and Infinity in kept fields of Parquet": Case(
        files={"b.parquet": {"text": ["x", "y"], "s": [float("nan"), float("inf")]}},
        flags="--keep-fields s",
        meta=[{"s": None}, {"s": None}],
        says=("2 documents: NaN or infinite, made null",),
    ),
    "shards of CSV with the number behind the suffix": Case(
        files={
            "out.csv-00000-of-00002": "id,text\n1,a\n",
            "out.csv-00001-of-00002": 'id,text\n2,"b,c"\n',
        },
        documents=[("1", "a"), ("2", "b,c")],
    ),
    "wrong and missing lengths in a web archive": Case(
        files={"x.warc": b"".join(_WRONG + _AFTER_WRONG)},
        documents=[("0", "first"), ("2", "third"), ("0", "first"), ("1", "second")],
        rejects={"bad_record": 3},
    ),
    "the same, a gzip member a record": Case(
        files={"x.warc.gz": b"".join(map(gzip.compress, _WRONG + _AFTER_WRONG))},
        documents=[("0", "first"), ("2", "third"), ("0", "first"), ("1", "second")],
        rejects={"bad_record": 3},
    ),
    "codings of HTTP that are none, and a chunk that is cut": Case(
        files={"x.warc": b"".join(_RESPONSES)},
        documents=[("0", "plain"), ("2", "last")],
        rejects={"bad_record": 1},
        says=("1 document of WARC: Content-Encoding unknown, taken as is",),
    ),
    "quotes that are data in TSV": Case(
        files={"x.tsv": 'id\ttext\n1\tShe said "hello\n2\t"Quoted" start\n3\t"\n4\tend"\n'},
        documents=[("1", 'She said "hello'), ("2", '"Quoted" start'), ("3", '"'), ("4", 'end"')],
    ),
    "quoted TSV": Case(
        files={"x.tsv": 'id\ttext\n1\t"two\nlines"\n2\tx\n'},
        flags="--csv-quoting quotes",
        documents=[("1", "two\nlines"), ("2", "x")],
    ),
    "partitions in the names of folders": Case(
        files={f"lang={k}/a.jsonl": json_lines({"text": k}) for k in ("de", "en")},
        flags="--keep-fields lang,langg",
        meta=[{"lang": "de"}, {"lang": "en"}],
        says=("langg", "lang"),
    ),
    "an id field that is nowhere": Case(
        files={"a.jsonl": json_lines({"text": "a", "doc_id": 1})},
        flags="--id-field docid --strict",
        status=1,
        says=("docid", "doc_id"),
    ),
    **{
        f"an id of type {name}": Case(
            files={"x.parquet": {"text": ["x"], "id": pa.array([value], kind)}},
            documents=[(wanted, "x")],
        )
        for name, (kind, value, wanted) in _IDS.items()
    },
    "kept fields with names of ours": Case(
        files={"a.jsonl": json_lines({"text": "a", "source": "web", "meta": {"a": 1}, "part": 5})},
        flags="--keep-fields source,meta,part",
        meta=[{"source": "web", "meta": {"a": 1}, "part": 5}],
    ),
    "integers of 5,000 digits in a field that nobody asked for": Case(
        files={"a.jsonl": '{"id": "1", "text": "x", "n": %s}\n' % ("9" * 5000)},
        documents=[("1", "x")],
    ),
    "compressed files of no bytes": Case(
        files={"a.jsonl.gz": b"", "b.txt.zst": b"", "c.txt": b"x"},
        documents=[("c.txt", "x")],
        rejects={"damaged_input": 2},
    ),
    "a lone surrogate in a kept field": Case(
        files={"a.jsonl": '{"id":"1","text":"ok","k":"\\ud83d"}\n'},
        flags="--utf8 replace --keep-fields k",
        documents=[("1", "ok")],
        meta=[{"k": "\ufffd"}],
        says=("1 document: not Unicode",),
    ),
    "Parquet that is called .parquet.gzip": Case(
        files={"df.parquet.gzip": {"text": ["x"]}},
        documents=[("df.parquet.gzip#0", "x")],
        says=("is a Parquet file and not gzip data",),
    ),
    "TFRecord in a zlib stream": Case(
        files={"x.tfrecord.zz": zlib.compress(b"\0" * 500)},
        documents=[],
        rejects={"unread_format": 1},
        says=("a zlib stream, which is not read",),
    ),
    "a cache of the hub: blobs, links to them, and refs": Case(
        files={
            "datasets--me--c/blobs/52eb": "text of a blob",
            "datasets--me--c/refs/main": "abc",
            "datasets--me--c/snapshots/abc/README.md": Path("../../blobs/52eb"),
        },
        documents=[("datasets--me--c/snapshots/abc/README.md", "text of a blob")],
        says=("left out: 1 bookkeeping file of a dataset tool, 1 further name of a file",),
    ),
    "a dataset that was saved to disk": Case(
        files={
            "data.parquet": {"text": ["x"]},
            "state.json": "{}",
            "dataset_info.json": "{}",
        },
        documents=[("data.parquet#0", "x")],
        says=("left out: 2 bookkeeping files of dataset tools; see --include-leftovers",),
    ),
    "a package of Python": Case(
        files={"p/__init__.py": "a", "p/_util.py": "b", "p/_in/c.py": "c", "p/core.py": "d"},
        documents=[("p/core.py", "d")],
        says=("left out: 3 names that begin with _; see --include-hidden",),
    ),
    "a package of Python, all of it": Case(
        files={"p/__init__.py": "a", "p/_util.py": "b", "p/_in/c.py": "c", "p/core.py": "d"},
        flags="--include-hidden",
        documents=[
            ("p/__init__.py", "a"),
            ("p/_in/c.py", "c"),
            ("p/_util.py", "b"),
            ("p/core.py", "d"),
        ],
    ),
    "every shard cut at half of its bytes": Case(
        files={f"{n}.jsonl.gz": _HALF_OF_500_LINES for n in range(5)},
        flags="",
        status=1,
        says=("100 % of files (5 of 5)",),
    ),
    "zstd frames with the checksum of other data": Case(
        files={"a.txt.zst": _ZSTD[:-1] + b"?", "b.txt": b"y"},
        documents=[("b.txt", "y")],
        rejects={"damaged_input": 1},
    ),
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        path.symlink_to(content)
    elif isinstance(content, dict):
        pq.write_table(pa.table(content), path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", CASES)
def test_an_input_that_people_have_is_taken_as_they_expect(name, tmp_path, capsys):
    case = CASES[name]
    for path, content in case.files.items():
        write(tmp_path / "in" / path, content)
    output = tmp_path / "out"
    argv = ["--input", str(tmp_path / "in"), "--output", str(output), *case.flags.split()]
    assert command.main(encode, argv) == case.status
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    for words in case.says:
        assert words in said
    if case.status:
        return
    manifest = read_manifest(output, "byte_shards")
    paths = [manifest.shard_path(shard) for shard in manifest.shards]
    found = [read_back(parts) for path in paths for parts in read_documents(path)]
    if case.documents is not None:
        assert [(doc_id, raw.decode()) for doc_id, raw, _, _ in found] == case.documents
    if case.meta is not None:
        assert [meta and json.loads(meta) for *_, meta in found] == case.meta
    rejects = pq.read_table(output / "_rejects.parquet").to_pylist()
    assert Counter(reject["reason"] for reject in rejects) == case.rejects


def test_a_table_of_one_long_run_is_read_whole(tmp_path):
    table = pa.table({"text": pa.array(["x" * 99]).take(pa.array([0] * 50_000))})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    assert path.stat().st_size < 20_000
    argv = ["--input", str(path), "--output", str(tmp_path / "out")]
    assert command.main(encode, [*argv, "--max-decompression-ratio", "100"]) == 0
    assert read_manifest(tmp_path / "out").totals["documents"] == 50_000
