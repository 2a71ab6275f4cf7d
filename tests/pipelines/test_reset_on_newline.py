"""`--reset-on-newline`, from calibration to training shards."""

import json

import pyarrow.parquet as pq
import pytest
import yaml

from blt.cli import command
from blt.commands import calibrate
from blt.dataset.manifest import read_manifest
from blt.formats.boundaries import read_boundaries_metadata
from pipelines import encode, pack, patch, repatch

LICENCE = "Use this text as you like.\r\nThere is no warranty.\n\n"


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Byte shards of 30 documents that begin with the same four lines."""
    folder = tmp_path_factory.mktemp("lines")
    rows = [{"id": f"{i}", "text": f"{LICENCE}document {i}\nand {i} words"} for i in range(30)]
    (folder / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(encode, "--input", folder / "raw.jsonl", "--output", folder / "bytes") == 0
    return folder


def test_one_flag_goes_all_the_way(folder, small_entropy_model, capsys):
    argv = ["--data", folder / "bytes", "--entropy-model", small_entropy_model]
    threshold, output = folder / "threshold.yaml", folder / "patches"
    flags = ["--target-patch-bytes", "3", "--reset-on-newline", "--output", threshold]
    assert run(calibrate, *argv, *flags) == 0
    (target,) = yaml.safe_load(threshold.read_text())["targets"]
    assert target["reset_on_newline"] is True
    capsys.readouterr()

    from_file = [*argv, "--calibration", threshold, "--output", output]
    assert run(patch, *from_file, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["mean_patch_bytes"] == pytest.approx(target["mean_patch_bytes"], abs=1e-4)
    inference = summary["inference"]
    # Each document has five lines; the first three are looked at in the first document alone.
    assert inference["memo_lines"] == 30 * 5
    assert inference["memo_hits"] == 29 * 3
    num_bytes = summary["bytes"] - 29 * len(LICENCE)
    assert inference["tokens"] == num_bytes + 30 + (150 - 87)  # and EOS, and a BOS for each line
    assert inference["bytes"] == summary["bytes"]

    manifest = read_manifest(output, "boundaries")
    assert manifest.config["reset_on_newline"] is True
    (shard,) = manifest.shards
    assert read_boundaries_metadata(output / shard.name)["reset_on_newline"] == "True"
    # Equal lines have equal patches, but where two of them share a patch.
    rows = pq.read_table(output / shard.name, columns=["patch_lengths"]).to_pylist()
    assert len({tuple(row["patch_lengths"][:8]) for row in rows}) == 1

    by_flag = [*argv, "--threshold-nats", target["threshold_nats"], "--output", output]
    assert run(patch, *by_flag, "--reset-on-newline") == 0  # the very same: it is already done
    assert "already done" in capsys.readouterr().out
    assert run(patch, *by_flag) == 2
    assert "--reset-on-newline (" in capsys.readouterr().err

    packing = ["--data", folder / "bytes", "--patches", output, "--output", folder / "train"]
    assert run(pack, *packing) == 0
    packed = read_manifest(folder / "train", "training_shards")
    assert packed.config["patch_rule"]["reset_on_newline"] is True


def test_boundaries_cut_anew_keep_it(folder, small_entropy_model, tmp_path, capsys):
    argv = ["--data", folder / "bytes", "--entropy-model", small_entropy_model]
    flags = ["--threshold-nats", "3", "--keep-entropies", "f16", "--reset-on-newline"]
    assert run(patch, *argv, *flags, "--output", tmp_path / "patches") == 0
    anew = ["--patches", tmp_path / "patches", "--output", tmp_path / "anew"]
    assert run(repatch, *anew, "--threshold-nats", "2") == 0
    assert read_manifest(tmp_path / "anew").config["reset_on_newline"] is True
    whole = tmp_path / "whole.yaml"
    assert run(calibrate, *argv, "--target-patch-bytes", "3", "--output", whole) == 0
    anew[-1] = tmp_path / "refused"
    assert run(repatch, *anew, "--calibration", whole) == 2
    assert "Calibrate again with --reset-on-newline" in capsys.readouterr().err


def test_the_summary_says_how_many_lines_came_again(folder, small_entropy_model, tmp_path, capsys):
    argv = ["--data", folder / "bytes", "--entropy-model", small_entropy_model]
    flags = ["--threshold-nats", "3", "--reset-on-newline", "--output", tmp_path / "patches"]
    assert run(patch, *argv, *flags) == 0
    assert "; 58.0% of 150 lines came again" in capsys.readouterr().out
