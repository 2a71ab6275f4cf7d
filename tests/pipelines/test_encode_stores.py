"""`blt encode` with inputs in stores."""

import dataclasses
import gzip
import re

import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.corpus.files import filesystems
from blt.dataset.manifest import read_manifest
from pipelines import encode


@pytest.fixture
def store(bucket):
    """A bucket with 20 documents in a compressed file, and one in a text."""
    bucket.put("in/a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 20))
    bucket.put("in/d/b.txt", b"text")
    return bucket


def run(*argv):
    return command.main(encode, [str(arg) for arg in argv])


@pytest.mark.parametrize(
    ("argument", "documents"),
    [("in", 21), ("in/", 21), ("in/*.gz", 20), ("**/b.txt", 1), ("in/d/b.txt", 1), ("i*", 21)],
)
def test_paths_folders_and_globs_lead_to_files(store, tmp_path, argument, documents):
    store.proxy.add("reset", "GET")
    store.proxy.add("fail", "GET")
    assert run("--input", f"{store.url}/{argument}", "--output", tmp_path / "bytes") == 0
    assert read_manifest(tmp_path / "bytes").totals["documents"] == documents
    assert not any(fault.times for fault in store.proxy.faults)


def test_worker_processes_read_from_a_store(store, tmp_path):
    argv = ("--input", f"{store.url}/in", "--output", tmp_path / "bytes")
    assert run(*argv, "--direct_num_workers", "2", "--target-shard-bytes", "10B") == 0
    assert read_manifest(tmp_path / "bytes").totals["documents"] == 21


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("{url}/absent", "--input {url}/absent: no such file or folder"),
        ("{url}-none/x", r"cannot be looked for \(there is no bucket {url}-none, check its name\)"),
        ("hf://b/x", r"--input hf://b/x: cannot be looked for \(hf:// is not read; gs://"),
    ],
)
def test_what_leads_nowhere_is_one_line_and_status_2(
    store, tmp_path, capsys, monkeypatch, argument, message
):
    monkeypatch.setattr(filesystems, "_PAUSES", (0.01,))
    argument, message = argument.format(url=store.url), message.format(url=store.url)
    assert run("--input", argument, "--output", tmp_path / "bytes") == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.count("\n") == 1, err


def test_what_lies_in_a_store_grows_too_and_is_not_read_again(gcs_bucket, tmp_path, capsys):
    store = gcs_bucket
    store.put("in/a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 20))
    store.put("in/d/b.txt", b"text")
    argv = ("--input", f"{store.url}/in", "--output", tmp_path / "bytes", "--drop-duplicates")
    assert run(*argv) == 0
    assert read_manifest(tmp_path / "bytes").totals["documents"] == 2
    num_reads = sum(asked is not None for *_, asked in store.proxy.requests)
    assert run(*argv) == 0
    assert "already done" in capsys.readouterr().out
    assert sum(asked is not None for *_, asked in store.proxy.requests) == num_reads
    store.put("in/c.txt", b"more")
    assert run(*argv) == 0
    assert "1 new file; the rest was planned before" in capsys.readouterr().err
    rows = pq.read_table(tmp_path / "bytes" / "_sources.parquet").to_pylist()
    assert [(row["source"], row["sha256"]) for row in rows] == [
        ("a.jsonl.gz", None),
        ("d/b.txt", None),
        ("c.txt", None),
    ]
    blobs = store.server.buckets[store.url.removeprefix("gs://")]
    blobs["in/c.txt"] = dataclasses.replace(blobs["in/c.txt"], data=b"else", changed=10**9)
    assert run(*argv) == 2
    assert f"{store.url}/in/c.txt (was modified)" in capsys.readouterr().err
