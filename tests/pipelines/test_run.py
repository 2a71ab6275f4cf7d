"""`blt run`: the chain, its config, and what it says at the end."""

import json

import pytest
import yaml

from blt import command
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
            "score": {"split": "valid"},
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
    held_out = summary["held_out"]
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


@pytest.mark.parametrize("rules", [["*.a=text", "b/**=csv"], {"*.a": "text", "b/**": "csv"}])
def test_formats_by_pattern_are_a_list_or_a_mapping(config, capsys, rules):
    assert call(config(encode={"format_of": rules}), "--dry-run") == 0
    assert "--format-of *.a=text b/**=csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "unknown key 'sede'. Did you mean 'seed'"),
        ({"train": {"stepz": 3}}, "unknown key 'stepz' in section 'train'. Did you mean 'steps'?"),
        ({"train": {"steps": "many"}}, "section 'train': argument --steps: invalid"),
        ({"train": {"preset": "tinny"}}, "large. Did you mean 'tiny'?"),
        ({"pack": ["seq_len"]}, "pack must be a mapping"),
        ({"input": "/no/such/corpus"}, "/no/such/corpus: no such file or folder"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_config_is_one_line_before_any_work(config, tmp_path, capsys, changes, message):
    assert call(config(**changes)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "bytes" / "manifest.json").exists()


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
