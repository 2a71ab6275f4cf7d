"""`blt encode` as its users run it: real files, real runners, the exit status and what is said."""

import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.corpus import InputFile
from blt.dataset.manifest import read_manifest
from blt.formats.byte_shard import read_byte_shard
from blt.tokenizer import tokens_to_bytes
from pipelines import encode
from tests.shared import dataset_files

REPO = Path(__file__).parents[2]


def write_corpus(folder, num_files=6, documents=200):
    """Files of lines between 0 and 400 bytes, one of them compressed; the same in every run."""
    rng = random.Random(5)
    folder.mkdir()
    for number in range(num_files):
        lines = [
            json.dumps({"id": f"{number}-{i}", "text": "ab é\n"[i % 3 :] * rng.randrange(80)})
            for i in range(documents)
        ]
        data = "".join(line + "\n" for line in lines).encode()
        if number == 1:
            (folder / f"part-{number}.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / f"part-{number}.jsonl").write_bytes(data)
    return folder


def run(*argv):
    return command.main(encode, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "bytes"
    assert run("--input", corpus, "--output", output, "--target-shard-bytes", "20KB") == 0
    return output


def test_every_document_is_there_with_its_bytes(corpus, undisturbed):
    manifest = read_manifest(undisturbed, "byte_shards")
    found = {}
    for shard in manifest.shards:
        for record in read_byte_shard(manifest.shard_path(shard)):
            found[record.doc_id] = tokens_to_bytes(record.tokens)
    expected = {}
    for path in corpus.iterdir():
        data = path.read_bytes()
        for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
            row = json.loads(line)
            expected[row["id"]] = row["text"].encode()
    assert found == expected
    assert manifest.totals["documents"] == len(expected) == 1200
    assert len(manifest.shards) > 6
    assert not list(undisturbed.rglob(".tmp-*"))


@pytest.mark.parametrize(
    "flags",
    [
        ("--runner", "DirectRunner"),
        ("--direct_running_mode", "multi_threading", "--direct_num_workers", "4"),
        ("--direct_running_mode", "multi_processing", "--direct_num_workers", "2"),
    ],
    ids=lambda flags: flags[1],
)
def test_runners_and_workers_do_not_show_in_the_result(corpus, undisturbed, tmp_path, flags):
    argv = ("--input", corpus, "--output", tmp_path / "bytes", "--target-shard-bytes", "20KB")
    assert run(*argv, *flags) == 0
    assert dataset_files(tmp_path / "bytes") == dataset_files(undisturbed)


def test_a_portable_job_server_gives_the_same(corpus, undisturbed, tmp_path):
    argv = ("--input", corpus, "--output", tmp_path / "bytes", "--target-shard-bytes", "20KB")
    flags = ("--runner", "PortableRunner", "--job_endpoint", "embed", "--environment_type")
    assert run(*argv, *flags, "LOOPBACK") == 0
    assert dataset_files(tmp_path / "bytes") == dataset_files(undisturbed)


def test_the_order_of_the_inputs_does_not_show_in_the_shards(corpus, undisturbed, tmp_path):
    paths = sorted(corpus.iterdir(), reverse=True)
    argv = ("--output", tmp_path / "bytes", "--target-shard-bytes", "20KB")
    assert run("--input", *paths, *argv) == 0
    shards = {k: v for k, v in dataset_files(tmp_path / "bytes").items() if k.endswith(".tfrecord")}
    assert shards == {
        k: v for k, v in dataset_files(undisturbed).items() if k.endswith(".tfrecord")
    }


def test_killed_at_any_moment_the_same_command_ends_the_same(corpus, undisturbed, tmp_path):
    argv = [sys.executable, "-m", "pipelines.encode", "--input", corpus]
    argv += ["--output", tmp_path / "bytes", "--target-shard-bytes", "20KB"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    kills = 0
    for wait_for_units in (1, 4):
        process = subprocess.Popen(
            argv, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            done = list((tmp_path / "bytes" / "_units").glob("0*.json"))
            if len(done) >= wait_for_units:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.002)
        process.communicate()
    assert kills >= 1
    again = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert dataset_files(tmp_path / "bytes") == dataset_files(undisturbed)


def test_a_second_run_says_that_it_is_done_already(corpus, undisturbed, capsys):
    before = dataset_files(undisturbed)
    argv = ("--input", corpus, "--output", undisturbed, "--target-shard-bytes", "20KB")
    assert run(*argv) == 0
    assert "already done" in capsys.readouterr().out
    assert dataset_files(undisturbed) == before


def test_a_dry_run_writes_nothing(corpus, tmp_path, capsys):
    argv = ("--input", corpus, "--output", tmp_path / "bytes", "--target-shard-bytes", "20KB")
    assert run(*argv, "--dry-run") == 0
    assert not (tmp_path / "bytes").exists()
    out = capsys.readouterr().out
    assert "nothing was written" in out
    assert "bytes-00000-*.tfrecord" in out


def test_a_dry_run_lists_what_each_file_is_taken_as(tmp_path, capsys):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("text")
    (folder / "b.csv.gz").write_bytes(gzip.compress(b"text\na\n"))
    pq.write_table(pa.table({"text": ["x"] * 1234}), folder / "c.parquet", row_group_size=100)
    (folder / "d.zip").write_bytes(b"PK\x03\x04" + bytes(30))
    (folder / ".hidden").write_text("x")
    for number in range(60):
        (folder / f"e{number:02}.jsonl").write_text('{"text": "a"}\n')
    argv = ("--input", folder, "--output", tmp_path / "bytes", "--target-shard-bytes", "2KB")
    assert run(*argv, "--dry-run") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["64", "files:"] in lines
    assert ["60", "files", "as", "jsonl,", "840", "B"] in lines
    assert ["csv", "in", "gzip", "27", "B", "b.csv.gz"] in lines
    size = (folder / "c.parquet").stat().st_size
    assert ["parquet", f"{size / 1000:.1f}", "KB", "1,234", "rows", "c.parquet"] in lines
    assert ["none", "that", "is", "read", "34", "B", "d.zip"] in lines
    assert ["…", "and", "14", "more", "(--json", "lists", "all)"] in lines
    assert run(*argv, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    files = plan["files"]
    assert len(files) == 64
    assert plan["left_out"] == {"hidden": 1}
    assert run(*argv, "--max-lost-fraction", "1") == 0
    said = "files read as: 60 jsonl, 1 csv, 1 parquet, 1 text, 1 nothing that is read"
    assert said in capsys.readouterr().out
    assert files[2] == {
        "source": "c.parquet",
        "format": "parquet",
        "compression": "plain",
        "stored_bytes": size,
        "records": 1234,
    }


def test_the_json_summary_is_one_object(corpus, tmp_path, capsys):
    assert run("--input", corpus, "--output", tmp_path / "bytes", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["documents"] == 1200
    assert summary["how"] == "done"


MISTAKES = {
    "no such input": ("--input {tmp}/nope --output {tmp}/out", "nope: no such file"),
    "no such field": (
        "--input {corpus} --output {tmp}/out --text-field txt",
        "--text-field txt: no such field .* Did you mean 'text'",
    ),
    "output is a file": ("--input {corpus} --output {tmp}/file", "--output .*/file: cannot be"),
    "unknown flag": (
        "--input {corpus} --output {tmp}/out --text_feild x",
        "unknown argument '--text_feild'. Did you mean '--text-field'",
    ),
    "no output": ("--input {corpus}", "arguments are required: --output"),
    "bad size": (
        "--input {corpus} --output {tmp}/out --target-shard-bytes big",
        "--target-shard-bytes: must be a number of bytes",
    ),
    "bad value of a Beam flag": (
        "--input {corpus} --output {tmp}/out --direct_num_workers two",
        "--direct_num_workers: invalid int value",
    ),
    "no such runner": (
        "--input {corpus} --output {tmp}/out --runner HopeRunner",
        "--runner HopeRunner: cannot be had",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(corpus, tmp_path, capsys, mistake):
    (tmp_path / "file").write_text("in the way")
    argv, message = MISTAKES[mistake]
    assert run(*argv.format(corpus=corpus, tmp=tmp_path).split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert re.search(message, err), err


def test_another_config_on_the_same_output_is_refused_and_named(corpus, undisturbed, capsys):
    assert run("--input", corpus, "--output", undisturbed) == 2
    assert "--target-shard-bytes (20000, now 67108864)" in capsys.readouterr().err


def test_rejects_above_the_limit_fail_with_status_1_and_keep_the_work(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"text": "good"}\n{"text": 7}\nnot json\n')
    argv = ("--input", tmp_path / "in.jsonl", "--output", tmp_path / "bytes")
    assert run(*argv) == 1
    assert "lost 66.7 % of records (2 of 3), 0 % of files (0 of 1)" in capsys.readouterr().err
    assert not (tmp_path / "bytes" / "_manifest.json").exists()
    rejects = pq.read_table(tmp_path / "bytes" / "_rejects.parquet").to_pylist()
    assert [(row["position"], row["reason"]) for row in rejects] == [
        (17, "text_not_string"),
        (29, "invalid_json"),
    ]
    assert run(*argv, "--max-lost-fraction", "0.8") == 0
    assert read_manifest(tmp_path / "bytes").totals["documents"] == 1


def test_a_damaged_file_is_named(tmp_path, capsys):
    data = gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(5000)), mtime=0)
    (tmp_path / "cut.jsonl.gz").write_bytes(data[: len(data) // 2])
    argv = ("--input", tmp_path / "cut.jsonl.gz", "--output", tmp_path / "bytes")
    assert run(*argv) == 1
    assert "100 % of files (1 of 1)" in capsys.readouterr().err
    assert run(*argv, "--max-lost-fraction", "1") == 0
    out = capsys.readouterr().out
    assert "1 damaged file; what could be read was kept: cut.jsonl.gz" in out


def test_ctrl_c_ends_with_130_and_no_traceback(corpus, tmp_path):
    argv = [sys.executable, "-m", "pipelines.encode", "--input", corpus]
    argv += ["--output", tmp_path / "bytes", "--target-shard-bytes", "2KB"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    # A test run in the background inherits that Ctrl-C is ignored; a user's shell does not.
    process = subprocess.Popen(
        argv,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "bytes" / "_units").glob("0*.json"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "interrupted. What is finished is kept" in err
    assert "Traceback" not in err


def test_an_output_inside_the_input_is_not_read(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    argv = ("--input", tmp_path, "--output", tmp_path / "bytes")
    assert run(*argv) == 0
    assert run(*argv) == 0
    assert read_manifest(tmp_path / "bytes").totals["documents"] == 1


def test_standard_input_is_read_and_known_again(tmp_path, capsys):
    argv = [sys.executable, "-m", "pipelines.encode", "--input", "-"]
    argv += ["--output", str(tmp_path / "bytes"), "--target-shard-bytes", "20KB", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    data = gzip.compress(b'{"text": "%s"}\n' % (b"x" * 100) * 1000)
    for how in ("done", "already done"):
        process = subprocess.run(argv, input=data, env=environment, capture_output=True)
        assert process.returncode == 0, process.stderr
        summary = json.loads(process.stdout)
        assert (summary["how"], summary["documents"]) == (how, 1000)
        assert not (tmp_path / "bytes.stdin").exists()
    manifest = read_manifest(tmp_path / "bytes")
    record = next(read_byte_shard(manifest.shard_path(manifest.shards[0])))
    assert (record.source, record.doc_id) == ("stdin", "stdin#0")
    other = subprocess.run(argv, input=b"other text", env=environment, capture_output=True)
    assert other.returncode == 2
    assert run("--input", "-", "--output", tmp_path / "x", "--dry-run") == 2
    assert "standard input (--input -) can be read only once" in capsys.readouterr().err


def test_include_exclude_and_lists_choose_the_files(corpus, tmp_path, capsys):
    (tmp_path / "list").write_text(f"{corpus}\n")
    argv = ("--input", f"@{tmp_path / 'list'}", "--output", tmp_path / "bytes", "--json")
    assert (
        run(*argv, "--include", "*.jsonl", "x", "--include", "*.gz", "--exclude", "part-[0-3].*")
        == 0
    )
    summary = json.loads(capsys.readouterr().out)
    assert summary["documents"] == 400
    assert summary["left_out"] == {"not_included": 4}
    left_out = read_manifest(tmp_path / "bytes").config["left_out"]["not_included"]
    assert left_out["names"] == [str(path) for path in sorted(corpus.iterdir())[:4]]
    assert run(*argv[:4], "--include", "*.gz", "*.jsonl", "--exclude", "part-[0-3].*") == 0
    assert "left out: 4 by --include and --exclude" in capsys.readouterr().out


def test_what_lies_in_the_output_is_no_input_by_whatever_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.txt", "in/deep/b.txt", "out/c.txt", "out/deep/d.txt", "out2/e.txt", "f.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "in/to_c.txt").symlink_to(tmp_path / "out/c.txt")
    (tmp_path / "in/to_out").symlink_to(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / "out/to_a.txt").symlink_to(tmp_path / "in/a.txt")
    paths = ["in/a.txt", "in/deep/b.txt", "out/c.txt", "out/deep/d.txt", "out2/e.txt", "f.txt"]
    paths += ["in/to_c.txt", "in/to_out/deep/d.txt", "out/to_a.txt", "gs://bucket/out/c.txt"]
    found = [InputFile(path=path, source=path, size=0, mtime_ns=0) for path in paths]
    inside = (tmp_path / "out").resolve()
    for folder in ("out", "link", tmp_path / "in/to_out"):
        outside = [file.path for file in encode._outside(found, Path(folder))]
        assert outside == [p for p in paths if inside not in Path(p).resolve().parents]
        assert len(outside) == 6


def test_every_input_flag_counts(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    argv = ("--input", tmp_path / "a.txt", "--input", tmp_path / "b.txt", "--output")
    assert run(*argv, tmp_path / "out") == 0
    assert read_manifest(tmp_path / "out").totals["documents"] == 2


def test_too_many_rejects_are_told_with_the_first(tmp_path, capsys):
    (tmp_path / "a\nb.jsonl").write_bytes(b'{"text": "a"}\n{"text": null}\nno\nno\n')
    assert run("--input", tmp_path, "--output", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "lost 75 % of records (3 of 4)" in err
    assert r"(2 invalid_json, 1 null_text; the first is a\nb.jsonl at 14: field 'text' is" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("redirections", "status", "said"),
    [
        ("<&-", 2, "standard input is closed"),
        ("</dev/null >&-", 0, ""),
        ("</dev/null >/dev/full", 1, "standard output: cannot be written"),
    ],
)
def test_streams_that_are_closed_or_full_are_no_bug(redirections, status, said, tmp_path):
    script = f'exec "$0" -m pipelines.cli encode --input - --output "$1" {redirections}'
    argv = ["sh", "-c", script, sys.executable, str(tmp_path / "out")]
    done = subprocess.run(argv, cwd=REPO, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, said in done.stderr) == (status, True)
    assert "bug" not in done.stderr
    assert (tmp_path / "out" / "_manifest.json").exists() == (status != 2)


def test_workers_without_work_are_said(tmp_path, capsys):
    """Was: one unit for two large files, and a second worker that did nothing."""
    for name in "ab":
        (tmp_path / f"{name}.txt").write_bytes(b"text of a line\n" * 40_000)
    argv = ("--input", tmp_path / "a.txt", tmp_path / "b.txt", "--direct_num_workers", "2")
    assert run(*argv, "--output", tmp_path / "one") == 0
    err = capsys.readouterr().err
    assert "one: 1 unit of work for 2 workers, so that 1 of them will be idle." in err
    assert "--target-shard-bytes" in err
    assert run(*argv, "--output", tmp_path / "two", "--target-shard-bytes", "600KB") == 0
    assert "idle" not in capsys.readouterr().err
