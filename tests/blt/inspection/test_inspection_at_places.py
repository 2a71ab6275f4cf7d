"""What is in a store is described by the same words as what is here."""

import gzip
import json
from urllib.parse import unquote

import numpy as np
import pytest

from blt.cli.command import main
from blt.commands import inspect
from blt.dataset import stage as stages
from blt.dataset import storage
from blt.dataset.units import no_progress
from blt.dataset.working import work_on
from tests.blt.dataset.test_stage import make_stage
from tests.blt.places import copy_to
from tests.blt.report.artefacts import write_bytes, write_run


@pytest.fixture
def here(tmp_path):
    """One of each thing that can be looked at."""
    folder = tmp_path / "here"
    write_run(folder / "run")
    (folder / "run" / "blt" / "report.html").write_text(
        "<!doctype html><title>Byte Latent Transformer: report</title>"
    )
    stage, units = make_stage(folder / "unfinished" / "bytes", ("a", "boom", "ccc"))
    started, pending = stages.start(stage, units)
    for unit in pending[:2]:
        work_on(started, unit, no_progress)
    corpus = folder / "corpus"
    corpus.mkdir()
    rows = "".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(500))
    (corpus / "rows.jsonl").write_text(rows)
    (corpus / "rows.jsonl.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))
    (corpus / "run.yaml").write_text("input: corpus\noutput: out\n")
    (corpus / "noise.bin").write_bytes(bytes(range(256)) * 8)
    (corpus / "other.parquet").write_bytes(b"PAR1 no")
    (corpus / "other.keras").write_bytes(b"PK no")
    return folder


def describe(capsys, place, name, *flags):
    """Returns what `blt inspect` says of something below a place, with the place as ROOT."""
    status = main(inspect, [f"{place}/{name}", *flags])
    said = capsys.readouterr()
    return status, *(text.replace(str(place), "ROOT") for text in said)


NAMES = [
    "run",
    "run/bytes",
    "run/patches",
    "run/blt",
    "run/scores-blt",
    "run/bytes/_manifest.json",
    "run/bytes/bytes-00000-000.tfrecord",
    "run/bytes/_rejects.parquet",
    "run/patches/patches-00000-000.parquet",
    "run/scores-blt/scores-00000-000.parquet",
    "run/scores-blt/_summary.json",
    "run/entropy.keras.history.jsonl",
    "run/threshold.yaml",
    "run/blt/report.html",
    "unfinished",
    "unfinished/bytes",
    "corpus",
    "corpus/rows.jsonl",
    "corpus/rows.jsonl.gz",
    "corpus/run.yaml",
    "corpus/noise.bin",
    "corpus/other.keras",
    "nothing",
]


def test_all_that_can_be_looked_at_is_described_as_it_is_here(bucket, here, capsys):
    there = f"{bucket.url}/deep/down"
    copy_to(here, there)
    for name in NAMES:
        expected = describe(capsys, here, name)
        assert describe(capsys, there, name) == expected, name
        assert expected[1] or expected[0] == 2, name
        assert describe(capsys, there, name, "--json") == describe(capsys, here, name, "--json")
    status, _, error = describe(capsys, there, "corpus/other.parquet")
    assert status == 2
    assert "ROOT/corpus/other.parquet: not a Parquet file, or damaged" in error
    assert "blt-scratch" not in error


def test_what_is_checked_here_is_checked_there(bucket, here, capsys):
    there = bucket.url
    copy_to(here, there)
    for name in ("run", "run/patches", "unfinished/bytes", "corpus", "corpus/rows.jsonl"):
        expected = describe(capsys, here, name, "--check")
        assert describe(capsys, there, name, "--check") == expected, name
    assert describe(capsys, there, "run", "--check")[0] == 0
    for place in (here, there):
        shard = storage.as_place(place) / "run" / "patches" / "patches-00000-000.parquet"
        storage.replace(shard, shard.read_bytes()[:-1] + b"?")
        storage.delete(f"{place}/run/scores-blt/scores-00000-000.parquet")
    expected = describe(capsys, here, "run", "--check")
    assert expected[0] == 1
    assert describe(capsys, there, "run", "--check") == expected


def test_byte_shards_that_lie_elsewhere_are_given(bucket, here, capsys):
    copy_to(here / "run" / "patches", f"{bucket.url}/patches")
    copy_to(here / "run" / "bytes", f"{bucket.url}/far/away")
    patches = [f"{bucket.url}/patches", "--documents", "1", "--bytes", "4"]
    assert main(inspect, patches) == 0
    assert "Give their folder with --data." in capsys.readouterr().out
    for data in (f"{bucket.url}/far/away", here / "run" / "bytes"):  # there, and here
        assert main(inspect, [*patches, "--data", str(data)]) == 0
        assert capsys.readouterr().out.endswith("    |The |…\n")


def test_a_model_in_a_store_tells_kind_size_and_fingerprint(bucket, tmp_path, capsys, monkeypatch):
    from blt.model.entropy_model import EntropyModel
    from blt.model.serialization import save_model

    monkeypatch.setenv("BLT_CACHE", str(tmp_path / "cache"))
    model = EntropyModel(dim=8, num_layers=1, num_heads=1, window=16)
    model(np.zeros((1, 16), np.int32))
    save_model(model, tmp_path / "here" / "m.keras")
    copy_to(tmp_path / "here", bucket.url)
    expected = describe(capsys, tmp_path / "here", "m.keras")
    assert "an entropy model" in expected[1]
    assert describe(capsys, bucket.url, "m.keras") == expected


def test_the_beginning_of_a_shard_is_all_that_is_read(gcs_bucket, capsys, tmp_path):
    documents = {f"d{number}": bytes(50_000) for number in range(200)}
    write_bytes(tmp_path / "bytes", documents)
    shard = tmp_path / "bytes" / "bytes-00000-000.tfrecord"
    copy_to(tmp_path, gcs_bucket.url)
    gcs_bucket.proxy.requests.clear()
    assert main(inspect, [f"{gcs_bucket.url}/bytes", "--documents", "2"]) == 0
    assert "  d1 (50,000 bytes)" in capsys.readouterr().out
    ranges = [asked for _, path, asked in gcs_bucket.proxy.requests if shard.name in unquote(path)]
    read = [list(map(int, asked.removeprefix("bytes=").split("-"))) for asked in ranges if asked]
    assert read
    assert sum(end - start for start, end in read) < shard.stat().st_size / 4


def test_what_a_store_refuses_is_not_taken_for_an_unknown_folder(bucket, capsys):
    name = bucket.url.partition("://")[0] + "://no-such-bucket"
    assert main(inspect, [f"{name}/x"]) != 0
    error = capsys.readouterr().err
    assert f"there is no bucket {name}" in error
    assert len(error.splitlines()) == 1
