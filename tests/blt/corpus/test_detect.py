import gzip
import io
import re
import zipfile

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
