"""`--max-lost-fraction`: loss is measured in what was lost, and said with its shares and files."""

import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.commands import decode, inspect
from blt.corpus.admission.filters import FILTERS
from blt.dataset.manifest import read_manifest
from tests.blt.corpus.readers.test_tar import tar_bytes
from tests.pipelines.test_encode import run
from tests.shared import dataset_files


def write_lines(folder, num_files, cut_from=None, **shape):
    """Writes `.jsonl.gz` files, from one on cut to half of their bytes."""
    folder.mkdir(exist_ok=True)
    for index in range(num_files):
        rows = [{"text": f"document {index} {n} " + "x" * (n * 7919 % 60)} for n in range(100)]
        data = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
        is_cut = cut_from is not None and index >= cut_from
        (folder / f"{index:03d}.jsonl.gz").write_bytes(data[: len(data) // 2] if is_cut else data)


def write_tables(folder, *columns, suffix="parquet", num_rows=50):
    folder.mkdir(exist_ok=True)
    for index, (name, values) in enumerate(columns):
        table = pa.table({"id": list(range(num_rows)), name: values * num_rows})
        path = folder / f"{index}.{suffix}"
        if suffix == "parquet":
            pq.write_table(table, path)
        elif suffix == "arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        else:
            rows = "".join(f"{n},{values[0]}\n" for n in range(num_rows))
            path.write_text(f"id,{name}\n{rows}")


def test_a_corpus_of_cut_shards_fails(tmp_path, capsys):
    write_lines(tmp_path / "in", 40, cut_from=0)
    argv = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert run(*argv) == 1
    err = capsys.readouterr().err
    assert "100 % of files (40 of 40)" in err
    assert re.search(r"most in \d+\.jsonl\.gz \(1 record: damaged_input\), ", err)
    assert err.strip().count("\n") == 0
    assert list((tmp_path / "out").glob("bytes-*"))  # what is done is kept
    assert not (tmp_path / "out" / "_manifest.json").exists()
    # Whoever comes later is told why.
    assert command.main(inspect, [str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "The last run failed: " in out
    assert "100 % of files (40 of 40)" in out
    assert re.search(r"most in \d+\.jsonl\.gz \(1 record: damaged_input\), ", out)
    # With the limit raised it ends as if it had been so from the start.
    assert run(*argv, "--max-lost-fraction", "1") == 0
    argv = ("--input", tmp_path / "in", "--output", tmp_path / "at once")
    assert run(*argv, "--max-lost-fraction", "1") == 0
    assert dataset_files(tmp_path / "out") == dataset_files(tmp_path / "at once")


def test_one_cut_file_of_many_passes_and_is_told(tmp_path, capsys):
    write_lines(tmp_path / "in", 120, cut_from=119)
    argv = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert run(*argv) == 0
    out = capsys.readouterr().out
    assert "0.833 % of files (1 of 120)" in out
    manifest = read_manifest(tmp_path / "out")
    assert manifest.lost["shares"]["files"] == pytest.approx(1 / 120, abs=1e-6)
    (lost,) = manifest.lost["inputs"]
    assert (lost["source"], lost["reason"], lost["records"]) == (
        "119.jsonl.gz",
        "damaged_input",
        1,
    )
    assert run(*argv, "--json") == 0
    assert json.loads(capsys.readouterr().out)["lost"] == manifest.lost


def test_files_that_are_not_utf8_are_named(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.txt").write_text(f"text {number}\n" * 50)
    (folder / "logo").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (folder / "latin.txt").write_bytes(b"caf\xe9\n" * 60 + b"more\n" * 40)
    argv = ["--input", folder, "--output", tmp_path / "out", "--doc-per", "line"]
    # One file in several units is one file.
    assert run(*argv, "--target-shard-bytes", "200") == 0
    named = "latin.txt (60 of 100 documents; the first is latin.txt#0), logo (2 of 4 documents; "
    assert f"not UTF-8 in 2 files: {named}" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out")
    assert manifest.invalid_utf8["inputs"] == [
        {"source": "latin.txt", "documents": 100, "invalid_utf8": 60, "first": "latin.txt#0"},
        {"source": "logo", "documents": 4, "invalid_utf8": 2, "first": "logo#0"},
    ]
    rows = pq.read_table(tmp_path / "out" / "_sources.parquet").to_pylist()
    found = {row["source"]: row["invalid_utf8"] for row in rows if row["invalid_utf8"]}
    assert found == {"latin.txt": 60, "logo": 2}
    assert sum(found.values()) == manifest.totals["invalid_utf8"]
    assert command.main(inspect, [str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Files with documents that are not UTF-8, 2:" in out
    assert "  latin.txt (60 of 100 documents; the first" in out


def test_a_member_that_is_not_utf8_is_named_too(tmp_path, capsys):
    members = {f"{n}.txt": b"text" for n in range(9)} | {"logo.png": b"\x89PNG\xff"}
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    (tmp_path / "b.txt").write_bytes(b"\xff")
    argv = ["--input", tmp_path / "a.tar", tmp_path / "b.txt", "--output", tmp_path / "out"]
    assert run(*argv) == 0
    expected = "2 files: a.tar (1 of 10 documents; the first is a.tar/logo.png), b.txt (1 of 1 "
    assert f"{expected}document); --exclude leaves files out" in capsys.readouterr().out


def test_inspect_names_files_with_rejects_and_counts_the_rest(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        bad = "broken\n" * (number + 1)
        (folder / f"{number:02d}.jsonl").write_text('{"text": "good"}\n' * 5 + bad)
    assert run("--input", folder, "--output", tmp_path / "out", "--max-lost-fraction", "1") == 0
    assert "rejects in 12 files: 11.jsonl (12 records), 10.jsonl (11" in capsys.readouterr().out
    assert command.main(inspect, [str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Files with rejects, 12:\n  11.jsonl (12 records)\n" in out
    assert "  02.jsonl (3 records)\n  … and 2 more, in _sources.parquet" in out


def test_decode_says_what_does_not_come_back(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "one"}\n\nbroken\n{"text": "x"}\n')
    (folder / "b.jsonl").write_text("broken\n")
    argv = ["--input", folder, "--output", tmp_path / "data", "--max-lost-fraction", "1"]
    argv += ["--limit", "9", "--newlines", "lf", "--min-bytes", "2"]
    assert run(*argv) == 0
    capsys.readouterr()
    argv = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "back")]
    assert command.main(decode, argv) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"decode: done. 1 document, 3 B in 1 file -> {tmp_path / 'back'}",
        "  left out, since they were rejected: 2 invalid_json",
        "  rejects in 2 files: a.jsonl (1 record), b.jsonl (1 record)",
        f"  left out by rule: 1 {FILTERS['blank']}",
        "  left out by rule: 1 shorter than --min-bytes",
        "  1 input file without a document, not written: b.jsonl",
        "  encoded with --limit 9; what came after is left out",
        "  encoded with --newlines lf, so bytes may be others than those that were read",
    ]
    # Where all comes back nothing is said.
    (folder / "b.jsonl").unlink()
    (folder / "a.jsonl").write_text('{"text": "one"}\n')
    assert run("--input", folder, "--output", tmp_path / "whole") == 0
    argv = ["--data", str(tmp_path / "whole"), "--output", str(tmp_path / "again"), "--json"]
    capsys.readouterr()
    assert command.main(decode, argv) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == []


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_a_table_without_the_column_is_refused_before_work(tmp_path, capsys, suffix):
    columns = (("text", ["a"]), ("content", ["b"]), ("text", ["c"]))
    write_tables(tmp_path / "in", *columns, suffix=suffix)
    argv = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert re.search(rf"no such column in .*1\.{suffix} \(1 of 3 inputs of this format", err)
    assert "it has: id, content" in err
    assert "--on-unusable-table reject" in err
    assert not (tmp_path / "out").exists()
    assert run(*argv, "--on-unusable-table", "reject") == 1
    err = capsys.readouterr().err
    if suffix != "csv":
        assert "33.3 % of records (50 of 150)" in err
    assert "33.3 % of files (1 of 3)" in err
    flags = ("--on-unusable-table", "reject", "--max-lost-fraction", "0.5")
    assert run(*argv, *flags) == 0
    out = capsys.readouterr().out
    assert f"1 file given up: 1.{suffix} (missing_column)" in out
    assert "damaged" not in out
    assert read_manifest(tmp_path / "out").totals["documents"] == 100


def test_a_column_of_another_type_is_refused_before_work(tmp_path, capsys):
    write_tables(tmp_path / "in", ("text", ["a"]), ("text", [7]))
    argv = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert run(*argv) == 2
    assert re.search(r"'text' is int64, not text in .*1\.parquet", capsys.readouterr().err)
    flags = ("--on-unusable-table", "reject", "--max-lost-fraction", "0.6")
    assert run(*argv, *flags) == 0
    assert "1 file given up: 1.parquet (column_type)" in capsys.readouterr().out


def test_a_table_without_rows_may_lack_the_column(tmp_path):
    write_tables(tmp_path / "in", ("text", ["a"]))
    empty = pa.table({"id": pa.array([], pa.int64())})
    pq.write_table(empty, tmp_path / "in" / "empty.parquet")
    write_tables(tmp_path / "in", ("text", ["a"]), suffix="arrow")
    with pa.ipc.new_file(tmp_path / "in" / "empty.arrow", empty.schema):
        pass
    assert run("--input", tmp_path / "in", "--output", tmp_path / "out") == 0


def test_a_new_table_without_the_column_is_refused_and_the_old_are_not_looked_at(tmp_path, capsys):
    write_tables(tmp_path / "in", ("text", ["a"]), ("content", ["b"]))
    argv = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--max-lost-fraction", "1"]
    assert run(*argv, "--on-unusable-table", "reject") == 0
    pq.write_table(pa.table({"text": ["new"]}), tmp_path / "in" / "2.parquet")
    assert run(*argv) == 0
    pq.write_table(pa.table({"body": ["new"]}), tmp_path / "in" / "3.parquet")
    assert run(*argv) == 2
    assert "3.parquet" in capsys.readouterr().err


def test_a_split_table_without_the_column_is_one_file_with_all_its_rows(tmp_path):
    write_tables(tmp_path / "in", ("text", ["a"]))
    table = pa.table({"content": ["x" * 100] * 100})
    options = {"row_group_size": 10, "compression": "none", "use_dictionary": False}
    pq.write_table(table, tmp_path / "in" / "b.parquet", **options)
    argv = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--max-lost-fraction", "1"]
    argv += ["--on-unusable-table", "reject", "--target-shard-bytes", "3000"]
    assert run(*argv) == 0
    totals = read_manifest(tmp_path / "out").totals
    assert totals["rejects"] > 1
    assert (totals["lost_records"], totals["input_records"]) == (100, 150)
    assert (totals["lost_files"], totals["input_files"]) == (1, 2)
    size = (tmp_path / "in" / "b.parquet").stat().st_size
    assert totals["lost_bytes"] == size


def test_members_of_archives_that_are_cut_count(tmp_path, capsys):
    write_lines(tmp_path / "in", 20, cut_from=10)
    members = {path.name: path.read_bytes() for path in sorted((tmp_path / "in").iterdir())}
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    argv = ("--input", tmp_path / "x.tar", "--output", tmp_path / "out")
    assert run(*argv) == 1
    assert "50 % of members (10 of 20)" in capsys.readouterr().err


def test_a_long_line_weighs_by_its_bytes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("blt.corpus.files.blocks._PARSED_BYTES_FLOOR", 10_000)
    lines = [b'{"text": "%s"}\n' % (b"x" * 900_000)] + [b'{"text": "a"}\n'] * 1000
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    argv = ("--input", tmp_path / "a.jsonl", "--output", tmp_path / "out")
    assert run(*argv, "--max-document-bytes", "100") == 1
    assert "98.5 % of bytes" in capsys.readouterr().err


def test_what_is_not_read_is_given_up_and_not_called_damaged(tmp_path, capsys):
    write_lines(tmp_path / "in", 2)
    (tmp_path / "in" / "x.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    argv = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert run(*argv) == 1
    assert "33.3 % of files (1 of 3)" in capsys.readouterr().err
    assert run(*argv, "--max-lost-fraction", "0.5") == 0
    out = capsys.readouterr().out
    assert "1 file given up: x.zip (unread_format)" in out
    assert "damaged" not in out


def test_a_dropped_file_is_lost_as_a_whole(tmp_path):
    write_lines(tmp_path / "in", 2, cut_from=1)
    argv = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--max-lost-fraction", "1"]
    assert run(*argv, "--on-damaged-file", "drop") == 0
    totals = read_manifest(tmp_path / "out").totals
    assert totals["lost_records"] == totals["filtered_damaged_file"] + 1 > 10
    assert totals["lost_bytes"] == (tmp_path / "in" / "001.jsonl.gz").stat().st_size


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.txt.zst", "x.csv.bz2", "x.txt.xz"])
def test_a_compressed_file_of_no_bytes_is_damage(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"")
    argv = ("--input", tmp_path / name, "--output", tmp_path / "out")
    assert run(*argv) == 1
    assert "is empty" in capsys.readouterr().err
    assert run(*argv, "--max-lost-fraction", "1") == 0
    totals = read_manifest(tmp_path / "out").totals
    assert (totals["documents"], totals["damaged_files"], totals["lost_files"]) == (0, 1, 1)
