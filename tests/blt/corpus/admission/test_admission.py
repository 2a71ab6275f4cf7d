"""`--utf8`, `--strip-bom`, `--newlines`, the filters, and what is done with damaged files."""

import errno
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.corpus.admission import admission
from blt.corpus.admission.filters import is_sampled
from blt.corpus.planning.sources import unit_sources_path
from blt.dataset.splits import is_held_out
from blt.errors import WorkError
from blt.formats.byte_shard import read_byte_shard
from tests.blt.corpus.helpers import encode

BAD = b"caf\xe9 \xf0\x9f"


def raws(result):
    return [raw for _, raw, _, _ in result.documents]


def write_lines(path, *texts):
    path.write_bytes(b"".join(json.dumps({"text": t}).encode() + b"\n" for t in texts))
    return path


def test_bytes_that_are_not_utf8_are_kept_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good \xc3\xa9\n" + BAD)
    result = encode(tmp_path / "out", tmp_path / "a.txt", doc_per="line")
    assert raws(result) == [b"good \xc3\xa9", BAD]
    assert result.counts["invalid_utf8"] == 1


def test_or_rejected(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good \xc3\xa9\n" + BAD)
    result = encode(tmp_path / "out", tmp_path / "a.txt", doc_per="line", utf8="reject")
    assert raws(result) == [b"good \xc3\xa9"]
    (reject,) = result.rejects
    assert (reject["reason"], reject["position"], reject["sample"]) == ("invalid_utf8", 8, BAD)
    assert result.counts["invalid_utf8"] == 0


def test_or_mended(tmp_path):
    (tmp_path / "a.txt").write_bytes(BAD)
    result = encode(tmp_path / "out", tmp_path / "a.txt", utf8="replace")
    assert raws(result) == ["caf\ufffd \ufffd".encode()]
    assert result.counts["invalid_utf8"] == 1


def test_a_mend_may_make_a_document_long_enough_for_parts(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff" * 4)
    result = encode(tmp_path / "out", tmp_path / "a.txt", utf8="replace", max_document_bytes=5)
    assert raws(result) == ["\ufffd".encode() * 4]
    records = list(read_byte_shard(tmp_path / "out" / "bytes-00000-000.tfrecord"))
    assert [record.num_parts for record in records] == [3, 3, 3]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_long_documents_are_mended_part_by_part(tmp_path, name, limit):
    data = b"\xef\xbb\xbfone \xe2\x82\xac\r\ntwo \xf0\x9f\x98\x80\r\r\n" + BAD
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    options = {"strip_bom": True, "newlines": "lf", "max_document_bytes": limit}
    mended = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    kept = encode(tmp_path / "kept", tmp_path / name, **options)
    assert (raws(kept), kept.counts["invalid_utf8"]) == ([mended], 1)
    plain = encode(tmp_path / "plain", tmp_path / name, max_document_bytes=limit)
    assert (raws(plain), plain.counts["invalid_utf8"]) == ([data], 1)
    replaced = encode(tmp_path / "replaced", tmp_path / name, utf8="replace", **options)
    assert raws(replaced) == [mended.decode("utf-8", "replace").encode()]
    rejected = encode(tmp_path / "rejected", tmp_path / name, utf8="reject", **options)
    assert (raws(rejected), len(rejected.rejects)) == ([], 1)
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith("tmp")]


def test_a_mark_is_cut_at_the_start_of_a_file_or_of_a_field_only(tmp_path):
    bom = "\ufeff"
    (tmp_path / "a.txt").write_text(f"{bom}one\n{bom}two\n", "utf-8")
    lines = encode(tmp_path / "o1", tmp_path / "a.txt", doc_per="line", strip_bom=True)
    assert raws(lines) == [b"one", f"{bom}two".encode()]
    write_lines(tmp_path / "a.jsonl", f"{bom}x", f"y{bom}")
    fields = encode(tmp_path / "o2", tmp_path / "a.jsonl", strip_bom=True)
    assert raws(fields) == [b"x", f"y{bom}".encode()]


def test_the_cr_before_a_cut_lf_goes_too(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\nt\rwo\r\r\nthree\r")
    result = encode(tmp_path / "out", tmp_path / "a.txt", doc_per="line", newlines="lf")
    assert raws(result) == [b"one", b"", b"t\rwo\r", b"three\r"]


def test_lone_surrogates_are_rejects_or_one_replacement_each(tmp_path):
    lines = [
        b'{"id": "lone", "text": "a\\ud800b"}',
        b'{"id": "pair", "text": "\\ud83d\\ude00"}',
        b'{"id": "mixed", "text": "\\udc00 \xff"}',
        b'{"id": "id only", "text": "fine", "lang": "\\ud800"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    kept = encode(tmp_path / "o1", tmp_path / "a.jsonl")
    assert [reject["reason"] for reject in kept.rejects] == ["lone_surrogate"] * 2
    result = encode(tmp_path / "o2", tmp_path / "a.jsonl", utf8="replace")
    assert raws(result) == [
        "a\ufffdb".encode(),
        "\U0001f600".encode(),
        "\ufffd \ufffd".encode(),
        b"fine",
    ]
    assert result.counts["invalid_utf8"] == 2


def test_lengths_are_those_of_the_mended_bytes_and_each_filter_counts(tmp_path):
    write_lines(tmp_path / "a.jsonl", "a\r\n", "ab\r\n", "abcd", "abcde")
    (tmp_path / "a.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes() + b"\n")
    options = {"min_bytes": 3, "max_bytes": 4, "newlines": "lf"}
    for limit in (1000, 2):
        result = encode(
            tmp_path / f"out{limit}", tmp_path / "a.jsonl", **options, max_document_bytes=limit
        )
        assert raws(result) == [b"ab\n", b"abcd"]
        filtered = {k: v for k, v in result.counts.items() if k.startswith("filtered") and v}
        assert filtered == {
            "filtered": 3,
            "filtered_blank": 1,
            "filtered_below_min_bytes": 1,
            "filtered_above_max_bytes": 1,
        }


def test_a_sample_is_chosen_by_id_and_grows_with_its_share(tmp_path):
    rows = [{"id": f"doc {i}", "text": "x"} for i in range(400)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    chosen = {}
    for name, share in (("a", 0.1), ("b", 0.1), ("a", 0.5)):
        result = encode(tmp_path / f"{name}{share}", tmp_path / f"{name}.jsonl", sample=share)
        chosen[name, share] = {doc_id for doc_id, _, _, _ in result.documents}
        assert result.counts["filtered_not_sampled"] == 400 - len(chosen[name, share])
    assert chosen["a", 0.1] == chosen["b", 0.1] < chosen["a", 0.5]
    assert 20 < len(chosen["a", 0.1]) < 60
    assert 150 < len(chosen["a", 0.5]) < 250
    sampled = [f"doc {i}" for i in range(400) if is_sampled(f"doc {i}", 0.1)]
    assert not all(is_held_out(doc_id) for doc_id in sampled)


def cut_archive(folder):
    lines = b"".join(b'{"text": "%d %s"}\n' % (i, b"x" * (i % 77)) for i in range(3000))
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b'{"text": "whole"}\n')
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0)[:5000])
    (folder / "c.jsonl").write_bytes(b'{"text": "whole too"}\n')
    return folder


def test_a_damaged_file_is_kept_up_to_its_damage_or_dropped(tmp_path):
    folder = cut_archive(tmp_path / "in")
    kept = encode(tmp_path / "kept", folder)
    assert len(kept.documents) > 500
    dropped = encode(tmp_path / "dropped", folder, on_damaged_file="drop")
    assert raws(dropped) == [b"whole", b"whole too"]
    assert dropped.counts["filtered_damaged_file"] == len(kept.documents) - 2
    assert dropped.rejects == kept.rejects
    assert [reject["source"] for reject in kept.rejects] == ["b.jsonl.gz"]
    for result in (kept, dropped):
        rows = pq.read_table(unit_sources_path(result.folder, 0)).to_pylist()
        assert [row["damaged"] for row in rows] == [False, True, False]
        assert rows[1]["rejects"] == 1
        assert [r["records"] for r in rows] == [
            r["documents"] + r["filtered"] + r["rejects"] for r in rows
        ]


def test_or_the_work_fails_and_names_it(tmp_path):
    folder = cut_archive(tmp_path / "in")
    with pytest.raises(WorkError, match=r"b\.jsonl\.gz: ends inside its gzip data.*fail"):
        encode(tmp_path / "out", folder, on_damaged_file="fail")


def test_a_long_line_loses_its_cr_too(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"0123456789\r\n0123456789\r")
    result = encode(
        tmp_path / "out", tmp_path / "a.txt", doc_per="line", newlines="lf", max_document_bytes=3
    )
    assert raws(result) == [b"0123456789", b"0123456789\r"]


def test_a_damaged_parquet_file_is_dropped_as_a_whole(tmp_path):
    rows = pa.table({"text": [f"row {i} " * 20 for i in range(100)]})
    path = tmp_path / "a.parquet"
    pq.write_table(
        rows,
        path,
        row_group_size=10,
        write_page_checksum=True,
        compression="none",
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"row 95 ")] ^= 1
    path.write_bytes(data)
    kept = encode(tmp_path / "kept", path, target_shard_bytes=3000)
    assert len(kept.documents) == 90
    dropped = encode(tmp_path / "dropped", path, target_shard_bytes=3000, on_damaged_file="drop")
    assert dropped.documents == []
    assert (dropped.counts["filtered_damaged_file"], dropped.counts["damaged_files"]) == (90, 1)


def test_a_full_disk_is_named_where_a_document_is_mended(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.txt").write_bytes(b"0123456789")
    monkeypatch.setattr(admission.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(WorkError, match=r"units: a temporary file cannot be written \(No space"):
        encode(tmp_path / "out", tmp_path / "a.txt", max_document_bytes=3, newlines="lf")
