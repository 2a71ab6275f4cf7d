import gzip
import io
import re
import zipfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.corpus.detect import detect
from tests.blt.corpus.helpers import encode
from tests.blt.corpus.test_tar import tar_bytes


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
    assert reject["sample"] == UNREAD[name][:16]
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
    (tmp_path / "a.gz").write_bytes(gzip.compress(data))
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
    (tmp_path / name).write_bytes(gzip.compress(data) if "gz" in name else data)
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
