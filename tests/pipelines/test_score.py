"""`blt score` on real shards, models and runners."""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import duckdb
import pandas
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.dataset.manifest import read_manifest
from blt.dataset.splits import is_held_out
from blt.formats.byte_shard import read_byte_shard
from blt.tokenizer import tokens_to_bytes
from pipelines import beam_flags, patch, score, train_ngram

REPO = Path(__file__).parents[2]
PRECISION = ("--precision", "float32")  # auto is what is faster just now, on a busy machine too


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


def read_rows(folder):
    manifest = read_manifest(folder, "scores")
    tables = [pq.read_table(folder / shard.name) for shard in manifest.shards]
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(scope="module")
def patches(small_bytes, small_entropy_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("patches") / "patches"
    argv = ("--data", small_bytes, "--entropy-model", small_entropy_model, "--output", output)
    assert run(patch, *argv, "--threshold-nats", "4.5") == 0
    return output


@pytest.fixture(scope="module")
def small_blt(small_entropy_model, tmp_path_factory):
    """An untrained BLT that holds the small entropy model."""
    import keras

    from blt.model.blt import ByteLatentTransformer
    from blt.model.serialization import fingerprint, load_entropy_model, save_model
    from blt.patching.rules import PatchRule

    keras.utils.set_random_seed(4)
    entropy_model = load_entropy_model(small_entropy_model)
    model = ByteLatentTransformer(
        local_dim=32,
        global_dim=48,
        num_encoder_layers=1,
        num_global_layers=1,
        num_decoder_layers=1,
        local_attention_config={"type": "sliding_window", "num_heads": 2, "window": 16},
        global_attention_config={"type": "multi_head", "num_heads": 2},
        max_sequence_length=128,
        max_patches=64,
        entropy_model=entropy_model,
        patch_rule=PatchRule(rule="entropy", threshold_nats=4.5),
        entropy_fingerprint=fingerprint(entropy_model),
    )
    path = tmp_path_factory.mktemp("blt") / "model.keras"
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def blt_scores(small_bytes, patches, small_blt, tmp_path_factory):
    output = tmp_path_factory.mktemp("scored") / "scores"
    argv = ("--data", small_bytes, "--patches", patches, "--model", small_blt, *PRECISION)
    assert run(score, *argv, "--by", "lang,source", "--output", output) == 0
    return output


def test_every_byte_of_every_document_is_scored_once(blt_scores, small_bytes):
    sizes = {
        record.doc_id: len(tokens_to_bytes(record.tokens))
        for path in small_bytes.glob("bytes-*")
        for record in read_byte_shard(path)
    }
    rows = read_rows(blt_scores)
    assert {row["doc_id"]: row["num_bytes"] for row in rows} == sizes
    for row in rows:
        assert row["scored_bytes"] == row["num_bytes"]
        if row["num_bytes"]:
            bits = row["nats"] / math.log(2) / row["num_bytes"]
            assert row["bits_per_byte"] == pytest.approx(bits, rel=1e-12)
        else:
            assert row["bits_per_byte"] is None
    assert max(sizes.values()) > 5000  # many windows of 128


@pytest.mark.parametrize("made", ["blt_scores", "patches"])
def test_a_folder_reads_as_the_table_that_it_holds(made, request):
    """Was: Parquet magic bytes not found, in `manifest.json`."""
    folder = request.getfixturevalue(made)
    num_rows = read_manifest(folder).totals["documents"]
    assert pq.read_table(folder).num_rows == num_rows
    assert pyarrow.dataset.dataset(folder).count_rows() == num_rows
    query = f"SELECT count(*), count(doc_id) FROM read_parquet('{folder}/*.parquet')"
    assert duckdb.sql(query).fetchall() == [(num_rows, num_rows)]
    assert len(pandas.read_parquet(folder)) == num_rows
    # It passes over names with a dot, but not with an underscore.
    read = functools.partial(datasets.load_dataset, data_files="*.parquet", split="train")
    assert read(str(folder), cache_dir=str(folder.parent / "cache")).num_rows == num_rows


def test_the_corpus_figure_is_the_sum_of_bits_over_the_sum_of_bytes(blt_scores):
    rows = read_rows(blt_scores)
    summary = json.loads((blt_scores / "_summary.json").read_text())
    bits = math.fsum(row["nats"] for row in rows) / math.log(2)
    assert summary["bits_per_byte"] == pytest.approx(bits / sum(r["num_bytes"] for r in rows))
    by_lang = summary["by"]["lang"]["values"]
    assert set(by_lang) == {"de", "en"}
    assert sum(group["bytes"] for group in by_lang.values()) == summary["bytes"]


def test_another_grouping_makes_the_summary_anew_and_scores_nothing(
    blt_scores, small_bytes, patches, small_blt, tmp_path, capsys
):
    output = tmp_path / "scores"
    shutil.copytree(blt_scores, output)
    (stamp,) = {path.stat().st_mtime_ns for path in output.glob("scores-00000-*")}
    argv = ["--data", small_bytes, "--patches", patches, "--model", small_blt, "--output", output]
    argv += PRECISION
    assert run(score, *argv) == 0
    before, after = (json.loads((d / "_summary.json").read_text()) for d in (blt_scores, output))
    assert list(after["by"]) == ["source"]  # where nothing is said
    assert after["by"]["source"] == before["by"]["source"]
    assert {**after, "by": 0} == {**before, "by": 0}
    assert {path.stat().st_mtime_ns for path in output.glob("scores-00000-*")} == {stamp}
    assert read_manifest(output, "scores").config["by"] == ["source"]
    capsys.readouterr()
    assert run(score, *argv) == 0
    assert "already done" in capsys.readouterr().out


def test_a_name_that_nothing_can_be_grouped_by_is_said_before_the_work_and_after(
    small_bytes, small_entropy_model, tmp_path, capsys
):
    argv = ["--data", small_bytes, "--model", small_entropy_model, "--output", tmp_path / "scores"]
    assert run(score, *argv, "--by", "langs", "--dry-run") == 0
    expected = (
        "warning: --by langs: no document has a value in this field (there are source, lang). "
        "Did you"
    )
    assert expected in capsys.readouterr().err
    assert run(score, *argv, "--by", "langs", "--json") == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "--by langs: no document has a value in this field" in warning


def test_the_entropy_model_held_by_the_blt_cuts_the_same_patches(
    blt_scores, small_bytes, small_blt, tmp_path
):
    argv = ("--data", small_bytes, "--model", small_blt, "--output", tmp_path / "scores")
    assert run(score, *argv, *PRECISION) == 0
    for ours, theirs in zip(read_rows(tmp_path / "scores"), read_rows(blt_scores), strict=True):
        assert ours["num_patches"] == theirs["num_patches"]
        assert ours["nats"] == pytest.approx(theirs["nats"], rel=1e-6)


def test_an_entropy_model_scores_too_and_agrees_with_the_boundaries(
    small_bytes, small_entropy_model, patches, tmp_path
):
    argv = ("--data", small_bytes, "--model", small_entropy_model, "--output", tmp_path / "scores")
    assert run(score, *argv) == 0
    by_id = {row["doc_id"]: row["nats"] for row in read_rows(tmp_path / "scores")}
    for path in patches.glob("*.parquet"):
        for row in pq.read_table(path, columns=["doc_id", "nats"]).to_pylist():
            assert by_id[row["doc_id"]] == pytest.approx(row["nats"], rel=1e-9)


def test_the_held_out_split_is_the_one_of_every_stage(small_bytes, small_blt, tmp_path):
    argv = ("--data", small_bytes, "--model", small_blt, "--split", "valid")
    assert run(score, *argv, "--valid-fraction", "0.3", "--output", tmp_path / "scores") == 0
    ids = [row["doc_id"] for row in read_rows(tmp_path / "scores")]
    assert 5 < len(ids) < 35
    assert all(is_held_out(doc_id, fraction=0.3, seed=0) for doc_id in ids)


def test_worker_processes_give_equal_scores(blt_scores, small_bytes, patches, small_blt, tmp_path):
    argv = ("--data", small_bytes, "--patches", patches, "--model", small_blt, *PRECISION)
    assert run(score, *argv, "--output", tmp_path / "scores", "--direct_num_workers", "2") == 0
    assert read_rows(tmp_path / "scores") == read_rows(blt_scores)


def test_killed_and_run_again_it_ends_the_same(
    blt_scores, small_bytes, patches, small_blt, tmp_path
):
    argv = ["--data", small_bytes, "--patches", patches, "--model", small_blt, *PRECISION]
    argv += ["--output", tmp_path / "scores"]
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.score", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stderr=log.open("w"),
    )
    deadline = time.monotonic() + 90
    while not list((tmp_path / "scores" / "_units").glob("0*.json")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "scores" / "_manifest.json").exists()
    assert run(score, *argv) == 0
    assert read_rows(tmp_path / "scores") == read_rows(blt_scores)
    names = sorted(p.name for p in (tmp_path / "scores").rglob("*"))
    assert names == sorted(p.name for p in blt_scores.rglob("*"))


def test_raw_input_is_encoded_and_scored(small_blt, tmp_path, capsys):
    (tmp_path / "page.txt").write_text("Bytes, patches and bits.\n")
    argv = ("--input", tmp_path / "page.txt", "--model", small_blt, "--output", tmp_path / "scores")
    assert run(score, *argv) == 0
    (row,) = read_rows(tmp_path / "scores")
    assert (row["doc_id"], row["num_bytes"]) == ("page.txt", 25)
    assert "1 document, 25 B" in capsys.readouterr().out


def test_what_encoding_refuses_is_said_with_the_way_to_other_flags(small_blt, tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text('{"text": "good"}\nbad\n')
    argv = ("--input", tmp_path / "x.jsonl", "--model", small_blt, "--output", tmp_path / "scores")
    assert run(score, *argv) == 1
    err = capsys.readouterr().err
    assert "`blt score` does not have --max-lost-fraction: run `blt encode` with it" in err
    argv = ("--input", tmp_path / "none", "--model", small_blt, "--output", tmp_path / "scores")
    assert run(score, *argv) == 2
    assert "does not have" not in capsys.readouterr().err


def test_boundaries_of_another_entropy_model_are_refused(small_bytes, small_blt, tmp_path, capsys):
    argv = ("--data", small_bytes, "--rule", "space", "--output", tmp_path / "patches")
    assert run(patch, *argv) == 0
    argv = ("--data", small_bytes, "--patches", tmp_path / "patches", "--model", small_blt)
    assert run(score, *argv, "--output", tmp_path / "scores") == 2
    err = capsys.readouterr().err
    assert "a rule without an entropy model, but entropy model" in err
    assert not (tmp_path / "scores").exists()


def test_a_model_of_no_kind_is_refused_in_one_line(small_bytes, tmp_path, capsys):
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04 but not really")
    argv = ("--data", small_bytes, "--model", tmp_path / "model.keras", "--output", tmp_path / "s")
    assert run(score, *argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "model.keras: not a .keras model file" in err


def test_keras_alone_reads_a_model_once_blt_is_imported(small_blt):
    program = f"import blt, keras; print(keras.models.load_model({str(small_blt)!r}).name)"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert finished.stdout.strip() == "byte_latent_transformer", finished.stderr[-500:]


def test_engines_of_worker_processes_share_the_cores(
    small_bytes, small_entropy_model, tmp_path, monkeypatch
):
    stages = []

    def remember(stage, *_args, **_options):
        stages.append(stage)
        return None, "dry run"

    monkeypatch.setattr(beam_flags, "num_cores", lambda: 8)
    monkeypatch.setattr(score, "run_stage", remember)
    argv = ["--data", small_bytes, "--model", small_entropy_model, "--output", tmp_path / "scores"]
    for flags in ([], ["--direct_num_workers", "2"]):
        assert command.main(score, [str(arg) for arg in [*argv, *flags]]) == 0
    assert [stage.run_unit.options.num_threads for stage in stages] == [None, 4]


def test_documents_that_the_model_was_trained_on_are_not_called_held_out(
    small_bytes, tmp_path, capsys
):
    model = tmp_path / "m.ngram"
    argv = ("--data", small_bytes, "--output", model, "--order", "2", "--seed", "7")
    argv += ("--valid-fraction", "0.3")
    assert run(train_ngram, *argv) == 0
    ids = [r.doc_id for path in small_bytes.glob("*.tfrecord") for r in read_byte_shard(path)]
    num_held_out = sum(is_held_out(doc_id, fraction=0.3, seed=7) for doc_id in set(ids))

    def said(*flags):
        output = tmp_path / ("scores" + "".join(flags))
        capsys.readouterr()
        assert run(score, "--data", small_bytes, "--model", model, "--output", output, *flags) == 0
        summary = json.loads((output / "_summary.json").read_text())
        trained = summary["trained_on"]["documents"]
        words = capsys.readouterr().out
        assert (f"of which {trained} were trained on" in words) == (summary["split"] != "valid")
        assert ("held-out document" in words) == (summary["split"] == "valid")
        return summary["split"], summary["documents"], trained

    assert said() == ("valid", num_held_out, 0)
    assert said("--split", "valid") == ("valid", num_held_out, 0)
    assert said("--split", "all") == ("all", 60, 60 - num_held_out)
    assert said("--split", "train") == ("train", 60 - num_held_out, 60 - num_held_out)
    _, documents, trained = said("--split", "valid", "--valid-fraction", "0.2")
    assert 0 < documents < num_held_out
    assert trained == 0


def test_held_out_by_another_seed_than_the_training_is_said(small_bytes, tmp_path, capsys):
    model = tmp_path / "m.ngram"
    argv = ("--data", small_bytes, "--output", model, "--order", "2")
    assert run(train_ngram, *argv, "--valid-fraction", "0.3") == 0
    argv = ("--data", small_bytes, "--model", model, "--output", tmp_path / "scores")
    assert run(score, *argv, "--split", "valid", "--seed", "8", "--valid-fraction", "0.3") == 0
    summary = json.loads((tmp_path / "scores" / "_summary.json").read_text())
    trained = summary["trained_on"]["documents"]
    assert 0 < trained < summary["documents"]
    words = capsys.readouterr().out
    assert f"{summary['documents']} documents, of which {trained} were trained on" in words


def test_of_other_byte_shards_all_documents_are_scored(small_bytes, small_corpus, tmp_path, capsys):
    model = tmp_path / "m.ngram"
    assert run(train_ngram, "--data", small_bytes, "--output", model, "--order", "2") == 0
    argv = ("--input", small_corpus, "--doc-per", "line", "--model", model)
    assert run(score, *argv, "--output", tmp_path / "scores") == 0
    summary = json.loads((tmp_path / "scores" / "_summary.json").read_text())
    assert (summary["split"], summary["documents"], summary["trained_on"]) == ("all", 60, None)
    assert "score: done. 60 documents, " in capsys.readouterr().out
