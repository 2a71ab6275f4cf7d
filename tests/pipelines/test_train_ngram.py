"""`blt train-ngram`, and the commands that take its model."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.commands import calibrate, inspect, train
from blt.dataset.manifest import read_manifest
from pipelines import patch, score, train_ngram
from pipelines.ngram_transform import SumCounts


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def ngram(small_bytes, tmp_path_factory):
    path = tmp_path_factory.mktemp("ngram") / "model.ngram"
    assert run(train_ngram, "--data", small_bytes, "--output", path, "--order", "4") == 0
    return path


@pytest.fixture(scope="module")
def patched(ngram, small_bytes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ngram-patched")
    argv = ["--data", small_bytes, "--entropy-model", ngram]
    yaml = folder / "t.yaml"
    assert run(calibrate, *argv, "--target-patch-bytes", "4", "--output", yaml) == 0
    assert run(patch, *argv, "--calibration", yaml, "--output", folder / "patches") == 0
    return folder / "patches"


def test_the_summary_says_what_it_reached(small_bytes, ngram, capsys):
    argv = ("--data", small_bytes, "--output", ngram, "--order", "4", "--json")
    assert run(train_ngram, *argv) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["how"] == "already done"
    assert 0 < summary["documents"] < 60
    assert summary["held_out_bits_per_byte"] < 3  # words of a dozen; log2 260 is 8


def test_workers_and_shards_do_not_show(small_bytes, ngram, tmp_path):
    again = tmp_path / "again.ngram"
    argv = ("--data", small_bytes, "--order", "4", "--output", again)
    assert run(train_ngram, *argv, "--direct_num_workers", "2") == 0
    assert again.read_bytes() == ngram.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.ngram", "again.ngram.json"]


def test_it_patches_to_the_wanted_size(patched):
    totals = read_manifest(patched, "boundaries").totals
    assert totals["bytes"] / totals["patches"] == pytest.approx(4, rel=0.03)


def test_it_scores_what_the_boundaries_say_it_needs(ngram, patched, small_bytes, tmp_path):
    argv = ("--data", small_bytes, "--model", ngram, "--patches", patched, "--split", "all")
    assert run(score, *argv, "--output", tmp_path / "scores") == 0
    summary = json.loads((tmp_path / "scores" / "_summary.json").read_text())
    bits = read_manifest(patched).totals["entropy_model_bits"]
    assert summary["bits_per_byte"] * summary["bytes"] == pytest.approx(bits, abs=3)
    (path, *_) = (tmp_path / "scores").glob("*.parquet")
    spec = json.loads(pq.read_schema(path).metadata[b"score_spec"])
    assert spec["order"] == 4


def test_inspect_tells_what_it_is(ngram, capsys):
    assert run(inspect, ngram) == 0
    out = capsys.readouterr().out
    assert "an n-gram entropy model, made by `blt train-ngram`" in out
    assert "min_count" in out


def test_a_damaged_shard_is_named_and_nothing_is_left(small_bytes, tmp_path, capsys):
    data, output = tmp_path / "bytes", tmp_path / "out"
    shutil.copytree(small_bytes, data)
    name = json.loads((data / "_manifest.json").read_text())["shards"][1]["name"]
    content = bytearray((data / name).read_bytes())
    content[40] ^= 1
    (data / name).write_bytes(content)
    assert run(train_ngram, "--data", data, "--output", output / "m.ngram") == 1
    err = capsys.readouterr().err
    assert f"{name}: its sha256 is not the manifest's" in err
    assert "Traceback" not in err
    assert list(output.iterdir()) == []


def test_when_every_shard_is_damaged_it_says_so(small_bytes, tmp_path, capsys):
    data = tmp_path / "bytes"
    shutil.copytree(small_bytes, data)
    for path in data.glob("*.tfrecord*"):
        path.write_bytes(path.read_bytes()[:-1])
    assert run(train_ngram, "--data", data, "--output", tmp_path / "m.ngram") == 1
    err = capsys.readouterr().err
    assert "more shards failed)" in err
    assert "Traceback" not in err


def test_failures_alone_are_added_up():
    add_up = SumCounts()
    failed = [add_up.add_input(add_up.create_accumulator(), (None, why)) for why in "ba"]
    counts, failures = add_up.extract_output(add_up.merge_accumulators(failed))
    assert counts.num_documents == 0
    assert failures == ["a", "b"]


MISTAKES = {
    "no data": ("--data {tmp}/nope --output {tmp}/m.ngram", "nope: no such folder"),
    "another name": ("--data {bytes} --output {tmp}/m.keras", "file name ends with .ngram"),
    "order": ("--data {bytes} --output {tmp}/m.ngram --order 9", "--order 9: must be from 1 to 6"),
    "other settings": ("--data {bytes} --output {ngram} --order 3", "made with other settings"),
    "all held out": (
        "--data {bytes} --output {tmp}/m.ngram --valid-fraction 1",
        "no text to count",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(mistake, small_bytes, ngram, tmp_path, capsys):
    text, message = MISTAKES[mistake]
    argv = text.format(tmp=tmp_path, bytes=small_bytes, ngram=ngram).split()
    assert run(train_ngram, *argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.splitlines()[-1].startswith("blt train-ngram: ")
    assert not (tmp_path / "m.ngram").exists()


def test_a_file_that_is_no_model_is_refused_by_patch(small_bytes, tmp_path, capsys):
    (tmp_path / "x.ngram").write_text("not a model")
    argv = ("--data", small_bytes, "--entropy-model", tmp_path / "x.ngram")
    assert run(patch, *argv, "--threshold-nats", "1", "--output", tmp_path / "out") == 2
    assert "x.ngram: not an n-gram model, or damaged" in capsys.readouterr().err


def test_a_blt_cannot_hold_it(ngram, small_bytes, patched, tmp_path, capsys):
    from pipelines import pack

    argv = ("--data", small_bytes, "--patches", patched, "--output", tmp_path / "train")
    assert run(pack, *argv, "--seq-len", "128", "--max-patches", "64") == 0
    argv = ("--data", tmp_path / "train", "--entropy-model", ngram, "--output", tmp_path / "run")
    assert run(train, *argv) == 2
    assert "an n-gram model cannot be kept inside a model file" in capsys.readouterr().err
