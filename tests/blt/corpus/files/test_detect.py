import gzip
import io
import json
import re
import zipfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from blt.corpus import decode_dataset, discover_inputs
from blt.corpus.files.detect import detect
from blt.corpus.files.standard_input import keep_standard_input
from blt.corpus.planning.sources import read_sources
from blt.corpus.summary import summary_lines
from blt.dataset.manifest import read_manifest
from blt.formats.tfrecord import masked_crc32c
from tests.blt.corpus.helpers import encode, make_dataset
from tests.blt.corpus.readers.test_tar import tar_bytes
from tests.blt.corpus.readers.test_tfrecord_reader import example


def zip_bytes():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "text")
    return out.getvalue()


UNREAD = {
    "a.zip": zip_bytes(),
    "a.docx": zip_bytes(),
    "a": b"7z\xbc\xaf\x27\x1c\0\4",
    "a.txt.Z": b"\x1f\x9d\x90",
    "a.txt.lzma": b"]\0\0\x80\0",
    "a.orc": b"ORC",
    "a.db": b"SQLite format 3\0",
}


@pytest.mark.parametrize("name", sorted(UNREAD))
def test_what_is_known_and_not_read_is_a_reject_that_names_it(tmp_path, name):
    (tmp_path / name).write_bytes(UNREAD[name])
    detected = detect(str(tmp_path / name))
    assert "which is not read" in detected.note
    result = encode(tmp_path / "out", tmp_path / name)
    (reject,) = result.rejects
    assert (reject["source"], reject["reason"]) == (name, "unread_format")
    assert reject["sample"] == UNREAD[name][:32]
    as_bytes = encode(tmp_path / "bytes", tmp_path / name, format="bytes")
    assert [raw for _, raw, _, _ in as_bytes.documents] == [UNREAD[name]]


def test_in_an_archive_too(tmp_path):
    members = {"x/" + name: data for name, data in UNREAD.items()}
    (tmp_path / "a.tar").write_bytes(tar_bytes({**members, "b.txt": b"b"}))
    result = encode(tmp_path / "out", tmp_path / "a.tar")
    assert [(raw, source) for _, raw, source, _ in result.documents] == [(b"b", "a.tar/b.txt")]
    assert [reject["source"] for reject in result.rejects] == ["a.tar/" + name for name in members]
    assert {reject["reason"] for reject in result.rejects} == {"unread_format"}


def test_a_name_that_says_text_is_believed(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"PK\x03\x04 begins a zip archive")
    assert detect(str(tmp_path / "a.txt")).format == "text"


@pytest.mark.parametrize(
    ("name", "data", "note"),
    [
        ("a.json", b'[{"text": "x"}]', "no JSON Lines"),
        ("a.json", b'{\n "text": "x"\n}', "no JSON Lines"),
        ("a.json", b'{"text": "x"}\n', None),
        ("a.txt", "x".encode("utf-16"), "UTF-16"),
        ("a.jsonl", "{}".encode("utf-32"), "UTF-16"),
        ("a.txt", b"\xef\xbb\xbfx", None),
    ],
)
def test_what_the_user_should_know_of_a_file_is_noted(tmp_path, name, data, note):
    (tmp_path / name).write_bytes(data)
    found = detect(str(tmp_path / name)).note
    assert found is None if note is None else note in found


@pytest.mark.parametrize("data", [zip_bytes(), b"PAR1\x15\x04", b"ARROW1\0\0"])
def test_what_gzip_holds_is_told_without_a_suffix_too(tmp_path, data):
    (tmp_path / "a.gz").write_bytes(gzip.compress(data, mtime=0))
    (reject,) = encode(tmp_path / "out", tmp_path / "a.gz").rejects
    assert reject["reason"] in ("unread_format", "damaged_input")
    assert re.search(
        "zip archive|Parquet file inside gzip|Arrow file inside gzip", reject["detail"]
    )


OBJECTS = b'{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("out.csv-00000-of-00002", "csv"),
        ("out.csv.gz-00000-of-00002", "csv"),
        ("out.tsv-00001-of-00002.gz", "tsv"),
        ("log.jsonl.3", "jsonl"),
        ("x.parquet_0004", "parquet"),
        ("notes.txt-2", "text"),
        ("report-2024", "text"),
    ],
)
def test_a_suffix_may_stand_before_the_number_of_a_shard(tmp_path, name, expected):
    data = b"PAR1" if expected == "parquet" else b"text,b\n1,2\n"
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if "gz" in name else data)
    found = detect(str(tmp_path / name))
    assert found.format == expected
    assert found.compression == ("gzip" if "gz" in name else "plain")
    assert found.note is None


def test_shards_of_beam_are_read_as_what_they_are(tmp_path):
    for number, text in enumerate("ab"):
        shard = tmp_path / "in" / f"out.csv-0000{number}-of-00002"
        shard.parent.mkdir(exist_ok=True)
        shard.write_text(f"id,text\n{number},{text}\n")
    (tmp_path / "in" / "x.tar").write_bytes(tar_bytes({"t.csv-00000-of-00001": b"text\nc\n"}))
    result = encode(tmp_path / "out", tmp_path / "in")
    assert [raw for _, raw, _, _ in result.documents] == [b"a", b"b", b"c"]


def test_a_parquet_file_is_one_whatever_compression_its_name_claims(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "df.parquet.gzip")
    found = detect(str(tmp_path / "df.parquet.gzip"))
    assert (found.format, found.compression) == ("parquet", "plain")
    assert "is a Parquet file and not gzip data" in found.note
    result = encode(tmp_path / "out", tmp_path / "df.parquet.gzip")
    assert [raw for _, raw, _, _ in result.documents] == [b"a", b"b"]


@pytest.mark.parametrize("first", [b'{"text": "cut\n', b'xt": "the end of a line"}\n'])
def test_json_lines_with_a_damaged_first_line_are_json_lines(tmp_path, first):
    (tmp_path / "part-00000").write_bytes(first + OBJECTS)
    found = detect(str(tmp_path / "part-00000"))
    assert found.format == "jsonl"
    assert "its first line is no JSON object" in found.note
    result = encode(tmp_path / "out", tmp_path / "part-00000")
    assert [raw for _, raw, _, _ in result.documents] == [b"a", b"b", b"c"]
    assert [reject["reason"] for reject in result.rejects] == ["invalid_json"]


@pytest.mark.parametrize(
    "data", [b"A title\n" + OBJECTS + b"and words\n", b'a\n{"text": "a"}\n', b"[\n{}\n{}\n]\n"]
)
def test_text_in_which_json_stands_is_text(tmp_path, data):
    (tmp_path / "notes").write_bytes(data)
    assert detect(str(tmp_path / "notes")).format == "text"


@pytest.mark.parametrize("name", ["z.tfrecord.zz", "zz.tfrecord-00000-of-00001", "z", "z.txt"])
@pytest.mark.parametrize("level", [0, 1, 3, 6, 9])
def test_zlib_data_are_never_text(tmp_path, name, level):
    (tmp_path / name).write_bytes(zlib.compress(bytes(range(256)) * 40, level))
    (reject,) = encode(tmp_path / "out", tmp_path / name).rejects
    assert reject["reason"] == "unread_format"
    assert "a zlib stream, which is not read" in reject["detail"]


@pytest.mark.parametrize("data", [b"x^2 + y^2 = z^2\n", b"x\x9c in Latin-1", b"x", b"x\x01"])
def test_text_that_begins_like_zlib_is_text(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    assert detect(str(tmp_path / "a.txt")).format == "text"


@pytest.mark.parametrize("name", ["inputrc.arrows", "words.arrow"])
def test_text_with_the_suffix_of_arrow_is_text_and_noted(tmp_path, name):
    (tmp_path / name).write_text("# set bell-style none\n" + "ä" * 3000)
    found = detect(str(tmp_path / name))
    assert (found.format, "is text and not a" in found.note) == ("text", True)
    (tmp_path / name).write_bytes(b"\x10\x01\0\0" * 40)  # damage stays damage
    assert detect(str(tmp_path / name)).format == "arrow"
    (tmp_path / "words.parquet").write_text("no table")  # and Parquet's name means Parquet
    assert detect(str(tmp_path / "words.parquet")).format == "parquet"


def frame(data):
    """Returns bytes as a record of TFRecord."""
    head = len(data).to_bytes(8, "little")
    return b"".join(
        (
            head,
            masked_crc32c(head).to_bytes(4, "little"),
            data,
            masked_crc32c(data).to_bytes(4, "little"),
        )
    )


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 12\n" % (b"0" * 64)


def parquet_bytes():
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), out)
    return out.getvalue()


def arrow_bytes(new=pa.ipc.new_file):
    out = io.BytesIO()
    with new(out, pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": ["a", "b"]}))
    return out.getvalue()


WARC = b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Length: 1\r\n\r\na\r\n\r\n"
# Name and content of a file, and its format.
SAMPLES = [
    ("part-00000", OBJECTS, "jsonl"),
    ("part-00000", b"cut\n" + OBJECTS, "jsonl"),
    ("part-00000.gz", gzip.compress(OBJECTS, mtime=0), "jsonl"),
    ("part-00001", gzip.compress(OBJECTS, mtime=0), "jsonl"),
    ("x.json", OBJECTS, "jsonl"),
    ("x.jsonl.3", OBJECTS, "jsonl"),
    ("x.jsonl", gzip.compress(OBJECTS, mtime=0), "jsonl"),
    ("x.json", b'{"name": "x", "version": 1}\n', "text"),
    ("x.json", b'{\n "name": "x"\n}\n', "text"),
    ("x.json", b'[{"text": "x"}]\n', "text"),
    ("data", parquet_bytes(), "parquet"),
    ("data.csv", parquet_bytes(), "parquet"),
    ("data.jsonl", arrow_bytes(), "arrow"),
    ("data.csv", zip_bytes(), "unread"),
    ("data.parquet", zip_bytes(), "unread"),
    ("df.parquet.gzip", parquet_bytes(), "parquet"),
    ("data", arrow_bytes(), "arrow"),
    ("data", arrow_bytes(pa.ipc.new_stream), "arrow"),
    ("data.gz", gzip.compress(arrow_bytes(pa.ipc.new_stream), mtime=0), "arrow"),
    ("data.bin", b"\xff\xff\xff\xff\x07\0\0\0", "text"),
    ("rc.arrows", b"# words\n", "text"),
    ("b.arrow", LFS_POINTER, "unread"),
    ("pointer.jsonl", LFS_POINTER, "unread"),
    ("readme.txt", LFS_POINTER, "text"),
    ("crawl", WARC, "warc"),
    ("crawl.gz", gzip.compress(WARC, mtime=0), "warc"),
    ("out.csv-00000-of-00002", b"text\na\n", "csv"),
    ("out.csv.gz-00000-of-00002", gzip.compress(b"text\na\n", mtime=0), "csv"),
    ("z.tfrecord.zz", zlib.compress(frame(b"x") * 9), "unread"),
    ("z.tfrecord", zlib.compress(frame(b"x") * 9), "unread"),
    ("z.txt", zlib.compress(bytes(range(256)) * 9), "unread"),
    ("tf", frame(b"x") * 2, "tfrecord"),
    ("a.zip", zip_bytes(), "unread"),
    ("a.py", b"print()\n", "text"),
    ("a.gz", b"", "text"),  # which is damage
    ("part-00003", b"", "empty"),
    ("part-00003.gz", gzip.compress(b"", mtime=0), "empty"),
]


def described(records):
    """What documents and rejects say, whatever their source is called."""
    documents = [(doc_id.rpartition("/")[2], raw) for doc_id, raw, _, _ in records.documents]
    names = ("reason", "position", "detail", "sample")
    rejects = [tuple(reject[name] for name in names) for reject in records.rejects]
    return sorted(documents + rejects, key=str)


@pytest.mark.parametrize(("name", "data", "expected"), SAMPLES)
def test_a_file_meets_the_same_verdict_wherever_it_lies(tmp_path, name, data, expected):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(data)
    assert detect(str(path)).format == expected
    alone = encode(tmp_path / "alone", path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x.tar").write_bytes(tar_bytes({"d/" + name: data}))
    member = encode(tmp_path / "member", tmp_path / "kept" / "x.tar")
    assert described(member) == described(alone)
    for other in ("a.txt", "b.jsonl"):
        (tmp_path / "in" / other).write_bytes(OBJECTS)
    beside = encode(tmp_path / "beside", tmp_path / "in")
    beside.documents = [d for d in beside.documents if d[2] == name]
    assert described(beside) == described(alone)


@pytest.mark.parametrize(
    ("data", "expected"), [s[1:] for s in SAMPLES if "." not in s[0]] + [(b"text,b\n", "text")]
)
def test_standard_input_is_told_as_a_file_without_a_suffix_is(tmp_path, data, expected):
    path = tmp_path / "out.csv.stdin"  # beside an output of that name
    kept = keep_standard_input(io.BufferedReader(io.BytesIO(data)), path)
    (file,) = discover_inputs(["-"], standard_input=kept).files
    assert detect(file.path).format == expected


def test_members_that_were_told_by_content_are_counted_and_come_back(tmp_path):
    members = {"part-0": OBJECTS, "b.txt": b"b", "c.json": b'{"name": 1}\n', "none": b""}
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    dataset = make_dataset(tmp_path / "data", tmp_path / "x.tar")
    totals = read_manifest(dataset, "byte_shards").totals
    assert (totals["documents"], totals["told_members"], totals["empty_inputs"]) == (5, 3, 1)
    assert totals["json_as_text"] == 1
    lines = "\n".join(summary_lines(read_manifest(dataset, "byte_shards")))
    assert "3 members of archives told by content, not by name alone; _sources.parquet" in lines
    assert "1 text (files, members of archives) looks like JSON Lines, but lacks" in lines
    assert "1 empty input (files, members of archives): no records" in lines
    (row,) = read_sources(dataset / "_sources.parquet")
    told = {"x.tar/part-0": "jsonl", "x.tar/c.json": "text", "x.tar/none": "empty"}
    assert dict(row.told) == told
    decode_dataset(dataset, tmp_path / "out")
    lines = (tmp_path / "out/x.tar/part-0.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == ["x.tar/part-0#0", "x.tar/part-0#14", "x.tar/part-0#28"]
    assert (tmp_path / "out/x.tar/c.json").read_bytes() == members["c.json"]


def test_what_a_link_leads_to_tells_its_format_if_its_own_name_does_not(tmp_path):
    for name in ("x.csv.gz", "y.csv-00000-of-00001", "z.tsv"):
        (tmp_path / name).write_bytes(
            gzip.compress(b"text\na\n", mtime=0) if "gz" in name else b"text\na\n"
        )
    for name, target in (("1", "x.csv.gz"), ("2", "y.csv-00000-of-00001"), ("3.txt", "z.tsv")):
        (tmp_path / name).symlink_to(target)
    found = {name: detect(str(tmp_path / name)) for name in ("1", "2", "3.txt")}
    assert [f.format for f in found.values()] == ["csv", "csv", "text"]
    assert found["1"].compression == "gzip"


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.tfrecord", "data.arrow"])
def test_a_parquet_file_with_the_suffix_of_another_table_is_one_and_noted(tmp_path, name):
    (tmp_path / name).write_bytes(parquet_bytes())
    found = detect(str(tmp_path / name))
    assert found.format == "parquet"
    assert f"is a Parquet file and not {name.partition('.')[2]} data" in found.note
    (tmp_path / "a.txt").write_bytes(parquet_bytes())  # a name that says text is believed
    assert detect(str(tmp_path / "a.txt")).format == "text"
    assert detect(str(tmp_path / name), "jsonl").format == "jsonl"


@pytest.mark.parametrize("head", [b"PAR1", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x89LZO\0"])
def test_a_damaged_first_record_that_looks_like_another_format_is_a_damaged_record(tmp_path, head):
    for name, data in (("a.jsonl", OBJECTS), ("a.warc", WARC * 2), ("a.tfrecord", frame(b"") * 3)):
        (tmp_path / name).write_bytes(head + data[len(head) :])
        assert detect(str(tmp_path / name)).format == name.partition(".")[2]
        assert detect(str(tmp_path / name)).compression == "plain"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.tfrecord", "a.warc", "a", "a.py"])
def test_an_empty_shard_is_nothing_and_counted(tmp_path, name):
    (tmp_path / name).touch()
    result = encode(tmp_path / "out", tmp_path / name)
    counts = {name: result.counts[name] for name in ("documents", "rejects", "empty_inputs")}
    assert counts == {"documents": 0, "rejects": 0, "empty_inputs": 1}


@pytest.mark.parametrize(
    ("name", "options"), [("a.txt", {}), ("a", {"format": "text"}), ("a.csv", {"format": "bytes"})]
)
def test_where_text_is_asked_for_an_empty_file_is_an_empty_document(tmp_path, name, options):
    (tmp_path / name).touch()
    result = encode(tmp_path / "out", tmp_path / name, **options)
    assert [raw for _, raw, _, _ in result.documents] == [b""]
    assert result.counts["empty_inputs"] == 0


@pytest.mark.parametrize("name", ["a.gz", "a.jsonl.zst", "a.parquet", "a.arrow", "a.tar"])
def test_an_empty_file_of_a_format_that_cannot_be_empty_is_damage(tmp_path, name):
    (tmp_path / name).touch()
    (reject,) = encode(tmp_path / "out", tmp_path / name).rejects
    assert reject["reason"] == "damaged_input"


@pytest.mark.parametrize(
    ("data", "expected", "note"),
    [
        (b'{"name": "x", "private": true}\n', "text", "the field 'text' (it has: name, private)"),
        (b'{"msg": 1}\n{"msg": 2}\n{"msg": 3}\n', "text", "(it has: msg); taken as one text"),
        (b'{"header": 1}\n{"text": "a"}\n', "jsonl", None),
        (b"", "empty", None),
        (b'{"text": "cut', "jsonl", None),
        (b'{"x": "%s"}' % (b"x" * 3_000_000), "text", "(it has: x)"),
        (b'{"x": "%s", "text": "a"}' % (b"x" * 3_000_000), "jsonl", None),
    ],
)
def test_what_only_looks_like_json_lines_must_have_the_text_field(tmp_path, data, expected, note):
    for name in ("x.json", "x"):
        (tmp_path / name).write_bytes(data)
        found = detect(str(tmp_path / name))
        assert found.format == expected
        assert found.note is None if note is None else note in found.note
        (tmp_path / name).unlink()
    (tmp_path / "x.jsonl").write_bytes(data)  # its name says it
    assert detect(str(tmp_path / "x.jsonl")).format == "jsonl"


def test_of_damaged_data_nothing_is_guessed(tmp_path):
    (tmp_path / "part-0.json.gz").write_bytes(b"no\0gzip")
    (tmp_path / "part-1.csv").write_bytes(b"text\na\n")
    found = detect(str(tmp_path / "part-0.json.gz"))
    assert (found.format, found.note, found.is_default) == ("text", None, False)


@pytest.mark.parametrize("options", [{}, {"doc_per": "line", "target_shard_bytes": 20}])
def test_files_that_look_like_json_and_are_text_are_counted(tmp_path, options):
    for name in ("a.json", "b"):
        (tmp_path / name).write_bytes(b'{"msg": 1}\n{"msg": 2}\n{"msg": 3}\n')
    (tmp_path / "c.json").write_bytes(b"[1]")
    result = encode(tmp_path / "out", tmp_path / "a.json", tmp_path / "b", **options)
    assert result.counts["json_as_text"] == 2


def test_the_text_field_may_lie_in_an_object(tmp_path):
    (tmp_path / "x").write_bytes(b'{"doc": {"text": "a"}}\n')
    assert detect(str(tmp_path / "x"), text_field="doc.text").format == "jsonl"
    assert detect(str(tmp_path / "x")).format == "text"


PACKED_NAMES = {
    "plain text": ("a.txt.gz", b"a text\n", "plain", "uncompressed data"),
    "plain JSON Lines": ("a.jsonl.gz", OBJECTS, "plain", "uncompressed data"),
    "plain text of no format": ("a.gz", b"a text\n", "plain", "uncompressed data"),
    "zstd": ("a.jsonl.gz", zstandard.compress(OBJECTS), "zstd", "zstd data"),
    "gzip": ("a.txt.bz2", gzip.compress(b"a text\n"), "gzip", "gzip data"),
    "a plain tar": ("a.tar.gz", tar_bytes({"t.txt": b"a text\n"}), "plain", "uncompressed data"),
    "a plain TFRecord": (
        "a.tfrecord.gz",
        example(text=[b"a text"]),
        "plain",
        "uncompressed data",
    ),
}


@pytest.mark.parametrize("case", PACKED_NAMES.values(), ids=PACKED_NAMES)
def test_a_file_that_is_not_of_the_compression_in_its_name_is_read_by_its_content(case, tmp_path):
    """Was: a reject, "is not gzip data"; a client may decompress what it downloads."""
    name, data, compression, words = case
    (tmp_path / name).write_bytes(data)
    found = detect(str(tmp_path / name))
    assert found.compression == compression
    assert f"{name}: is {words} and not " in found.note
    result = encode(tmp_path / "out", tmp_path / name)
    assert result.documents
    assert not result.rejects


@pytest.mark.parametrize(
    ("name", "data", "reason", "words"),
    [
        ("a.jsonl.gz", b"<!DOCTYPE html><p>Not found", "damaged_input", "is not gzip data"),
        ("a.txt.gz", b"<?xml version='1.0'?><Error>", "damaged_input", "is not gzip data"),
        ("a.txt.zst", b"a text", "damaged_input", "is not zstd data"),
        ("a.txt.gz", b"\x1f\x8c\x08 altered", "damaged_input", "is not gzip data"),
        ("a.txt.gz", b"PK\x03\x04 and more", "unread_format", "a zip archive, which is not read"),
        ("a.txt.zst", zlib.compress(bytes(range(256))), "unread_format", "a zlib stream"),
        ("a.jsonl.gz", LFS_POINTER, "unread_format", "get that by `git lfs pull`"),
    ],
)
def test_what_is_no_text_either_is_a_reject_that_says_so(tmp_path, name, data, reason, words):
    (tmp_path / name).write_bytes(data)
    result = encode(tmp_path / "out", tmp_path / name)
    assert not result.documents
    ((found, detail),) = [(reject["reason"], reject["detail"]) for reject in result.rejects]
    assert (found, words in detail) == (reason, True)


@pytest.mark.parametrize("magic", [b"PAR1", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"text"])
def test_a_damaged_head_that_looks_like_something_else_costs_no_other_member(tmp_path, magic):
    members = [gzip.compress(line + b"\n", mtime=0) for line in OBJECTS.splitlines()]
    (tmp_path / "a.jsonl.gz").write_bytes(magic + b"".join(members)[len(magic) :])
    result = encode(tmp_path / "out", tmp_path / "a.jsonl.gz")
    assert len(result.documents) == len(members) - 1
    assert [reject["reason"] for reject in result.rejects] == ["damaged_input"]
