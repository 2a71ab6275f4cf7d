"""`blt export`, `blt score` and --verify, where what they read and write lies in stores."""

import os

import pytest

from blt.cli import command
from blt.dataset import storage
from blt.dataset.manifest import read_manifest
from blt.dataset.storage import as_place
from pipelines import encode, export, patch, score
from tests.blt.places import contents, copy_to


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


def results(place):
    """Returns the files of a dataset, but for what tells of the run that made it."""
    left_out = ("_plan.json", "_units/")
    return {k: v for k, v in contents(place).items() if not k.startswith(left_out)}


@pytest.fixture(scope="module")
def here(small_bytes, small_entropy_model, tmp_path_factory):
    """Byte shards, and boundaries that keep entropies."""
    folder = tmp_path_factory.mktemp("places")
    copy_to(small_bytes, folder / "bytes")
    argv = ("--data", folder / "bytes", "--entropy-model", small_entropy_model)
    argv += ("--threshold-nats", 3, "--keep-entropies", "f16", "--output", folder / "patches")
    assert run(patch, *argv) == 0
    return folder


def test_what_is_exported_there_is_what_is_exported_here(bucket, here, tmp_path, capsys):
    copy_to(here, bucket.url)
    said = []
    for root, output in ((here, tmp_path / "arrow"), (bucket.url, f"{bucket.url}/arrow")):
        argv = ("--to", "meta-arrow", "--data", f"{root}/bytes", "--patches", f"{root}/patches")
        assert run(export, *argv, "--output", output) == 0
        said.append(capsys.readouterr().out.replace(str(output), "ARROW"))
    assert said[0] == said[1]
    assert results(f"{bucket.url}/arrow") == results(tmp_path / "arrow")
    assert sum(name.endswith(".complete") for name in results(f"{bucket.url}/arrow")) >= 3
    assert run(export, *argv, "--output", output) == 0
    assert "already done" in capsys.readouterr().out


def test_scores_there_are_the_scores_here(bucket, here, small_entropy_model, tmp_path, capsys):
    copy_to(here, bucket.url)
    for root, output in ((here, tmp_path / "scores"), (bucket.url, f"{bucket.url}/scores")):
        argv = ("--data", f"{root}/bytes", "--model", small_entropy_model, "--by", "lang,source")
        assert run(score, *argv, "--output", output) == 0
    expected = results(tmp_path / "scores")
    assert "_summary.json" in expected
    assert results(output) == expected
    # The summary alone is made anew.
    capsys.readouterr()
    before = {f.path: f.version for f in storage.list_below(output) if f.path.endswith(".parquet")}
    argv = ("--data", f"{bucket.url}/bytes", "--model", small_entropy_model, "--by", "lang")
    assert run(score, *argv, "--output", output) == 0
    after = {f.path: f.version for f in storage.list_below(output) if f.path.endswith(".parquet")}
    assert after == before
    assert results(output)["_summary.json"] != expected["_summary.json"]


def test_raw_input_from_a_store_is_scored_into_a_store(bucket, small_entropy_model, capsys):
    bucket.put("in/a.txt", b"The quick brown fox. " * 30)
    argv = ("--input", f"{bucket.url}/in", "--model", small_entropy_model)
    assert run(score, *argv, "--output", f"{bucket.url}/deep/scores") == 0
    assert read_manifest(f"{bucket.url}/deep/scores", "scores").totals["documents"] == 1
    assert read_manifest(f"{bucket.url}/deep/scores-bytes", "byte_shards").totals["bytes"] == 630


def alter(shard):
    """Alters a byte of a shard; here so that no listing shows it."""
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    if storage.is_remote(shard):
        storage.replace(shard, bytes(data))
        return
    before = os.stat(shard)
    with open(shard, "r+b") as file:
        file.write(data)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_verify_makes_again_what_was_altered(root, small_corpus, capsys):
    output = as_place(f"{root}/bytes")
    argv = ("--input", small_corpus, "--output", output, "--target-shard-bytes", "5KB")
    assert run(encode, *argv) == 0
    expected = results(output)
    shard = output / read_manifest(output).shards[1].name
    alter(shard)
    capsys.readouterr()
    assert run(encode, *argv) == 0  # which trusts the manifest
    assert "already done" in capsys.readouterr().out
    assert results(output) != expected
    assert run(encode, *argv, "--verify") == 0
    captured = capsys.readouterr()
    assert "encode: done." in captured.out
    assert "units are finished; going on from there" in captured.err
    assert results(output) == expected
    assert run(encode, *argv, "--verify") == 0
    assert "already done" in capsys.readouterr().out


def test_an_output_in_no_bucket_is_refused_before_work(bucket, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a")
    output = f"{bucket.url}-none/bytes"
    assert run(encode, "--input", tmp_path / "a.txt", "--output", output) == 2
    said = capsys.readouterr().err
    assert f"there is no bucket {bucket.url}-none, check its name" in said
    assert said.count("\n") == 1
