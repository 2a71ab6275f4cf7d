"""Trainings that read from a store and write to one, as those here; losses and all."""

import json

import pytest

from blt.cli import command
from blt.commands import train, train_entropy
from blt.dataset.manifest import read_manifest
from blt.dataset.storage import as_place
from blt.errors import WorkError
from blt.model.serialization import fingerprint, load_entropy_model
from blt.training.blt import train_blt
from blt.training.common import HistoryWriter, save_trained
from blt.training.entropy import EntropyTrainingConfig, train_entropy_model
from tests.blt.datasets import write_byte_dataset
from tests.blt.places import contents, copy_to
from tests.blt.training.test_blt import CONFIG, TEXTS, make_data

NUM_SHARDS = 11  # more than are kept


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BLT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def byte_data(tmp_path_factory):
    documents = {f"d{i}": b"some words again and again " * (1 + i % 3) for i in range(66)}
    folder = tmp_path_factory.mktemp("places") / "bytes"
    write_byte_dataset(folder, documents, num_shards=NUM_SHARDS)
    return folder


ENTROPY_CONFIG = EntropyTrainingConfig(
    model={"dim": 16, "num_layers": 1, "num_heads": 2, "window": 8},
    steps=40,
    batch_size=2,
    seq_len=64,
    shuffle_rows=4,
    history_records=4,
)


@pytest.fixture(scope="module")
def entropy_run(byte_data, tmp_path_factory):
    output = tmp_path_factory.mktemp("here") / "entropy.keras"
    return output, train_entropy_model(byte_data, output, ENTROPY_CONFIG)


def test_an_entropy_model_of_a_store_is_the_one_of_a_path(entropy_run, byte_data, gcs_bucket):
    here, expected = entropy_run
    data = copy_to(byte_data, f"{gcs_bucket.url}/bytes")
    output = f"{gcs_bucket.url}/models/entropy.keras"
    summary = train_entropy_model(str(data), output, ENTROPY_CONFIG)
    assert summary == {**expected, "output": output, "seconds": summary["seconds"]}
    assert contents(f"{gcs_bucket.url}/models") == contents(here.parent)
    assert fingerprint(load_entropy_model(output)) == expected["fingerprint"]


def test_a_blt_of_a_store_is_the_one_of_a_path(gcs_bucket, tmp_path):
    make_data(tmp_path / "train")
    expected = train_blt(tmp_path / "train", tmp_path / "run", CONFIG)
    data = copy_to(tmp_path / "train", f"{gcs_bucket.url}/train")
    output = f"{gcs_bucket.url}/run"
    summary = train_blt(data, output, CONFIG)
    model_file = f"{output}/model.keras"
    assert summary == {**expected, "output": model_file, "seconds": summary["seconds"]}
    assert contents(output) == contents(tmp_path / "run")
    assert read_manifest(output, "blt_run").fingerprints["blt"] == expected["fingerprint"]


@pytest.mark.slow
def test_datasets_here_and_in_a_store_are_trained_on_together(gcs_bucket, tmp_path):
    here, other = make_data(tmp_path / "a"), make_data(tmp_path / "b", texts=TEXTS[:20])
    there = copy_to(other, f"{gcs_bucket.url}/b")
    expected = train_blt([here, other], tmp_path / "run", CONFIG)
    summary = train_blt([here, there], tmp_path / "run-2", CONFIG)
    model_file = str(tmp_path / "run-2" / "model.keras")
    assert summary == {**expected, "output": model_file, "seconds": summary["seconds"]}
    assert contents(tmp_path / "run-2") == contents(tmp_path / "run")


def test_the_command_says_that_it_is_done_already(byte_data, gcs_bucket, capsys):
    data = copy_to(byte_data, f"{gcs_bucket.url}/bytes")
    output = f"{gcs_bucket.url}/e.keras"
    argv = ["--data", str(data), "--output", output, "--steps", "2", "--batch-size", "2"]
    argv += ["--seq-len", "32", "--json"]
    for how in ("done", "already done"):
        assert command.main(train_entropy, argv) == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["how"], summary["output"]) == (how, output)
    assert command.main(train_entropy, [*argv, "--seed", "7"]) == 2
    assert f"{output}: exists, made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("module", [train, train_entropy])
@pytest.mark.parametrize("flag", ["--data", "--output"])
def test_a_wrong_url_is_one_line_before_any_work(module, flag, byte_data, gcs_bucket, capsys):
    missing = "gs://no-such-bucket/x.keras"
    kind = "training shards" if module is train else "byte shards"
    argv = {"--data": f"{gcs_bucket.url}/nothing", "--output": f"{gcs_bucket.url}/o.keras"}
    expected = f"{gcs_bucket.url}/nothing: no such folder; {kind} expected"
    if flag == "--output" and module is train_entropy:
        argv |= {"--data": str(byte_data), "--output": missing}
        expected = "there is no bucket gs://no-such-bucket"
    assert command.main(module, [text for pair in argv.items() for text in pair]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1


def test_a_history_is_published_whole_whenever_the_model_was_judged(root):
    place = as_place(root) / "history.jsonl"
    place.parent.mkdir(parents=True)
    part = place.with_name("history.jsonl.part")
    history = HistoryWriter(place)
    assert part.read_bytes() == b""
    history.write({"step": 1})
    history.write({"step": 2, "held_out_nats": 1.0})
    assert part.read_text() == '{"step": 1}\n{"held_out_nats": 1.0, "step": 2}\n'
    assert not place.exists()
    history.finish()
    assert place.read_text() == '{"step": 1}\n{"held_out_nats": 1.0, "step": 2}\n'
    assert not part.exists()


def test_a_model_that_a_store_does_not_take_is_not_lost(entropy_run, gcs_bucket, tmp_path):
    model = load_entropy_model(entropy_run[0])
    with pytest.raises(WorkError, match="there is no bucket gs://gone") as error:
        save_trained(model, as_place("gs://gone/e.keras"))
    kept = str(error.value).partition("is kept in ")[2].partition(";")[0]
    assert fingerprint(load_entropy_model(kept)) == fingerprint(model)
