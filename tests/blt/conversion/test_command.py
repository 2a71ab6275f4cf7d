"""`blt convert`, through `main`."""

import json

import pytest

from blt.model.blt import load_blt
from blt.model.serialization import fingerprint, load_entropy_model
from pipelines.cli import main
from tests.blt.conversion.checkpoints import (
    random_blt,
    random_entropy_model,
    random_hf_blt,
    save_folder,
)


def convert(*args):
    return main(["convert", *map(str, args)])


def test_a_checkpoint_becomes_a_model_file_and_a_checkpoint_again(tmp_path, capsys):
    config, weights = random_hf_blt()
    hf, model_file, back = (
        save_folder(tmp_path / "hf", config, weights),
        tmp_path / "m.keras",
        tmp_path / "back",
    )
    assert convert("--from", "hf", hf, "--to", "keras", model_file, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    model = load_blt(model_file)
    assert summary["model"] == "ByteLatentTransformer"
    assert summary["compat"] == model.compat == "hf"
    assert summary["fingerprint"] == fingerprint(model)
    assert summary["parameters"] == model.count_params()
    assert convert("--from", "keras", model_file, "--to", "hf", back) == 0
    assert "convert: done. ByteLatentTransformer of" in capsys.readouterr().out
    assert convert("--from", "hf", back, "--to", "keras", tmp_path / "n.keras") == 0
    assert fingerprint(load_blt(tmp_path / "n.keras")) == summary["fingerprint"]


def test_fields_that_are_not_honoured_are_in_the_summary_and_in_the_json(tmp_path, capsys):
    config, weights = random_hf_blt()
    config["encoder_config"]["attention_bias"] = True
    config |= {f"unknown_{i}": False for i in range(20)}
    args = ("--from", "hf", save_folder(tmp_path / "hf", config, weights), "--to", "keras")
    assert convert(*args, tmp_path / "m.keras", "--json") == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert convert(*args, tmp_path / "n.keras") == 0
    assert note in capsys.readouterr().out.splitlines()
    assert "encoder_config.attention_bias, unknown_0, " in note and "unknown_19. If" in note


def test_the_authors_two_models_become_one(tmp_path, capsys):
    entropy = save_folder(tmp_path / "entropy", *random_entropy_model())
    blt = save_folder(tmp_path / "blt", *random_blt())
    entropy_file, blt_file = tmp_path / "e.keras", tmp_path / "b.keras"
    assert convert("--from", "meta", entropy, "--to", "keras", entropy_file, "--window", 5) == 0
    assert load_entropy_model(entropy_file).window == 5
    flags = ("--entropy-model", entropy_file, "--threshold-nats", 2.5, "--compat", "none")
    assert convert("--from", "meta", blt, "--to", "keras", blt_file, *flags) == 0
    model = load_blt(blt_file)
    assert model.patch_rule.threshold_nats == 2.5
    assert model.compat is None
    assert model.entropy_model.window == 5
    assert convert("--from", "keras", entropy_file, "--to", "hf", tmp_path / "patcher") == 0
    assert json.loads((tmp_path / "patcher/config.json").read_text())["sliding_window"] == 5
    assert convert("--from", "meta", blt, "--to", "keras", tmp_path / "alone.keras") == 0
    assert "holds no entropy model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--from", "HF", "x", "--to", "keras", "y.keras"], "--from HF: not a format; must be hf"),
        (["--from", "hf", "x", "--to", "meta", "y"], "--to meta: not a format; must be hf, keras"),
        (["--from", "hf", "ftp://x", "--to", "keras", "y.keras"], "--from hf: ftp://x: "),
        (["--from", "keras", "x.keras", "--to", "keras", "y.keras"], "nothing to convert"),
        (["--from", "hf", "x", "--to", "hf", "y"], "nothing to convert"),
        (["--from", "hf", "x", "--to", "keras", "y.h5"], "ends with .keras; name it so"),
        (["--from", "hf", "x", "--to", "keras", "y.keras"], "x: no such file or folder"),
        (["--from", "keras", "x.keras", "--to", "hf", "y"], "x.keras: no such file"),
        (["--from", "hf", "x", "--to", "keras", "folder"], "ends with .keras; name it so"),
        (["--from", "hf", "x", "--to", "keras", "folder.keras"], "must be a file; choose another"),
        (["--from", "keras", "x", "--to", "hf", "taken.keras"], "must be a folder; choose another"),
        (["--from", "hf", "x", "--to", "keras", "taken.keras"], "is there already"),
        (["--from", "keras", "x", "--to", "hf", "folder.keras"], "is there already"),
        (["--from", "hf", "x", "--to", "keras", "y.keras", "--window", "3"], "--window: only for"),
        (
            ["--from", "keras", "x", "--to", "hf", "y", "--threshold-nats", "1"],
            "--threshold-nats: only for --from meta; keras says it itself",
        ),
        (["--from", "keras", "x", "--to", "hf", "y", "--compat", "none"], "--compat none: only"),
        (["--from", "keras", "x", "--to", "hf", "y", "--trust-pickle"], "--trust-pickle: only"),
    ],
)
def test_wrong_use_is_refused_in_one_line(args, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.keras").touch()
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "folder.keras/file").touch()
    assert convert(*args) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("blt convert: ")
    assert text in error


def test_what_is_there_is_replaced_if_that_is_wanted(tmp_path):
    source = save_folder(tmp_path / "entropy", *random_entropy_model())
    target = tmp_path / "e.keras"
    target.touch()
    args = ("--from", "meta", source, "--to", "keras", target)
    assert convert(*args) == 2
    assert convert(*args, "--overwrite") == 0
    assert load_entropy_model(target).window == 8


def test_a_config_with_monstrous_sizes_makes_no_model(tmp_path, capsys):
    config, weights = random_entropy_model()
    source = save_folder(tmp_path, {**config, "dim": 2**30, "n_layers": 1}, weights)
    assert convert("--from", "meta", source, "--to", "keras", tmp_path / "e.keras") == 2
    assert "weights" in capsys.readouterr().err
