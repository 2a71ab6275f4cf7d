"""`blt run`: the chain, its config, and what it says at the end."""

import json
from pathlib import Path

import pytest
import yaml

from blt.cli import command
from pipelines import cli, run


def call(*argv):
    return command.main(run, [str(arg) for arg in argv])


@pytest.fixture
def config(tmp_path, small_corpus):
    """A config whose models hardly train."""

    def write(**changes):
        value = {
            "input": str(small_corpus),
            "output": str(tmp_path / "out"),
            "valid_fraction": 0.3,
            "train_entropy": {"steps": 2, "batch_size": 2, "seq_len": 128},
            "calibrate": {"target_patch_bytes": 3},
            "pack": {"seq_len": 128},
            "train": {"steps": 2, "batch_size": 2},
            **changes,
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(value))
        return path

    return write


def test_the_whole_chain_ends_with_figures_and_a_second_run_reuses_all(config, tmp_path, capsys):
    assert call(config(), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["documents"] == 60
    held_out = summary["scores"]
    assert (held_out["split"], held_out["trained_on"]["documents"]) == ("valid", 0)
    assert 5 < held_out["documents"] < 35
    for name in ("BLT", "entropy model", "zlib"):
        assert 0 < held_out["bits_per_byte"][name] < 12
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}

    assert call(config()) == 0
    captured = capsys.readouterr()
    assert captured.err.count("already done") == 8
    assert "Bits per byte on" in captured.out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")} == stamps


def test_a_dry_run_prints_commands_and_writes_nothing(config, tmp_path, capsys):
    assert call(config(), "--dry-run") == 0
    out = capsys.readouterr().out
    assert "blt train-entropy --data" in out
    assert "--steps 2" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "some"),
    [
        ("seed", 1234, {"train-entropy", "calibrate", "pack", "train", "score"}),
        ("valid_fraction", 0.25, {"train-entropy", "calibrate", "pack", "score"}),
    ],
)
def test_the_split_and_the_seed_of_a_config_are_those_of_every_stage(
    config, capsys, key, value, some
):
    assert call(config(**{key: value}), "--dry-run") == 0
    flag = "--" + key.replace("_", "-")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    commands = {line[1]: line for line in lines if line[:1] == ["blt"] and line[1] != "run"}
    with_it = {name for name, line in commands.items() if flag in line}
    takes_it = {
        step.module.NAME
        for step in run._steps(run._paths_in(Path("out")), [], run.read_config(config()))
        if flag in command.flag_names(step.module)
    }
    assert with_it == takes_it >= some
    for name in with_it:
        assert commands[name][commands[name].index(flag) + 1] == str(value)


def test_held_out_documents_are_scored_unless_the_config_says_otherwise(config, capsys):
    assert call(config(score={}), "--dry-run") == 0
    assert capsys.readouterr().out.count("--split valid") == 2
    assert call(config(score={"split": "all"}), "--dry-run") == 0
    assert capsys.readouterr().out.count("--split all") == 2


@pytest.mark.parametrize("rules", [["*.a=text", "b/**=csv"], {"*.a": "text", "b/**": "csv"}])
def test_formats_by_pattern_are_a_list_or_a_mapping(config, capsys, rules):
    assert call(config(encode={"format_of": rules}), "--dry-run") == 0
    assert "--format-of *.a=text b/**=csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "unknown key 'sede'. Did you mean 'seed'"),
        ({"train": {"stepz": 3}}, "unknown key 'stepz' in section 'train'. Did you mean 'steps'?"),
        (
            {"train": {"steps": "many"}},
            "section 'train': argument --steps: must be a whole number above 0",
        ),
        ({"train": {"preset": "tinny"}}, "large. Did you mean 'tiny'?"),
        ({"pack": ["seq_len"]}, "pack must be a mapping"),
        ({"input": "/no/such/corpus"}, "/no/such/corpus: no such file or folder"),
        ({"output": 7}, "config.yaml: output: the path of a folder expected, got 7"),
        ({"input": []}, "config.yaml: input: a path, or a list of paths, expected, got []"),
        ({"seed": "abc"}, "config.yaml: seed: a whole number expected, got 'abc'"),
        ({"valid_fraction": 2}, "valid_fraction: a number between 0 and 1 expected, got 2"),
        ({"train": {"steps": True}}, "section 'train': steps: a value expected, got True"),
        ({"encode": {"strict": 3}}, "section 'encode': strict: true or false expected, got 3"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_config_is_one_line_before_any_work(config, tmp_path, capsys, changes, message):
    assert call(config(**changes)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "bytes" / "_manifest.json").exists()


def test_a_list_is_written_as_its_flag_wants_it(config, capsys):
    """Was: unknown argument 'xz'."""
    changes = {"score": {"baselines": ["zlib", "xz"]}, "calibrate": {"target_patch_bytes": [4, 6]}}
    assert call(config(**changes), "--dry-run") == 0
    out = capsys.readouterr().out
    assert "--baselines zlib,xz" in out
    assert "--target-patch-bytes 4 6" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a mapping with the keys input, output, seed, valid_fraction, encode,"),
        ("- a", "a mapping with the keys input, output,"),
        ("input: a\nseed: 1\nseed: 2", "line 3, column 1: the key 'seed' stands there twice"),
        ("train: {steps: 1, steps: 2}", "the key 'steps' stands there twice"),
        ("? [a, b]\n: 1", "not a YAML file (line 1, column"),
    ],
)
def test_a_config_of_another_shape_is_named(tmp_path, capsys, text, message):
    (tmp_path / "c.yaml").write_text(text)
    assert call(tmp_path / "c.yaml") == 2
    assert message in capsys.readouterr().err


def test_a_config_that_is_no_yaml_or_not_there_is_named(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("input: [unclosed")
    assert call(tmp_path / "bad.yaml") == 2
    assert "bad.yaml: not a YAML file" in capsys.readouterr().err
    assert call(tmp_path / "none.yaml") == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err


def test_the_command_line_knows_its_commands(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("run", "encode", "train-entropy", "calibrate", "patch", "pack", "train", "score"):
        assert f"  {name} " in out
    assert cli.main(["encod"]) == 2
    assert "no command 'encod'. Did you mean 'encode'" in capsys.readouterr().err
    assert cli.main([]) == 2


@pytest.mark.parametrize("name", cli._COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: blt {name}" in out
    assert "--json" in out
