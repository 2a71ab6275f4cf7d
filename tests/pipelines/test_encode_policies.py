"""`blt encode` with what it can be told about documents, as its users run it."""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from blt.dataset.manifest import read_manifest
from blt.dataset.rejects import count_rejects
from blt.formats.byte_shard import read_byte_shard
from blt.inspection.check import check_folder
from blt.tokenizer import tokens_to_bytes
from tests.blt.corpus.readers.test_tar import tar_bytes
from tests.blt.corpus.readers.test_warc import warc
from tests.pipelines.test_encode import REPO, run
from tests.shared import dataset_files

FLAGS = ("--target-shard-bytes", "4KB", "--drop-duplicates", "--on-duplicate-id", "suffix")


def write_corpus(folder):
    """Four files with ids and texts that come again, within files and across them."""
    folder.mkdir()
    for number in range(4):
        rows = [
            {"id": f"doc {i * (number + 1) % 150}", "text": f"text {(i + 7 * number) % 170}"}
            for i in range(200)
        ]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("repeats") / "corpus")


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "bytes"
    assert run("--input", corpus, "--output", output, *FLAGS) == 0
    return output


def read(folder):
    manifest = read_manifest(folder, "byte_shards")
    records = [r for s in manifest.shards for r in read_byte_shard(manifest.shard_path(s))]
    return [(record.doc_id, tokens_to_bytes(record.tokens)) for record in records]


def test_duplicates_are_those_of_the_order_of_the_plan(corpus, undisturbed):
    texts, ids, expected = set(), {}, []
    for path in sorted(corpus.iterdir()):
        for row in map(json.loads, path.read_text().splitlines()):
            if row["text"] in texts:
                continue
            texts.add(row["text"])
            ids[row["id"]] = place = ids.get(row["id"], 0) + 1
            suffix = f"~dup{place}" * (place > 1)
            expected.append((row["id"] + suffix, row["text"].encode()))
    assert read(undisturbed) == expected
    assert any(place > 1 for place in ids.values())
    totals = read_manifest(undisturbed).totals
    assert totals["filtered"] == totals["filtered_duplicate"] == 800 - len(expected)


@pytest.mark.parametrize(
    "flags",
    [
        ("--direct_running_mode", "multi_processing", "--direct_num_workers", "2"),
        ("--runner", "PortableRunner", "--job_endpoint", "embed", "--environment_type", "LOOPBACK"),
    ],
    ids=lambda flags: flags[1],
)
def test_whatever_the_runner(corpus, undisturbed, tmp_path, flags):
    assert run("--input", corpus, "--output", tmp_path / "bytes", *FLAGS, *flags) == 0
    assert dataset_files(tmp_path / "bytes") == dataset_files(undisturbed)


def test_whatever_the_order_of_the_inputs(corpus, undisturbed, tmp_path):
    paths = sorted(corpus.iterdir(), reverse=True)
    assert run("--input", *paths, "--output", tmp_path / "bytes", *FLAGS) == 0
    found, expected = dataset_files(tmp_path / "bytes"), dataset_files(undisturbed)
    assert found.pop("_manifest.json") != expected.pop("_manifest.json")  # it names the inputs
    assert found == expected


def test_killed_while_duplicates_are_looked_for_and_after(corpus, undisturbed, tmp_path):
    argv = [sys.executable, "-m", "pipelines.encode", "--input", corpus]
    argv += ["--output", tmp_path / "bytes", *FLAGS]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    kills = 0
    for pattern, wanted in (("_duplicates/0*.json", 3), ("_units/0*.json", 2)):
        process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / "bytes").glob(pattern))) >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.communicate()
    assert kills == 2
    assert run("--input", corpus, "--output", tmp_path / "bytes", *FLAGS) == 0
    assert dataset_files(tmp_path / "bytes") == dataset_files(undisturbed)


def test_a_file_added_later_is_all_that_is_encoded(corpus, undisturbed, tmp_path, capsys):
    mine = write_corpus(tmp_path / "corpus")
    argv = ("--input", mine, "--output", tmp_path / "bytes", *FLAGS)
    assert run(*argv) == 0
    before = read(tmp_path / "bytes")
    rows = [{"id": "doc 1", "text": "text 1"}, {"id": "doc 1", "text": "news"}]
    (mine / "0-new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(*argv) == 0
    new = read(tmp_path / "bytes")[len(before) :]
    assert read(tmp_path / "bytes")[: len(before)] == before
    assert [text for _, text in new] == [b"news"]
    assert "1 new file; the rest was planned before" in capsys.readouterr().err
    assert check_folder(tmp_path / "bytes")[1] == []
    (mine / "1.jsonl").write_text('{"text": "other"}\n')
    assert run(*argv) == 2
    assert "1.jsonl (had " in capsys.readouterr().err


def test_the_summary_tells_where_every_record_went(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [b'{"id": "a", "text": "first"}', b"", b'{"id": "a", "text": "second"}', b"broken"]
    lines += [b'{"id": "b", "text": "x"}', b'{"id": "c", "text": "not \xff UTF-8"}']
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    packed = gzip.compress(b"".join(b'{"text": "text %d"}\n' % i for i in range(5000)), mtime=0)
    (folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    argv = ["--input", folder, "--output", tmp_path / "bytes", "--max-lost-fraction", "1"]
    argv += ["--on-duplicate-id", "reject", "--min-bytes", "2", "--on-damaged-file", "drop"]
    assert run(*argv) == 0
    out = capsys.readouterr().out
    totals = read_manifest(tmp_path / "bytes").totals
    dropped = totals["filtered_damaged_file"]
    assert dropped > 1000
    for line in (
        f"{dropped + 7:,} records read = 2 documents + {dropped + 2:,} filtered + 3 rejected",
        "filtered: 1 a blank line of JSONL",
        "filtered: 1 shorter than --min-bytes",
        f"filtered: {dropped:,} in a damaged file",
        "1 document is not UTF-8; bytes are kept as they are",
        "not UTF-8 in 1 file: a.jsonl (1 of 2 documents; the first is c)",
        "rejects in 2 files: cut.jsonl.gz (",
        ", a.jsonl (2 records)",
        "1 damaged file; dropped: cut.jsonl.gz",
    ):
        assert line in out
    assert dict(count_rejects(tmp_path / "bytes" / "_rejects.parquet")) == {
        "invalid_json": 1,
        "duplicate_id": 1,
        "damaged_input": 1,
    }
    assert run(*argv, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["how"] == "already done"
    assert summary["filtered_below_min_bytes"] == 1
    rows = pq.read_table(tmp_path / "bytes" / "_sources.parquet").to_pylist()
    assert [row["source"] for row in rows] == ["a.jsonl", "cut.jsonl.gz"]
    for name in ("records", "documents", "bytes", "filtered", "rejects"):
        assert sum(row[name] for row in rows) == totals[name]


def write_mixed_corpus(folder):
    """A tar archive, a table, a web archive and paragraphs, with texts and ids that come again."""
    folder.mkdir()
    rows = [{"id": "1", "text": "one"}, {"id": "1", "text": "uno"}, {"text": ""}, {"id": "9"}]
    members = {
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "b.txt": b"first\n\nsecond\n\nfirst\n",
        ".hidden": b"",
    }
    (folder / "a.tar").write_bytes(tar_bytes(members))
    (folder / "b.csv").write_bytes(b'id,text\n1,"row, quoted"\n\n2,one\n3\n')
    (folder / "c.warc").write_bytes(
        warc(b"about", kind="warcinfo") + warc(b"page", b"second", kind="conversion")
    )
    (folder / "d.txt").write_bytes(b"fourth\n \npage\r\n\nlast")
    return folder


def test_all_kinds_of_input_and_policies_together(tmp_path, capsys):
    corpus = write_mixed_corpus(tmp_path / "corpus")
    output = tmp_path / "bytes"
    (tmp_path / "list.txt").write_text(f"{corpus}\n# no more\n")
    flags = ["--doc-per", "paragraph", "--drop-duplicates", "--on-duplicate-id", "suffix"]
    flags += ["--min-bytes", "1", "--max-lost-fraction", "0.5"]
    argv = ["--input", f"@{tmp_path / 'list.txt'}", "--exclude", "*.bin", "--output", output]
    assert run(*argv, *flags) == 0
    first = read(output)
    assert first == [
        ("1", b"one"),
        ("1~dup2", b"uno"),
        ("a.tar/b.txt#0", b"first"),
        ("a.tar/b.txt#7", b"second"),
        ("1~dup3", b"row, quoted"),
        ("c.warc#61", b"page"),
        ("d.txt#0", b"fourth"),
        ("d.txt#9", b"page\r"),
        ("d.txt#16", b"last"),
    ]
    totals = read_manifest(output).totals
    wanted = {"blank": 1, "left_out_member": 1, "no_content": 1, "below_min_bytes": 1}
    wanted["duplicate"] = 3  # first, one, second
    assert {k: v for k, v in totals.items() if k.startswith("filtered_") and v} == {
        f"filtered_{reason}": number for reason, number in wanted.items()
    }
    check_sums(output, ["a.tar", "b.csv", "c.warc", "d.txt"])
    assert dict(count_rejects(output / "_rejects.parquet")) == {"missing_text": 1, "bad_row": 1}

    (corpus / "b2.csv").write_bytes(b"text\nuno\nnews\n")
    (corpus / "no.bin").write_bytes(b"left out")
    before = dataset_files(output)
    assert run(*argv, "--include", "*", *flags) == 0  # how files are named does not matter
    assert "1 new file; the rest was planned before" in capsys.readouterr().err
    assert read(output) == [*first, ("b2.csv#9", b"news")]
    after = dataset_files(output)
    kept = [name for name in before if name.startswith(("bytes-", "_units/"))]
    assert all(after[name] == before[name] for name in kept)
    check_sums(output, ["a.tar", "b.csv", "c.warc", "d.txt", "b2.csv"])


def test_an_archive_through_standard_input_up_to_a_limit_and_again(tmp_path, monkeypatch):
    output = tmp_path / "bytes"
    archive = (write_mixed_corpus(tmp_path / "corpus") / "a.tar").read_bytes()
    argv = ["--input", "-", "--output", output, "--doc-per", "paragraph", "--limit", "4"]
    argv += ["--min-bytes", "1", "--drop-duplicates", "--max-lost-fraction", "0.5"]
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(archive)))
        assert run(*argv) == 0
        assert [raw for _, raw in read(output)] == [b"one", b"uno", b"first", b"second"]
        check_sums(output, ["stdin"])
        (row,) = pq.read_table(output / "_sources.parquet").to_pylist()
        assert row["sha256"] == hashlib.sha256(archive).hexdigest()
        assert not (tmp_path / "bytes.stdin").exists()


def check_sums(output, sources):
    """Documents, filtered records and rejects are all records, of each file and of the whole."""
    totals = read_manifest(output).totals
    rows = pq.read_table(output / "_sources.parquet").to_pylist()
    assert [row["source"] for row in rows] == sources
    for row in [*rows, totals]:
        assert row["records"] == row["documents"] + row["filtered"] + row["rejects"]
    for name in ("records", "documents", "bytes", "filtered", "rejects"):
        assert sum(row[name] for row in rows) == totals[name]
    assert all(row["sha256"] for row in rows)
    assert check_folder(output)[1] == []


@pytest.mark.parametrize(("flags", "status"), [((), 0), (("--drop-duplicates",), 2)])
def test_a_damaged_file_can_fail_the_job_until_it_is_fixed(tmp_path, capsys, flags, status):
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9])
    argv = ["--input", tmp_path / "cut.jsonl.gz", "--output", tmp_path / "bytes"]
    argv += ["--on-damaged-file", "fail", *flags]
    assert run(*argv) == 1
    assert "cut.jsonl.gz: ends inside its gzip data" in capsys.readouterr().err
    assert not (tmp_path / "bytes" / "_manifest.json").exists()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 99, mtime=0))
    assert run(*argv) == status
    if status:
        assert "cut.jsonl.gz (had " in capsys.readouterr().err
        assert run(*argv, "--overwrite") == 0
    assert read_manifest(tmp_path / "bytes").totals["records"] == 99


def test_a_limit_ends_the_reading(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("".join(f"{i}\n" for i in range(100)))
    argv = ("--input", tmp_path / "a.txt", "--output", tmp_path / "bytes", "--doc-per", "line")
    assert run(*argv, "--limit", "7", "--target-shard-bytes", "20") == 0
    assert "--limit 7 is reached; what comes after was not read" in capsys.readouterr().out
    assert [raw for _, raw in read(tmp_path / "bytes")] == [b"%d" % i for i in range(7)]
    assert read_manifest(tmp_path / "bytes").totals["records"] == 7


def test_an_altered_table_is_found(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert run("--input", tmp_path / "a.txt", "--output", tmp_path / "bytes") == 0
    path = tmp_path / "bytes" / "_sources.parquet"
    path.write_bytes(path.read_bytes()[::-1])
    (problem,) = check_folder(tmp_path / "bytes")[1]
    assert "_sources.parquet: its sha256 is not the manifest's" in problem


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sample 2", "--sample: must be above 0 and at most 1"),
        ("--sample 0", "--sample: must be above 0"),
        ("--limit 0", "--limit: must be a whole number above 0"),
        ("--min-bytes 9 --max-bytes 8", "--min-bytes 9: above --max-bytes 8"),
        ("--on-duplicate-id drop", "--on-duplicate-id"),
        ("--utf8 strict", "--utf8"),
        ("--format bytes --strip-bom", "--format bytes: keeps every byte"),
        ("--format bytes --newlines lf", "--format bytes: keeps every byte"),
        ("--format bytes --utf8 replace", "--format bytes: keeps every byte"),
    ],
)
def test_a_wrong_value_is_one_line_and_status_2(tmp_path, capsys, flags, message):
    (tmp_path / "a.txt").write_text("text")
    argv = ("--input", tmp_path / "a.txt", "--output", tmp_path / "bytes", *flags.split())
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert message in err
