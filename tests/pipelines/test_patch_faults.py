"""What `blt patch` does when a worker, the disk, the data or the model will not do.

(Killed as a whole and run again: tests/pipelines/test_patch.py.)
"""

import dataclasses
import importlib
import json
import os
import random
import resource
import shutil
import signal

import keras
import pytest

from blt.cli import command
from blt.dataset.manifest import read_manifest
from blt.dataset.storage import sha256_file
from blt.engine import loading as engine_loading
from blt.engine import precision
from blt.errors import WorkError
from blt.scoring import loading as scoring_loading
from pipelines import patch
from pipelines.run_units import run_stage
from tests.blt.datasets import write_byte_dataset
from tests.shared import dataset_files


def run(*argv):
    return command.main(patch, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def undisturbed(small_bytes, tmp_path_factory):
    """What patching the small dataset by spaces gives when nothing goes wrong."""
    output = tmp_path_factory.mktemp("undisturbed") / "patches"
    assert run("--data", small_bytes, "--rule", "space", "--output", output) == 0
    return dataset_files(output)


def one_line_error(capsys):
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("blt patch: ")]
    return line


@dataclasses.dataclass(frozen=True)
class _DieOnce:
    """Kills the worker process that gets the unit, the first time."""

    work: object
    scratch: object

    def __call__(self, unit, output, progress):
        if unit.index == 2:
            try:
                (self.scratch / "died").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.work(unit, output, progress)


def test_a_killed_worker_ends_the_run_and_the_same_command_finishes_it(
    small_bytes, undisturbed, tmp_path, monkeypatch, capsys
):
    def with_death(stage, *args, **kwargs):
        deadly = _DieOnce(stage.run_unit, tmp_path)
        return run_stage(dataclasses.replace(stage, run_unit=deadly), *args, **kwargs)

    monkeypatch.setattr(patch, "run_stage", with_death)
    argv = ["--data", small_bytes, "--rule", "space", "--output", tmp_path / "patches"]
    assert run(*argv, "--direct_num_workers", "2") == 1
    line = one_line_error(capsys)
    assert "the Beam runner failed" in line
    assert "Finished units are kept; run the same command again" in line
    assert not (tmp_path / "patches" / "_manifest.json").exists()
    assert run(*argv) == 0
    assert dataset_files(tmp_path / "patches") == undisturbed


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-7])


def keep_nothing(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


DAMAGES = {
    flip_a_bit: "its sha256 is not the manifest's",
    cut_short: "its sha256 is not the manifest's",
    keep_nothing: "its sha256 is not the manifest's",
    remove: "missing, though the manifest lists it",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_each_time_and_once_it_is_fixed_the_run_is_finished(
    small_bytes, undisturbed, tmp_path, capsys, damage
):
    data, output = tmp_path / "bytes", tmp_path / "patches"
    shutil.copytree(small_bytes, data)
    shard = read_manifest(data).shards[1]
    damage(data / shard.name)
    argv = ["--data", data, "--rule", "space", "--output", output]
    for attempt in range(2):
        assert run(*argv) == 1
        line = one_line_error(capsys)
        assert "1 of 7 units failed: unit 1: " in line
        assert f"{data / shard.name}: {DAMAGES[damage]}" in line
        assert "Run the same command again once that is fixed; finished units are kept." in line
        assert not (output / "_manifest.json").exists()
        done = sorted(path.name for path in output.glob("*.parquet"))
        assert len(done) == 6, attempt
        assert "patches-00000-001.parquet" not in done
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    shutil.copy(small_bytes / shard.name, data / shard.name)
    assert run(*argv) == 0
    assert dataset_files(output) == undisturbed
    for name, time in before.items():  # what was done is not done again
        assert (output / name).stat().st_mtime_ns == time


def test_damage_that_the_manifest_swears_to_is_found_by_the_checksum_of_the_record(
    small_bytes, tmp_path, capsys
):
    data = tmp_path / "bytes"
    shutil.copytree(small_bytes, data)
    manifest = json.loads((data / "_manifest.json").read_text())
    entry = manifest["shards"][0]
    flip_a_bit(data / entry["name"])
    entry["sha256"] = sha256_file(data / entry["name"])
    (data / "_manifest.json").write_text(json.dumps(manifest))
    assert run("--data", data, "--rule", "space", "--output", tmp_path / "patches") == 1
    line = one_line_error(capsys)
    assert "1 of 7 units failed: unit 0: " in line
    assert entry["name"] in line
    assert "checksum" in line


@pytest.fixture
def full_disk():
    """Lets no file grow beyond 40 KB, as a full disk would, until it is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Two shards, of which the second has boundaries that take more than 40 KB."""
    rng = random.Random(0)
    large = bytes(rng.choice(b"aA .,\n0") for _ in range(400_000))
    folder = tmp_path_factory.mktemp("uneven") / "bytes"
    write_byte_dataset(folder, {"small": b"a b", "large": large}, num_shards=2)
    return folder


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(
    uneven, tmp_path, capsys, full_disk
):
    output = tmp_path / "patches"
    argv = ["--data", uneven, "--rule", "space", "--output", output]
    assert run(*argv) == 1
    full_disk()
    line = one_line_error(capsys)
    assert f"{output / 'patches-00001-000.parquet'}: cannot be written (File too large)." in line
    assert "Make room for it." in line
    assert [path.name for path in output.glob("*.parquet")] == ["patches-00000-000.parquet"]
    assert not list(output.rglob(".tmp-*"))
    assert not (output / "_manifest.json").exists()
    assert run(*argv) == 0
    assert run("--data", uneven, "--rule", "space", "--output", tmp_path / "other") == 0
    assert dataset_files(output) == dataset_files(tmp_path / "other")


@pytest.mark.parametrize(
    "error",
    [
        WorkError("unit 2: no room. [while running 'WorkOnUnits/ParDo(_WorkOnUnit)']"),
        RuntimeError(
            "Traceback (most recent call last):\n  File …\nOSError: [Errno 28] No space left\n\n"
            "blt.errors.WorkError: unit 2: no room. [while running 'WorkOnUnits']\n\nmore"
        ),
    ],
)
def test_what_a_worker_says_at_its_end_is_told_in_its_own_words(
    small_bytes, tmp_path, monkeypatch, capsys, error
):
    def fail(*args):
        raise error

    monkeypatch.setattr("pipelines.run_units.build_pipeline", fail)
    argv = ["--data", small_bytes, "--rule", "space", "--output", tmp_path / "patches"]
    assert run(*argv) == 1
    assert one_line_error(capsys) == "blt patch: unit 2: no room."


@pytest.fixture(scope="module")
def other_models(tmp_path_factory):
    """Entropy models of random weights: one of our vocabulary, one of another."""
    from blt.model.entropy_model import EntropyModel
    from blt.model.serialization import save_model

    folder = tmp_path_factory.mktemp("models")
    for name, vocab_size in (("other", 260), ("bytes", 256)):
        keras.utils.set_random_seed(9)
        model = EntropyModel(vocab_size=vocab_size, dim=16, num_layers=1, num_heads=2, window=32)
        save_model(model, folder / f"{name}.keras")
    return folder


def test_a_model_of_another_vocabulary_is_refused_before_any_work(
    small_bytes, other_models, tmp_path, capsys
):
    model = other_models / "bytes.keras"
    argv = ["--data", small_bytes, "--entropy-model", model, "--threshold-nats", "3"]
    assert run(*argv, "--output", tmp_path / "patches") == 2
    line = one_line_error(capsys)
    assert f"{model}: has a vocabulary of 256 ids, but byte shards have 260" in line
    assert not (tmp_path / "patches").exists()


@pytest.mark.parametrize("command_name", ["patch", "score"])
def test_the_measured_precision_of_an_earlier_run_is_kept(
    command_name, small_bytes, small_entropy_model, tmp_path, monkeypatch, capsys
):
    module = importlib.import_module(f"pipelines.{command_name}")
    flag = "--entropy-model" if command_name == "patch" else "--model"
    argv = ["--data", small_bytes, flag, small_entropy_model, "--output", tmp_path / "out"]
    argv += ["--threshold-nats", "3"] if command_name == "patch" else []
    argv = [str(argument) for argument in argv]
    for speedup in (3.0, 1.0):  # the machine is busy the second time
        monkeypatch.setattr(precision, "measure_speedup", lambda *shape, ratio=speedup: ratio)
        monkeypatch.setattr(engine_loading, "_engines", {})
        monkeypatch.setattr(scoring_loading, "_loaded", {})
        assert command.main(module, argv) == 0
    assert "already done" in capsys.readouterr().out
    config = read_manifest(tmp_path / "out").config
    assert config.get("score_spec", config)["precision"] == "bfloat16"


def test_what_differs_from_an_earlier_run_is_named_and_overwrite_makes_it_anew(
    small_bytes, small_entropy_model, other_models, tmp_path, capsys
):
    def argv(model, threshold, output):
        return [
            *("--data", small_bytes, "--entropy-model", model),
            *("--threshold-nats", threshold, "--output", tmp_path / output),
        ]

    first = argv(small_entropy_model, "3", "patches")
    assert run(*first) == 0
    before = dataset_files(tmp_path / "patches")
    other = other_models / "other.keras"
    changes = {
        "--threshold-nats (3.0, now 4.0)": argv(small_entropy_model, "4", "patches"),
        "the entropy model (another fingerprint)": argv(other, "3", "patches"),
    }
    for message, changed in changes.items():
        capsys.readouterr()
        assert run(*changed) == 2
        line = one_line_error(capsys)
        assert f"made by a run that differs in {message}. " in line
        assert "give --overwrite to make it anew" in line
        assert dataset_files(tmp_path / "patches") == before
    assert run(*argv(other, "4", "patches"), "--overwrite") == 0
    assert run(*argv(other, "4", "fresh")) == 0
    assert dataset_files(tmp_path / "patches") == dataset_files(tmp_path / "fresh") != before
