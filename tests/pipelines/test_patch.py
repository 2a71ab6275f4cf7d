"""`blt patch` and `blt calibrate` on real shards, runners and models."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from blt.cli import command
from blt.commands import calibrate
from blt.dataset.manifest import read_manifest
from blt.formats.byte_shard import read_byte_shard
from pipelines import patch
from tests.shared import dataset_files

REPO = Path(__file__).parents[2]


def run(*argv):
    return command.main(patch, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def threshold(small_bytes, small_entropy_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "threshold.yaml"
    argv = ["--data", small_bytes, "--entropy-model", small_entropy_model, "--output", path]
    argv += ["--target-patch-bytes", "3", "5"]
    assert command.main(calibrate, [str(arg) for arg in argv]) == 0
    return path


@pytest.fixture(scope="module")
def argv(small_bytes, small_entropy_model, threshold):
    argv = ["--data", small_bytes, "--entropy-model", small_entropy_model]
    return [*argv, "--calibration", threshold, "--target-patch-bytes", "3"]


@pytest.fixture(scope="module")
def patched(argv, tmp_path_factory):
    output = tmp_path_factory.mktemp("patched") / "patches"
    assert run(*argv, "--output", output) == 0
    return output


def test_row_i_describes_record_i_and_patches_cover_it(patched, small_bytes):
    manifest = read_manifest(patched, "boundaries")
    assert manifest.totals["documents"] == 60
    for shard in manifest.shards:
        name = shard.name.replace("patches-", "bytes-").replace(".parquet", ".tfrecord")
        records = list(read_byte_shard(small_bytes / name))
        rows = pq.read_table(patched / shard.name).to_pylist()
        assert [row["doc_id"] for row in rows] == [record.doc_id for record in records]
        for row, record in zip(rows, records, strict=True):
            assert sum(row["patch_lengths"]) == row["num_tokens"] == len(record.tokens)
            assert row["patch_lengths"][0] == 1  # BOS


def test_the_mean_is_the_one_that_was_calibrated(patched):
    totals = read_manifest(patched).totals
    assert totals["bytes"] / totals["patches"] == pytest.approx(3, rel=0.02)


def test_the_lineage_names_parent_and_model(patched, small_bytes, threshold):
    manifest = read_manifest(patched)
    assert manifest.parents == {"byte_shards": read_manifest(small_bytes).sha256}
    made_with = yaml.safe_load(threshold.read_text())["entropy_model"]
    assert manifest.fingerprints == {"entropy_model": made_with}


def test_worker_processes_give_equal_boundaries(argv, patched, tmp_path):
    assert run(*argv, "--output", tmp_path / "patches", "--direct_num_workers", "2") == 0
    for path in patched.glob("*.parquet"):
        columns = ["doc_id", "part", "num_tokens", "patch_lengths"]
        again = pq.read_table(tmp_path / "patches" / path.name, columns=columns)
        assert again.equals(pq.read_table(path, columns=columns))


def test_killed_and_run_again_it_ends_the_same(argv, tmp_path):
    # All of it in processes of their own: how many threads TensorFlow uses for an operation, which
    # is fixed where it is first imported, shows in the last bits of a sum.
    def start(name):
        command_line = [sys.executable, "-m", "pipelines.patch", *map(str, argv)]
        command_line += ["--output", str(tmp_path / name)]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.Popen(command_line, env=environment, stderr=log.open("w"))

    log = tmp_path / "log"
    assert start("undisturbed").wait() == 0, log.read_text()
    process = start("patches")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "patches" / "_units").glob("0*.json")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "patches" / "_manifest.json").exists()
    assert start("patches").wait() == 0, log.read_text()
    assert dataset_files(tmp_path / "patches") == dataset_files(tmp_path / "undisturbed")


def test_rules_without_a_model_need_none(small_bytes, tmp_path):
    assert run("--data", small_bytes, "--rule", "space", "--output", tmp_path / "patches") == 0
    totals = read_manifest(tmp_path / "patches").totals
    assert 1 < totals["bytes"] / totals["patches"] < 8


def test_a_damaged_byte_shard_is_named_and_the_others_are_done(small_bytes, tmp_path, capsys):
    data = tmp_path / "bytes"
    shutil.copytree(small_bytes, data)
    name = json.loads((data / "_manifest.json").read_text())["shards"][1]["name"]
    content = bytearray((data / name).read_bytes())
    content[40] ^= 1
    (data / name).write_bytes(content)
    assert run("--data", data, "--rule", "byte", "--output", tmp_path / "patches") == 1
    err = capsys.readouterr().err
    assert f"{name}: its sha256 is not the manifest's" in err
    assert "Traceback" not in err
    num_shards = len(list(data.glob("*.tfrecord")))
    assert len(list((tmp_path / "patches").glob("*.parquet"))) == num_shards - 1
    assert not (tmp_path / "patches" / "_manifest.json").exists()


MISTAKES = {
    "no data": ("--data {tmp}/nope --rule byte", "nope: no such folder; byte shards expected"),
    "data of another kind": ("--data {patched} --rule byte", "holds patch boundaries, but byte"),
    "no model": ("--data {bytes} --threshold-nats 1", "--entropy-model: missing; rule 'entropy'"),
    "no threshold": ("--data {bytes} --entropy-model {model}", "--threshold-nats: missing"),
    "model that is no model": (
        "--data {bytes} --entropy-model {tmp}/x.keras --threshold-nats 1",
        "x.keras: not a .keras model file",
    ),
    "no such rule": ("--data {bytes} --rule entropi", "--rule: invalid choice: 'entropi'"),
    "threshold in other units": (
        "--data {bytes} --entropy-model {model} --threshold-nats 60",
        "--threshold-nats 60.0: entropies are in nats",
    ),
    "several targets": (
        "--data {bytes} --entropy-model {model} --calibration {yaml}",
        "choose one of its targets with --target-patch-bytes: 3, 5",
    ),
    "lines of no model": (
        "--data {bytes} --rule space --reset-on-newline",
        "--reset-on-newline: needs --entropy-model",
    ),
    "calibration of whole documents": (
        "--data {bytes} --entropy-model {model} --calibration {yaml} --target-patch-bytes 3 "
        "--reset-on-newline",
        "--reset-on-newline: the calibration",
    ),
    "calibration of another model": (
        "--data {bytes} --rule byte --calibration {yaml} --target-patch-bytes 3",
        "Calibrate again with the model",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    mistake, small_bytes, small_entropy_model, patched, threshold, tmp_path, capsys
):
    (tmp_path / "x.keras").write_text("not a model")
    text, message = MISTAKES[mistake]
    places = {"tmp": tmp_path, "bytes": small_bytes, "model": small_entropy_model}
    argv = text.format(**places, patched=patched, yaml=threshold).split()
    assert run(*argv, "--output", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert message in err
    assert not (tmp_path / "out").exists()


def test_another_threshold_on_the_same_output_is_refused(argv, patched, capsys):
    changed = [*argv[:-1], "5", "--output", patched]
    assert run(*changed) == 2
    assert "--threshold-nats (" in capsys.readouterr().err
