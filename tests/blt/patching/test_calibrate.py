import pytest
import yaml

from blt.errors import UserError
from blt.patching import PatchRule
from blt.patching.calibrate import calibrate, read_calibration, write_calibration
from blt.patching.shard import patch_shard


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "entropy"},
        {"rule": "monotonic"},
        {"rule": "combined", "threshold_add_nats": -1.0},
        {"rule": "entropy", "max_patch_length": 6},
        {"rule": "entropy", "reset_on_newline": True},
        {"rule": "entropy", "keep_entropies": "f16"},
    ],
)
def test_the_whole_corpus_gets_the_wanted_mean(data, engine, tmp_path, options):
    targets = [2.5, 4.0]
    found = calibrate(data, engine, target_patch_bytes=targets, sample_bytes=10**9, **options)
    assert found["sample"]["documents"] == data.totals["documents"]
    write_calibration(tmp_path / "threshold.yaml", found)
    for target in targets:
        rule = read_calibration(
            tmp_path / "threshold.yaml", engine.fingerprint, target_patch_bytes=target
        )
        assert rule.reset_on_newline == options.get("reset_on_newline", False)
        counts = patch_shard(
            data.shard_path(data.shards[0]),
            tmp_path,
            engine=engine,
            rule=rule,
            keep_entropies=options.get("keep_entropies"),
            unit_index=0,
            roll=0,
        ).counts
        assert counts["bytes"] / counts["patches"] == pytest.approx(target, rel=0.02)
        (stated,) = (t for t in found["targets"] if t["target_patch_bytes"] == target)
        assert stated["mean_patch_bytes"] == round(counts["bytes"] / counts["patches"], 4)
        low, high = stated["interval_95_percent"]
        assert low < stated["mean_patch_bytes"] < high


def test_a_sample_is_the_same_again_and_smaller(data, engine):
    options = {"sample_bytes": data.totals["bytes"] // 4, "seed": 1}
    first = calibrate(data, engine, target_patch_bytes=[3.0], **options)
    assert first == calibrate(data, engine, target_patch_bytes=[3.0], **options)
    assert 0 < first["sample"]["documents"] < data.totals["documents"] / 2


def test_what_cannot_be_is_refused(data, engine):
    with pytest.raises(UserError, match=r"--target-patch-bytes 1000: .* gives means from"):
        calibrate(data, engine, target_patch_bytes=[1000.0])
    with pytest.raises(UserError, match="--rule space: has no threshold"):
        calibrate(data, engine, target_patch_bytes=[4.0], rule="space")
    with pytest.raises(UserError, match="--threshold-add-nats: missing"):
        calibrate(data, engine, target_patch_bytes=[4.0], rule="combined")


@pytest.fixture
def calibration(tmp_path):
    target = {"rule": "entropy", "threshold_nats": 1.25, "target_patch_bytes": 4.5}
    path = tmp_path / "threshold.yaml"
    write_calibration(path, {"entropy_model": "ab" * 32, "targets": [target]})
    return path


def test_the_only_target_needs_no_name(calibration):
    assert read_calibration(calibration, "ab" * 32) == PatchRule(threshold_nats=1.25)
    same = read_calibration(calibration, "ab" * 32, rule="entropy", threshold_nats=1.25)
    assert same == PatchRule(threshold_nats=1.25)


def test_calibrations_that_do_not_fit_are_refused(calibration, tmp_path):
    with pytest.raises(UserError, match="made with the entropy model abababababab…, not with cd"):
        read_calibration(calibration, "cd" * 32)
    with pytest.raises(UserError, match="not with none"):
        read_calibration(calibration, None)
    with pytest.raises(UserError, match=r"choose one of its targets .*: 4\.5"):
        read_calibration(calibration, "ab" * 32, target_patch_bytes=6.0)
    with pytest.raises(UserError, match=r"--max-patch-length 9: the calibration .* says None"):
        read_calibration(calibration, "ab" * 32, max_patch_length=9)
    with pytest.raises(UserError, match=r"--reset-on-newline True: the calibration .* says None"):
        read_calibration(calibration, "ab" * 32, reset_on_newline=True)
    with pytest.raises(UserError, match="cannot be read"):
        read_calibration(tmp_path / "none.yaml", "ab" * 32)
    for text in ("a: [", "just words", yaml.safe_dump({"entropy_model": "x"}), "- 1"):
        calibration.write_text(text)
        with pytest.raises(UserError, match="not a file that `blt calibrate` wrote"):
            read_calibration(calibration, "ab" * 32)
