"""Mistakes with the commands that write a single file or need no Beam: one line, status 2."""

import subprocess
import sys

import pytest

from blt.cli import command
from blt.commands import calibrate, convert, decode, report, train, train_entropy
from pipelines import score, train_ngram
from tests.blt.datasets import write_byte_dataset


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


@pytest.fixture
def data(tmp_path):
    documents = {f"d{i}": b"some bytes " * 9 for i in range(20)}
    return write_byte_dataset(tmp_path / "bytes", documents).folder


@pytest.mark.parametrize("module", [train_entropy, calibrate, train, decode, report])
def test_data_that_is_not_there_is_named(module, tmp_path, capsys):
    extra = ("--entropy-model", tmp_path / "e.keras") if module is calibrate else ()
    data = () if module is report else ("--data",)
    assert run(module, *data, tmp_path / "nope", *extra, "--output", tmp_path / "o.keras") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "nope: no such folder" in err


def test_an_output_that_cannot_be_written_is_refused_before_any_work(data, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    argv = ("--data", data, "--output", tmp_path / "file" / "entropy.keras")
    assert run(train_entropy, *argv) == 2
    assert "file: cannot be written to" in capsys.readouterr().err
    (tmp_path / "folder.keras").mkdir()
    assert run(train_entropy, "--data", data, "--output", tmp_path / "folder.keras") == 2
    assert "folder.keras: is a folder; give the name of a file" in capsys.readouterr().err


def test_a_model_under_another_name_is_refused(data, tmp_path, capsys):
    assert run(train_entropy, "--data", data, "--output", tmp_path / "entropy.bin") == 2
    assert "a model file's name ends with .keras" in capsys.readouterr().err


def test_a_file_that_is_not_ours_is_not_overwritten(data, tmp_path, capsys):
    output = tmp_path / "entropy.keras"
    output.write_bytes(b"precious")
    assert run(train_entropy, "--data", data, "--output", output, "--steps", "1") == 2
    expected = "exists, and entropy.keras.json does not say how it was made"
    assert expected in capsys.readouterr().err
    assert output.read_bytes() == b"precious"


def test_an_unforeseen_error_is_one_line_and_verbose_shows_where(monkeypatch, tmp_path, capsys):
    def fail(args, console):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(decode, "run", fail)
    argv = ("--data", tmp_path, "--output", tmp_path / "o")
    assert run(decode, *argv) == 1
    err = capsys.readouterr().err
    assert "stopped by ZeroDivisionError: division by zero" in err
    assert err.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        run(decode, *argv, "--verbose")


def test_a_corpus_of_the_same_name_is_not_overwritten_by_the_note(data, tmp_path, capsys):
    (tmp_path / "wiki.json").write_text('{"text": "precious"}\n')
    argv = ("--data", data, "--output", tmp_path / "wiki.ngram", "--order", "2")
    assert run(train_ngram, *argv) == 0
    assert (tmp_path / "wiki.json").read_text() == '{"text": "precious"}\n'
    assert (tmp_path / "wiki.ngram.json").exists()
    capsys.readouterr()
    assert run(train_ngram, *argv) == 0
    assert "already done" in capsys.readouterr().out
    # Nor is a file where the note goes, whatever is asked for.
    (tmp_path / "wiki.ngram.json").write_text("[]")
    assert run(train_ngram, *argv, "--overwrite") == 2
    assert "wiki.ngram.json, where the note about it goes, is a file" in capsys.readouterr().err
    assert (tmp_path / "wiki.ngram.json").read_text() == "[]"


def test_a_note_of_an_earlier_version_is_known(data, tmp_path, capsys):
    argv = ("--data", data, "--output", tmp_path / "a.ngram", "--order", "2")
    assert run(train_ngram, *argv) == 0
    (tmp_path / "a.ngram.json").rename(tmp_path / "a.json")
    capsys.readouterr()
    assert run(train_ngram, *argv) == 0
    assert "already done" in capsys.readouterr().out


def test_a_file_in_place_of_a_dataset_is_called_one(data, tmp_path, capsys):
    argv = ("--output", tmp_path / "o.keras")
    for name in ("_manifest.json", "bytes-00000-000.tfrecord"):
        assert run(train_entropy, "--data", data / name, *argv) == 2
        err = capsys.readouterr().err
        assert f"{name}: is a file, but the folder of a whole dataset is expected" in err
        assert err.endswith(f"Give {data}.\n")


def test_an_output_that_arrow_cannot_write_to_is_refused_before_any_work(data, tmp_path, capsys):
    argv = ("--data", data, "--order", "2", "--output", f"{tmp_path}/o\udcff.ngram")
    assert run(train_ngram, *argv) == 2
    assert "o\\xff.ngram: a path of UTF-8 expected" in capsys.readouterr().err


def test_a_report_replaces_a_page_and_nothing_else(data, tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "precious"}')
    assert run(report, data, "--output", corpus) == 2
    assert "corpus.jsonl: exists and is no HTML page" in capsys.readouterr().err
    assert corpus.read_text() == '{"text": "precious"}'
    argv = ("--data", data, "--output", tmp_path / "scores", "--model", tmp_path / "m.ngram")
    assert run(train_ngram, "--data", data, "--output", tmp_path / "m.ngram", "--order", "2") == 0
    assert run(score, *argv) == 0
    for _ in range(2):
        assert run(report, tmp_path / "scores", "--output", tmp_path / "page.html") == 0


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (decode, "What is finished is kept"),
        (train, "A training that is not finished leaves no model"),
    ],
)
def test_ctrl_c_says_what_is_kept(module, words, monkeypatch, capsys):
    def stop(args, console):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run", stop)
    assert command.main(module, ["--data", "x", "--output", "y"]) == 130
    assert words in capsys.readouterr().err


def test_a_folder_of_datasets_is_no_dataset(data, capsys):
    """Was: "run `blt encode` again to finish it"."""
    argv = ("--output", data.parent / "o.keras", "--steps", "1")
    assert run(train_entropy, "--data", data.parent, *argv) == 2
    assert f"so it is no dataset; byte shards expected. Give {data}." in capsys.readouterr().err
    (data.parent / "other").mkdir()
    assert run(train_entropy, "--data", data.parent / "other", *argv) == 2
    assert "byte shards expected. Make them with `blt encode`." in capsys.readouterr().err


def test_numbers_that_are_none_are_said_in_words(data, capsys):
    """Was: "invalid float value"."""
    argv = ("--data", data, "--entropy-model", "e.keras", "--output", "t.yaml")
    assert run(calibrate, *argv, "--target-patch-bytes", "abc") == 2
    assert "--target-patch-bytes: must be a number, got abc" in capsys.readouterr().err
    assert run(calibrate, *argv, "--seed", "1.5") == 2
    assert "--seed: must be a whole number, got 1.5" in capsys.readouterr().err


def test_wrong_use_is_one_line_with_verbose_too():
    """Was: Beam's warnings, as it was asked for its flags."""
    program = "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
    files = ("--input", "x", "--output", "y")
    argv = [sys.executable, "-c", program, "encode", *files, "--verbose", "--nope"]
    finished = subprocess.run(argv, capture_output=True, text=True)
    assert finished.returncode == 2
    lines = finished.stderr.splitlines()
    assert not [line for line in lines if line.startswith(("WARNING", "INFO"))]
    assert "blt encode: unknown argument '--nope'." in lines[-1]


def test_a_flag_of_two_words_says_which(capsys):
    """Was: "expected 2 arguments"."""
    assert run(convert, "--from", "hf", "--to", "keras", "x.keras") == 2
    assert "argument --from: FORMAT PATH expected" in capsys.readouterr().err
