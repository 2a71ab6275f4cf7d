"""Commands whose model, data and result lie in a store give what they give here, to the byte."""

import json

import pytest

from blt.cli import command
from blt.commands import calibrate
from blt.dataset import storage
from blt.dataset.storage import as_place
from pipelines import patch, score, train_ngram
from tests.blt.places import contents, copy_to


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BLT_CACHE", str(tmp_path / "cache"))


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


def run_all(data, root):
    """Trains, calibrates, patches and scores; returns the summary of the scores."""
    model, yaml, patches, scores = (
        f"{root}/{name}" for name in ("model.ngram", "t.yaml", "patches", "scores")
    )
    assert run(train_ngram, "--data", data, "--output", model, "--order", "3") == 0
    argv = ("--data", data, "--entropy-model", model)
    plot = ("--plot", f"{root}/t.svg")
    assert run(calibrate, *argv, "--target-patch-bytes", "4", "--output", yaml, *plot) == 0
    assert run(patch, *argv, "--calibration", yaml, "--output", patches) == 0
    argv = ("--data", data, "--model", model, "--patches", patches)
    assert run(score, *argv, "--output", scores) == 0
    return json.loads(as_place(f"{scores}/_summary.json").read_text())


@pytest.fixture(scope="module")
def here(small_bytes, tmp_path_factory):
    root = tmp_path_factory.mktemp("here")
    return root, run_all(small_bytes, root)


def results(root):
    return {
        name: data
        for name, data in contents(root).items()
        if not name.startswith(("bytes/", "cache/")) and "_units/" not in name
    }


def without_seconds(note):
    note = json.loads(note)
    note["summary"].pop("seconds", None)
    return note


def test_the_files_are_those_of_a_run_here(here, small_bytes, bucket):
    data = copy_to(small_bytes, f"{bucket.url}/d/bytes")
    summary = run_all(data, f"{bucket.url}/d")
    # The note beside the model says what was trained on, as it does here.
    assert summary == here[1]
    assert summary["split"] == "valid"
    expected, found = results(here[0]), results(f"{bucket.url}/d")
    assert sorted(found) == sorted(expected)  # and no counts are left
    for name in expected:
        if name.endswith("_plan.json"):
            continue  # has a token of its run
        if name == "model.ngram.json":
            assert without_seconds(found[name]) == without_seconds(expected[name])
        else:
            assert found[name] == expected[name], name


def test_done_is_done(here, small_bytes, gcs_bucket, capsys):
    data = copy_to(small_bytes, f"{gcs_bucket.url}/bytes")
    model = f"{gcs_bucket.url}/m.ngram"
    for how in ("done", "already done"):
        argv = ("--data", data, "--output", model, "--order", "2", "--json")
        assert run(train_ngram, *argv) == 0
        assert json.loads(capsys.readouterr().out)["how"] == how
    for how in ("done", "already done"):
        argv = ("--data", data, "--entropy-model", model, "--output", f"{gcs_bucket.url}/t.yaml")
        assert run(calibrate, *argv, "--json") == 0
        assert json.loads(capsys.readouterr().out)["how"] == how


def test_several_workers_count_a_dataset_of_a_store(here, small_bytes, gcs_bucket):
    data = copy_to(small_bytes, f"{gcs_bucket.url}/bytes")
    model = f"{gcs_bucket.url}/m.ngram"
    argv = ("--data", data, "--output", model, "--order", "3", "--direct_num_workers", "2")
    assert run(train_ngram, *argv) == 0
    assert as_place(model).read_bytes() == (here[0] / "model.ngram").read_bytes()


def test_a_damaged_shard_is_named_by_its_url_and_nothing_is_left(small_bytes, gcs_bucket, capsys):
    data = copy_to(small_bytes, f"{gcs_bucket.url}/bytes")
    shard = next(data.glob("bytes-*1-000.tfrecord"))
    storage.replace(shard, shard.read_bytes()[:-9])
    argv = ("--data", data, "--output", f"{gcs_bucket.url}/out/m.ngram")
    assert run(train_ngram, *argv) == 1
    assert f"{shard}: its sha256 is not the manifest's" in capsys.readouterr().err
    assert not list(storage.list_below(f"{gcs_bucket.url}/out"))


@pytest.mark.parametrize("module", [calibrate, patch, score])
@pytest.mark.parametrize(
    ("model", "words"),
    [("{}/m.ngram", "{}/m.ngram: no such file"), ("gs://gone/m.ngram", "no bucket gs://gone")],
)
def test_a_model_that_is_not_there_is_one_line(
    module, model, words, small_bytes, gcs_bucket, tmp_path, capsys
):
    flag = "--model" if module is score else "--entropy-model"
    argv = ("--data", small_bytes, flag, model.format(gcs_bucket.url), "--output", tmp_path / "o")
    assert run(module, *argv) == 2
    err = capsys.readouterr().err
    assert words.format(gcs_bucket.url) in err and err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_calibration_that_is_not_there_is_one_line(here, small_bytes, gcs_bucket, capsys):
    url = f"{gcs_bucket.url}/t.yaml"
    argv = ("--data", small_bytes, "--entropy-model", here[0] / "model.ngram")
    out = f"{gcs_bucket.url}/o"
    assert run(patch, *argv, "--calibration", url, "--output", out) == 2
    err = capsys.readouterr().err
    assert f"--calibration {url}: cannot be read" in err and err.count("\n") == 1
