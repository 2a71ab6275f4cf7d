import numpy as np
import pytest
import yaml

from blt.dataset.splits import SPLIT_CHOICES, is_held_out
from blt.errors import UserError
from blt.formats.byte_shard import read_byte_shard
from blt.patching import PatchRule
from blt.patching.calibrate import _choose_pieces, _Sample, calibrate
from blt.patching.calibration_file import read_calibration, write_calibration
from blt.patching.shard import patch_shard
from blt.tokenizer import frame_tokens
from tests.blt.datasets import write_byte_dataset


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "entropy"},
        {"rule": "monotonic"},
        {"rule": "combined", "threshold_add_nats": -1.0},
        {"rule": "entropy", "max_patch_length": 6},
        {"rule": "entropy", "reset_on_newline": True},
        {"rule": "entropy", "keep_entropies": "f16"},
        {"rule": "entropy", "snap_utf8": True},
        {"rule": "combined", "threshold_add_nats": -1.0, "compat": "meta"},
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


@pytest.fixture(scope="module")
def long_documents(tmp_path_factory):
    """Half of them are of other bytes than the other half, and they come in parts."""
    rng = np.random.default_rng(5)
    documents = {}
    for index in range(12):
        alphabet = np.frombuffer(b"ab \n" if index % 2 else b"abcdeefgh ,.", np.uint8)
        documents[f"doc-{index}"] = rng.choice(alphabet, 3000 + 1500 * index).tobytes()
    folder = tmp_path_factory.mktemp("long") / "bytes"
    return write_byte_dataset(folder, documents, part_bytes=5000)


def test_pieces_of_many_documents_stand_for_the_whole(long_documents, engine, monkeypatch):
    monkeypatch.setattr("blt.patching.calibrate.PIECE_TOKENS", 256)
    monkeypatch.setattr("blt.patching.calibrate.LEAD_TOKENS", 64)
    total = long_documents.totals["bytes"]
    found = calibrate(
        long_documents, engine, target_patch_bytes=[3.0], sample_bytes=total // 3, seed=3
    )
    assert found["sample"]["documents"] == 12
    assert found["sample"]["bytes"] == pytest.approx(total / 3, rel=0.15)
    whole = calibrate(long_documents, engine, target_patch_bytes=[3.0], sample_bytes=total)
    assert whole["sample"]["bytes"] == total
    low, high = found["targets"][0]["interval_95_percent"]
    curve = whole["curve"]
    mean = np.interp(
        found["targets"][0]["threshold_nats"], curve["threshold_nats"], curve["mean_patch_bytes"]
    )
    assert low < mean < high
    assert mean == pytest.approx(3.0, rel=0.05)


def test_what_is_read_before_a_piece_is_not_counted(engine):
    tokens = frame_tokens(b"abcabcabcabc")
    entropies = np.full(len(tokens), 2, np.float32)  # every byte opens a patch
    counted = np.arange(len(tokens)) >= 5
    sample = _Sample(
        *(np.concatenate([column, column]) for column in (tokens, entropies, counted)),
        *(np.array(column) for column in ([14, 14], [8, 8], [0, 1], ["a", "b"])),
    )
    assert sample.count_patches(PatchRule(threshold_nats=1.0)).tolist() == [8, 8]  # not EOS
    # Patches of 5: they begin at tokens 0, 1, 6 and 11, and the first two do not count.
    long = PatchRule(threshold_nats=3.0, max_patch_length=5)
    assert sample.count_patches(long).tolist() == [2, 2]
    assert sample.split()["b"].count_patches(long).tolist() == [2]


def test_a_curve_rises_to_twice_the_largest_target(data, engine):
    curve = calibrate(data, engine, target_patch_bytes=[2.0, 3.0])["curve"]
    assert curve["threshold_nats"] == sorted(curve["threshold_nats"])
    assert curve["mean_patch_bytes"] == sorted(curve["mean_patch_bytes"])
    assert curve["mean_patch_bytes"][-1] == pytest.approx(6.0, rel=0.05)


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
    with pytest.raises(UserError, match="--reset-on-newline: .* was made without it"):
        read_calibration(calibration, "ab" * 32, reset_on_newline=True)
    with pytest.raises(UserError, match="cannot be read"):
        read_calibration(tmp_path / "none.yaml", "ab" * 32)
    for text in ("a: [", "just words", yaml.safe_dump({"entropy_model": "x"}), "- 1"):
        calibration.write_text(text)
        with pytest.raises(UserError, match="not a file that `blt calibrate` wrote"):
            read_calibration(calibration, "ab" * 32)


def test_held_out_documents_alone(data, engine):
    options = {"sample_bytes": 10**9, "valid_fraction": 0.5, "seed": 2}
    found = {
        split: calibrate(data, engine, target_patch_bytes=[3.0], split=split, **options)["sample"]
        for split in SPLIT_CHOICES
    }
    ids = {r.doc_id for shard in data.shards for r in read_byte_shard(data.shard_path(shard))}
    assert found["valid"]["documents"] == sum(
        is_held_out(doc_id, fraction=0.5, seed=2) for doc_id in ids
    )
    assert found["valid"]["split"] == "valid"
    for name in ("documents", "bytes"):
        assert found["valid"][name] + found["train"][name] == found["all"][name]


def test_of_a_huge_dataset_little_of_many_shards_is_read(tmp_path, monkeypatch):
    documents = {f"doc-{i}": bytes([97 + i % 26]) * 500 for i in range(400)}
    data = write_byte_dataset(tmp_path / "bytes", documents, num_shards=10)
    monkeypatch.setattr("blt.patching.calibrate.MIN_READ_BYTES", 60_000)
    monkeypatch.setattr("blt.patching.calibrate.READ_PER_SAMPLE", 1)
    monkeypatch.setattr("blt.patching.calibrate.MAX_SHARDS", 6)
    read = []

    def reader(path):
        for record in read_byte_shard(path):
            read.append((path.name, len(record.tokens)))
            yield record

    monkeypatch.setattr("blt.patching.calibrate.read_byte_shard", reader)
    pieces = list(_choose_pieces(data, 30_000, "all", 0.1, 0))
    names = [name for name, _ in read]
    assert len(set(names)) == 6
    assert names == sorted(names)
    assert sum(size for _, size in read) < 65_000
    assert sum(len(piece.tokens) for piece in pieces) == pytest.approx(30_000, rel=0.25)
    assert {piece.record.doc_id for piece in _choose_pieces(data, 30_000, "all", 0.1, 1)} != {
        piece.record.doc_id for piece in pieces
    }
