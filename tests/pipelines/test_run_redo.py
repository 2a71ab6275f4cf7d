"""`blt run` once more, after something changed: what is said, what is made anew, what is kept."""

import json
import shutil

import pytest
import yaml

from blt.cli import command
from pipelines import run
from pipelines.chain import RECORD_NAME

CONFIG = {
    "valid_fraction": 0.3,
    "train_entropy": {"steps": 2, "batch_size": 2, "seq_len": 128},
    "calibrate": {"target_patch_bytes": 3},
    "pack": {"seq_len": 128},
    "train": {"steps": 2, "batch_size": 2},
}
OUTPUTS = {
    "encode": "bytes/_manifest.json",
    "train-entropy": "entropy.keras",
    "calibrate": "threshold.yaml",
    "patch": "patches/_manifest.json",
    "pack": "train/_manifest.json",
    "train": "blt/model.keras",
    "score (BLT)": "scores-blt/_manifest.json",
    "score (entropy model)": "scores-entropy/_manifest.json",
}
AFTER_CALIBRATE = list(OUTPUTS)[2:]


class Place:
    """A copy of a finished run, whose config can be changed."""

    def __init__(self, folder, corpus):
        self.folder, self.corpus, self.output = folder, corpus, folder / "out"

    def call(self, *argv, **changes):
        config = {"input": str(self.corpus), "output": str(self.output), **CONFIG, **changes}
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))
        return command.main(run, [str(self.folder / "config.yaml"), *map(str, argv)])

    def made(self):
        """Returns when each output was made."""
        return {
            label: (self.output / name).stat().st_mtime_ns
            for label, name in OUTPUTS.items()
            if (self.output / name).exists()
        }

    def made_since(self, before):
        return [label for label, at in self.made().items() if at != before.get(label)]


@pytest.fixture(scope="module")
def finished(small_corpus, made_once):
    def make(folder):
        assert Place(folder, small_corpus).call() == 0

    return Place(made_once("finished-run", make), small_corpus)


@pytest.fixture
def place(finished, small_corpus, tmp_path):
    shutil.copytree(small_corpus, tmp_path / "corpus")
    place = Place(tmp_path, small_corpus)
    shutil.copytree(finished.output, place.output)
    return place


CHANGE = {"calibrate": {"target_patch_bytes": 4}}


def test_a_changed_setting_is_said_before_any_work_with_what_follows(place, capsys):
    """Was: refused at the third stage, with advice that a chain cannot follow."""
    before = place.made()
    for dry in ((), ("--dry-run",)):
        assert place.call(*dry, **CHANGE) == 2
        err = capsys.readouterr().err
        assert "calibrate: target_patch_bytes ([3.0], now [4.0])." in err
        assert f"Stages to make anew: {', '.join(AFTER_CALIBRATE)}, report." in err
        assert "To keep: encode, train-entropy. Give --redo changed" in err
        assert "[1/9]" not in err
    assert place.made() == before


def test_redo_changed_makes_anew_what_follows_and_keeps_the_rest(place, capsys):
    before = place.made()
    assert place.call("--redo", "changed", "--dry-run", "--json", **CHANGE) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sorted(plan["anew"]) == sorted([*AFTER_CALIBRATE, "report"])
    assert plan["anew"]["calibrate"] == "target_patch_bytes ([3.0], now [4.0])"
    assert place.made() == before

    assert place.call("--redo", "changed", **CHANGE) == 0
    err = capsys.readouterr().err
    assert "made anew: exists, made with other settings or data (target patch bytes" in err
    assert place.made_since(before) == AFTER_CALIBRATE
    after = place.made()
    assert place.call(**CHANGE) == 0  # nothing has changed since
    assert place.made() == after


def interrupt(*_, **__):
    raise KeyboardInterrupt


def stop_at(monkeypatch, stage):
    """Spares the tests of what comes before it the trainings, which take a quarter of a minute."""
    monkeypatch.setattr(stage, "run", interrupt)


def test_what_was_made_anew_before_a_stop_is_kept(place, monkeypatch, capsys):
    before = place.made()
    stop_at(monkeypatch, run.train)
    assert place.call("--redo", "changed", **CHANGE) == 130
    assert place.made_since(before) == ["calibrate", "patch", "pack"]
    before = place.made()
    capsys.readouterr()
    assert place.call("--redo", "changed", **CHANGE) == 130
    assert capsys.readouterr().err.count("already done") == 5
    assert place.made() == before


def test_from_a_stage_all_that_follows_is_made_anew(place, monkeypatch, capsys):
    before = place.made()
    assert place.call("--from", "score") == 0
    assert place.made_since(before) == ["score (BLT)", "score (entropy model)"]
    stop_at(monkeypatch, run.train)
    assert place.call("--from", "patch") == 130
    assert place.made_since(before)[:2] == ["patch", "pack"]
    assert place.call("--from", "score", **CHANGE) == 2
    assert "calibrate: target_patch_bytes" in capsys.readouterr().err


def test_a_corpus_that_grew_stops_the_chain_before_any_training(place, monkeypatch, capsys):
    place.corpus = place.folder / "corpus"
    (place.corpus / "new.jsonl").write_text('{"text": "more"}\n')
    before = place.made()
    assert place.call() == 2
    err = capsys.readouterr().err
    assert "train-entropy: " in err and "(the data that it was made from)" in err
    assert "Give --redo changed to make them anew and keep the rest" in err
    assert place.made_since(before) == ["encode"]
    with monkeypatch.context() as patched:
        patched.setattr("blt.training.entropy.train_entropy_model", interrupt)
        assert place.call("--redo", "changed") == 130
    assert "made anew: exists, made with other settings or data (the data" in (
        capsys.readouterr().err
    )


def test_a_file_that_is_gone_is_said_and_redo_encodes_without_it(place, monkeypatch, capsys):
    place.corpus = place.folder / "corpus"
    (place.corpus / "2.jsonl").unlink()
    assert place.call() == 2
    err = capsys.readouterr().err
    assert "2.jsonl, no longer among the inputs. Stages to make anew: encode, train-" in err
    stop_at(monkeypatch, run.train_entropy)
    assert place.call("--redo", "changed") == 130
    manifest = json.loads((place.output / "bytes" / "_manifest.json").read_text())
    assert manifest["totals"]["documents"] == 40


def test_a_run_that_moved_is_as_it_was(place, capsys):
    before = place.made()
    place.output = place.output.rename(place.folder / "elsewhere")
    assert place.call() == 0
    assert capsys.readouterr().err.count("already done") == 8
    assert place.made() == before


def test_without_a_record_each_stage_finds_what_changed(place, monkeypatch, capsys):
    """As in the folders of earlier versions."""
    (place.output / RECORD_NAME).unlink()
    assert place.call(**CHANGE) == 2
    err = capsys.readouterr().err
    assert "(target patch bytes ([3.0], now [4.0])). Stages to make anew: calibrate, patch" in err
    before = place.made()
    stop_at(monkeypatch, run.train)
    assert place.call("--redo", "changed", **CHANGE) == 130
    assert place.made_since(before) == ["calibrate", "patch", "pack"]


def test_a_file_of_which_nothing_says_how_it_was_made_is_kept(place, capsys):
    """Was: advice to give --overwrite, which makes everything anew."""
    (place.output / "threshold.yaml.json").unlink()
    before = place.made()
    for flags in ((), ("--redo", "changed")):
        assert place.call(*flags) == 2
        err = capsys.readouterr().err
        assert "threshold.yaml.json does not say how it was made. Delete it" in err
        assert "give --from calibrate." in err
    assert place.made() == before


def test_a_dry_run_without_a_record_says_so(place, capsys):
    (place.output / RECORD_NAME).unlink()
    assert place.call("--redo", "changed", "--dry-run", **CHANGE) == 0
    assert f"has no {RECORD_NAME}: each stage finds what changed" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [("--redo", "changed"), ("--from", "pack")])
def test_overwrite_goes_with_nothing_that_keeps(place, capsys, flags):
    """Was: everything made anew, trained models too."""
    before = place.made()
    assert place.call(*flags, "--overwrite") == 2
    assert f"--overwrite: makes everything anew, and {flags[0]} keeps" in capsys.readouterr().err
    assert place.made() == before


def test_a_record_that_is_none_is_named(place, capsys):
    for text in ("[]", "{}", '{"stages": 3}', "{", "", "\0"):
        (place.output / RECORD_NAME).write_text(text)
        assert place.call() == 2
        assert f"{RECORD_NAME}: is not a record of blt run. Delete it" in capsys.readouterr().err
    for flags in (("--overwrite",), ("--from", "encode")):
        assert place.call(*flags, "--dry-run") == 0


def test_a_stage_that_read_an_earlier_result_is_said_before_any_work(place, monkeypatch, capsys):
    """Was: said by the sixth stage, after a kill in `--redo changed`."""
    with monkeypatch.context() as patched:
        stop_at(patched, run.train)
        assert place.call("--redo", "changed", **CHANGE) == 130
    capsys.readouterr()
    assert place.call(**CHANGE) == 2
    err = capsys.readouterr().err
    assert "train: another result of pack; score (BLT): another result of patch;" in err
    assert "[1/9]" not in err


def test_a_training_run_without_its_manifest_is_made_anew(place, monkeypatch, capsys):
    """Was: "already done", and scores that knew nothing of the training."""
    (place.output / "blt" / "_manifest.json").unlink()
    monkeypatch.setattr("blt.training.blt.train_blt", interrupt)
    assert place.call() == 130


def test_what_a_run_makes_is_not_its_input(place, tmp_path, capsys):
    """Was: taken for a part of the corpus by the second run."""
    assert place.call(input=str(tmp_path), output=str(tmp_path)) == 2
    assert "is what is read as --input. Choose another folder." in capsys.readouterr().err
    made = str(tmp_path / "corpus" / "runs" / "[1]")
    changes = {"input": str(tmp_path / "corpus"), "encode": {"exclude": ["*.md"]}}
    assert place.call("--dry-run", output=made, **changes) == 0
    assert "--exclude *.md runs/[[]1]" in capsys.readouterr().out


def test_what_does_not_change_results_is_no_change(place):
    before = place.made()
    changes = {"encode": {"max_lost_fraction": 0.5}, "patch": {"min_ram": "1GB"}}
    assert place.call(**changes) == 0
    assert place.made() == before


def test_relative_paths_are_taken_from_the_folder_of_the_start(
    place, tmp_path, monkeypatch, capsys
):
    """As on the command line, wherever the config lies."""
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    assert place.call("--dry-run", input="../corpus", output="made") == 0
    shown = capsys.readouterr().out
    assert "--input ../corpus --output made/bytes" in shown
    assert place.call(input="corpus", output="made") == 2
    assert f"it is taken from {tmp_path / 'start'}" in capsys.readouterr().err
