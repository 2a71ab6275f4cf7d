"""`blt calibrate`: groups of documents, and the chart."""

import json

import pytest
import yaml

from blt.cli import command
from blt.commands import calibrate
from blt.dataset.manifest import read_manifest
from blt.formats.byte_shard import read_byte_shard
from blt.patching.calibration_file import read_calibration
from pipelines import patch

TARGET = 3.0


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def argv(small_bytes, small_entropy_model):
    argv = ["--data", small_bytes, "--entropy-model", small_entropy_model]
    return [*argv, "--target-patch-bytes", TARGET, 5]


@pytest.fixture(scope="module")
def by_lang(argv, tmp_path_factory):
    path = tmp_path_factory.mktemp("by") / "threshold.yaml"
    assert run(calibrate, *argv, "--by", "lang", "--min-group-bytes", 4000, "--output", path) == 0
    return path


def test_groups_have_thresholds_of_their_own(
    by_lang, small_bytes, small_entropy_model, tmp_path, capsys
):
    calibration = yaml.safe_load(by_lang.read_text())
    assert calibration["sample"]["by"] == "lang"
    (target, _) = calibration["targets"]
    groups = {group["group"]: group for group in target["groups"]}
    assert set(groups) == {"de", "en"}
    assert sum(group["bytes"] for group in groups.values()) == calibration["sample"]["bytes"]
    thresholds = (target["threshold_nats"], groups["en"]["threshold_nats"])
    for threshold, expected in zip(
        thresholds, (groups["en"]["mean_at_common_threshold"], TARGET), strict=True
    ):
        english = _patch_mean(small_bytes, small_entropy_model, threshold, tmp_path / f"{expected}")
        assert english == pytest.approx(expected, rel=0.01)
    # What blt patch reads is not changed by them.
    rule = read_calibration(by_lang, calibration["entropy_model"], target_patch_bytes=TARGET)
    assert rule.threshold_nats == target["threshold_nats"]


def _patch_mean(data, model, threshold, output):
    """The mean patch size of the English documents."""
    from blt.formats.boundaries import read_boundaries
    from blt.patching import count_byte_patches

    argv = ["--data", data, "--entropy-model", model, "--threshold-nats", threshold]
    assert run(patch, *argv, "--output", output) == 0
    num_bytes = num_patches = 0
    for shard in read_manifest(output).shards:
        name = shard.name.replace("patches-", "bytes-").replace(".parquet", ".tfrecord")
        records = read_byte_shard(data / name)
        for record, row in zip(records, read_boundaries(output / shard.name), strict=True):
            if json.loads(record.meta)["lang"] == "en":
                num_bytes += int((record.tokens >= 4).sum())
                num_patches += count_byte_patches(record.tokens, row.patch_lengths)
    return num_bytes / num_patches


def test_small_groups_are_named(argv, tmp_path, capsys):
    path = tmp_path / "t.yaml"
    assert run(calibrate, *argv, "--by", "source", "--min-group-bytes", 7000, "--output", path) == 0
    out = capsys.readouterr().out
    groups = yaml.safe_load(path.read_text())["targets"][0]["groups"]
    assert [group["group"] for group in groups] == ["0.jsonl", "1.jsonl", "2.jsonl"]
    small = [group for group in groups if group["bytes"] < 7000]
    assert 0 < len(small) < 3
    for group in small:
        assert group["refused"] == "too little text"
        assert f"{group['group']}, " in out
    assert "no threshold, too little text; raise --sample-bytes" in out


def test_there_is_a_bound_on_the_groups_and_the_others_are_counted(
    argv, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("blt.patching.calibrate.MAX_GROUPS", 2)
    assert run(calibrate, *argv, "--by", "source", "--output", tmp_path / "t.yaml") == 0
    calibration = yaml.safe_load((tmp_path / "t.yaml").read_text())
    groups = calibration["targets"][0]["groups"]
    left_out = calibration["sample"]["groups_left_out"]
    assert (len(groups), left_out["groups"]) == (2, 1)
    assert min(group["bytes"] for group in groups) >= left_out["bytes"] > 0
    total = sum(group["bytes"] for group in groups) + left_out["bytes"]
    assert total == calibration["sample"]["bytes"]
    assert "not shown: 1 smaller group, " in capsys.readouterr().out


def test_patches_that_begin_inside_characters_are_told_with_the_flag(
    argv, small_bytes, small_entropy_model, tmp_path, capsys
):
    path, output = tmp_path / "t.yaml", tmp_path / "patches"
    assert run(calibrate, *argv, "--output", path) == 0
    out = capsys.readouterr().out
    assert "of patches begin inside a UTF-8 character: such characters are split" in out
    assert "--snap-utf8 moves" in out
    found = yaml.safe_load(path.read_text())["targets"][0]
    argv = ["--data", small_bytes, "--entropy-model", small_entropy_model, "--output", output]
    assert run(patch, *argv, "--calibration", path, "--target-patch-bytes", TARGET) == 0
    totals = read_manifest(output).totals  # of all the text, which is the sample
    share = totals["boundaries_inside_characters"] / totals["patches"]
    assert found["share_inside_characters"] == pytest.approx(share, abs=1e-6)
    assert share > 0


def test_an_unknown_field_is_refused(argv, tmp_path, capsys):
    assert run(calibrate, *argv, "--by", "langs", "--output", tmp_path / "t.yaml") == 2
    err = capsys.readouterr().err
    assert "--by langs: no document has this field (they have lang)" in err
    assert "Did you mean 'lang'" in err


@pytest.mark.parametrize(("name", "head"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
def test_the_chart_is_the_same_again(argv, tmp_path, name, head):
    argv = [*argv, "--output", tmp_path / "t.yaml", "--plot", tmp_path / name]
    assert run(calibrate, *argv) == 0
    first = (tmp_path / name).read_bytes()
    assert first.startswith(head)
    if name.endswith("svg"):
        assert b"3 bytes at" in first
        assert b"5 bytes at" in first
        assert b"#1f5fbf" in first  # a colour of the report's, not a stand-in
    (tmp_path / name).unlink()
    assert run(calibrate, *argv) == 0  # already done, yet drawn
    assert (tmp_path / name).read_bytes() == first


def test_other_charts_are_refused(argv, tmp_path, capsys):
    argv = [*argv, "--output", tmp_path / "t.yaml", "--plot", tmp_path / "a.jpg"]
    assert run(calibrate, *argv) == 2
    assert "must end in .png or .svg" in capsys.readouterr().err
