import gzip
import hashlib
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from blt.corpus import decode_dataset
from blt.corpus.planning.sources import read_sources, unit_sources_path
from blt.errors import WorkError
from tests.blt.corpus.helpers import encode, make_dataset


def parquet_bytes(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


MEMBERS = {
    "a.txt": b"one\ntwo",
    "d/b.jsonl": b'{"id": "b0", "text": "t0"}\nbroken\n',
    "d/c.jsonl.gz": gzip.compress(b'{"text": "packed"}\n'),
    "e.parquet": parquet_bytes(text=["p"]),
    "f.csv": b"text\nrow\n",
    "g": b"no suffix",
}


def tar_bytes(members, format=tarfile.PAX_FORMAT, special=()):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in special:
            tar.addfile(info)
    return out.getvalue()


def special(name, kind, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def encode_tar(tmp_path, data, name="x.tar", **options):
    (tmp_path / name).write_bytes(data)
    return encode(tmp_path / f"out-{name}", tmp_path / name, **options)


def texts(result):
    return [(source, raw) for _, raw, source, _ in result.documents]


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_each_member_is_read_as_a_file(tmp_path, suffix):
    result = encode_tar(tmp_path, PACK[suffix](tar_bytes(MEMBERS)), f"x.tar{suffix}")
    archive = f"x.tar{suffix}"
    assert texts(result) == [
        (f"{archive}/a.txt", b"one\ntwo"),
        (f"{archive}/d/b.jsonl", b"t0"),
        (f"{archive}/d/c.jsonl.gz", b"packed"),
        (f"{archive}/e.parquet", b"p"),
        (f"{archive}/f.csv", b"row"),
        (f"{archive}/g", b"no suffix"),
    ]
    assert result.documents[2][0] == f"{archive}/d/c.jsonl.gz#0"
    assert [(r["source"], r["reason"]) for r in result.rejects] == [
        (f"{archive}/d/b.jsonl", "invalid_json")
    ]


@pytest.mark.parametrize("name", ["x.tgz", "x", "x.dat"])
def test_archives_are_known_by_short_suffixes_and_by_content(tmp_path, name):
    data = tar_bytes({"a.txt": b"text"})
    data = gzip.compress(data) if name != "x" else data
    assert texts(encode_tar(tmp_path, data, name)) == [(f"{name}/a.txt", b"text")]


def test_links_devices_and_hidden_members_are_passed_over(tmp_path):
    odd = [
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "a.txt"),
        special("pipe", tarfile.FIFOTYPE),
        special("device", tarfile.CHRTYPE),
        special("folder", tarfile.DIRTYPE),
    ]
    members = {"a.txt": b"a", "._a.txt": b"mac", "d/.git": b"x", "_SUCCESS": b""}
    result = encode_tar(tmp_path, tar_bytes(members, special=odd))
    assert texts(result) == [("x.tar/a.txt", b"a")]
    assert (result.counts["filtered_unread_member"], result.rejects) == (4, [])
    assert result.counts["filtered_left_out_member"] == 3


def test_names_are_labels_and_nothing_is_written_by_them(tmp_path):
    names = ["../../up.txt", "/abs.txt", "a.txt", "a.txt", "l" * 300 + ".txt", "caf\udce9.txt"]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"%d" % number))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(out.getvalue())
    dataset = make_dataset(tmp_path / "data", tmp_path / "in")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    decode_dataset(dataset, tmp_path / "out")
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all((tmp_path / "out") in path.parents for path in made)
    assert sorted(path.read_bytes() for path in made) == [b"%d" % n for n in range(6)]


def test_members_are_mended_and_judged_as_files_are(tmp_path):
    members = {
        "a.txt": b"\xef\xbb\xbfone\r\n\xef\xbb\xbftwo\r\n\xff",
        "b.csv": b"id,text\n1,\xef\xbb\xbfrow\n",
        "c.txt.gz": gzip.compress(b"packed\r\n" * 9),
    }
    options = {"doc_per": "line", "strip_bom": True, "newlines": "lf", "utf8": "replace"}
    result = encode_tar(tmp_path, tar_bytes(members), min_bytes=4, **options)
    assert [raw for _, raw in texts(result)] == [
        b"\xef\xbb\xbftwo",
        *[b"packed"] * 9,
    ]
    assert result.counts["filtered_below_min_bytes"] == 3
    assert result.counts["invalid_utf8"] == 0  # what is filtered is not counted


def test_an_archive_is_accounted_as_one_file(tmp_path):
    cut = gzip.compress(b'{"text": "x"}\n{"text": ""}\n')[:-4]
    members = {"a.jsonl.gz": cut, "b.jsonl.gz": cut, "c.txt": b"c", ".hidden": b""}
    (tmp_path / "y.txt").write_bytes(b"yy")
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    result = encode(tmp_path / "out", tmp_path / "x.tar", tmp_path / "y.txt", min_bytes=1)
    archive, other = read_sources(unit_sources_path(tmp_path / "out", 0))
    assert (archive.source, archive.documents, archive.rejects) == ("x.tar", 3, 2)
    assert archive.filtered == 3  # two empty texts, a hidden member
    assert archive.records == 8
    assert archive.sha256 == hashlib.sha256((tmp_path / "x.tar").read_bytes()).hexdigest()
    assert (archive.damaged, other.damaged) == (True, False)
    assert result.counts["damaged_files"] == 1
    assert (other.source, other.documents, other.bytes) == ("y.txt", 1, 2)


def test_damage_in_a_member_drops_or_fails_the_archive(tmp_path):
    cut = gzip.compress(b'{"text": "x"}\n')[:-4]
    data = tar_bytes({"a.txt": b"a", "b.jsonl.gz": cut, "c.txt": b"c"})
    dropped = encode_tar(tmp_path, data, on_damaged_file="drop")
    assert (dropped.documents, dropped.counts["filtered_damaged_file"]) == ([], 3)
    message = r"x\.tar \(in it, x\.tar/b\.jsonl\.gz\): ends inside its gzip data"
    with pytest.raises(WorkError, match=message):
        encode_tar(tmp_path, data, on_damaged_file="fail")


def test_an_archive_inside_is_a_reject(tmp_path):
    inner = tar_bytes({"a.txt": b"x"})
    result = encode_tar(tmp_path, tar_bytes({"in.tgz": gzip.compress(inner), "b.txt": b"b"}))
    assert texts(result) == [("x.tar/b.txt", b"b")]
    assert [(r["source"], r["reason"]) for r in result.rejects] == [
        ("x.tar/in.tgz", "nested_archive")
    ]


def test_a_sparse_member_is_passed_over(tmp_path):
    info = tarfile.TarInfo("huge.txt")
    info.pax_headers = {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,1"}
    info.size = 1
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"x"))
    assert encode_tar(tmp_path, out.getvalue()).counts["filtered"] == 1


def test_a_damaged_member_does_not_stop_the_next(tmp_path):
    members = {"a.jsonl.gz": gzip.compress(b'{"text": "x"}\n')[:-4], "b.txt": b"b"}
    result = encode_tar(tmp_path, tar_bytes(members))
    assert texts(result)[-1] == ("x.tar/b.txt", b"b")
    assert [(r["source"], r["reason"]) for r in result.rejects] == [
        ("x.tar/a.jsonl.gz", "damaged_input")
    ]


DATA = tar_bytes({"a.txt": b"a" * 700, "b.txt": b"b" * 700})


@pytest.mark.parametrize(
    ("data", "num_kept"),
    [
        (DATA[:100], 0),
        (DATA[:1000], 0),
        (DATA[:1536], 1),
        (DATA[:1600], 1),
        (DATA[:2200], 1),
        (DATA[:3072], 2),
        (DATA + b"more", 2),
        (b"", 0),
    ],
)
def test_cut_and_altered_archives_are_damage_after_the_whole_members(tmp_path, data, num_kept):
    result = encode_tar(tmp_path, data)
    assert len(result.documents) == num_kept
    assert [(r["source"], r["reason"]) for r in result.rejects] == [("x.tar", "damaged_input")]


def test_a_damaged_head_costs_its_own_member_alone(tmp_path):
    for start, name in ((0, "b.txt"), (1536, "a.txt")):
        data = DATA[:start] + b"x" * 512 + DATA[start + 512 :]
        result = encode_tar(tmp_path, data)
        assert [source for source, _ in texts(result)] == [f"x.tar/{name}"]
        (reject,) = result.rejects
        assert (reject["source"], reject["position"]) == ("x.tar", start)
        assert reject["reason"] == "bad_record"
        assert result.counts["damaged_files"] == 0


def test_a_long_name_that_never_ends_is_damage(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 5 << 20
    data = info.tobuf(tarfile.GNU_FORMAT) + b"n" * (5 << 20)
    result = encode_tar(tmp_path, data)
    assert [r["detail"] for r in result.rejects] == ["a member's head declares 5242880 bytes"]


@pytest.mark.parametrize("options", [{}, {"doc_per": "line"}, {"doc_per": "paragraph"}])
def test_members_come_back(tmp_path, options):
    data = gzip.compress(tar_bytes(MEMBERS))
    (tmp_path / "x.tar.gz").write_bytes(data)
    dataset = make_dataset(tmp_path / "data", tmp_path / "x.tar.gz", **options)
    decode_dataset(dataset, tmp_path / "out")
    folder = tmp_path / "out" / "x.tar.gz"
    assert (folder / "a.txt").read_bytes() == MEMBERS["a.txt"]
    assert (folder / "g").read_bytes() == MEMBERS["g"]
    assert json.loads((folder / "d" / "c.jsonl").read_bytes())["text"] == "packed"


def test_raw_bytes_are_every_file_as_it_is(tmp_path):
    (tmp_path / "in").mkdir()
    files = {
        "a.gz": gzip.compress(b"x"),
        "b.tar": DATA,
        "c.jsonl": b"no json",
        "d.bin": bytes(range(256)) * 9,
        "e.parquet": b"",
    }
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    options = {"format": "bytes", "max_document_bytes": 100, "doc_per": "line"}
    dataset = make_dataset(tmp_path / "data", tmp_path / "in", **options)
    decode_dataset(dataset, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == files
    assert encode(tmp_path / "o", tmp_path / "in", **options).counts["documents"] == 5


def test_members_called_as_others_are_numbered_stay_apart(tmp_path):
    names = ["~2/a.txt", "a.txt", "a.txt", "~2/a.txt", "a.txt", "~3/a.txt"]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"%d" % number))
    (tmp_path / "x.tar").write_bytes(out.getvalue())
    result = encode(tmp_path / "out", tmp_path / "x.tar")
    assert [raw for _, raw, _, _ in result.documents] == [b"%d" % n for n in range(len(names))]
    assert len({source for _, _, source, _ in result.documents}) == len(names)
