import dataclasses
import json
import shutil
from types import SimpleNamespace

import keras
import pytest

from blt.dataset.joining import PatchedDocument
from blt.dataset.manifest import read_manifest, write_manifest
from blt.dataset.several import read_datasets, shares
from blt.dataset.shard_feed import ShardFeed
from blt.dataset.storage import sha256_file
from blt.dataset.trained_split import TrainedSplit, read_trained_split
from blt.errors import UserError
from blt.formats.training_shard import read_training_shard
from blt.model.blt import load_blt
from blt.model.entropy_model import EntropyModel
from blt.model.serialization import fingerprint, save_model
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.tokenizer import frame_tokens
from blt.training.blt import BltTrainingConfig, _datasets, train_blt
from blt.training_data.packing import PackConfig, write_bucket

MODEL = {
    "local_dim": 16,
    "global_dim": 32,
    "num_global_layers": 1,
    "local_attention_config": {"type": "sliding_window", "num_heads": 2, "window": 16},
    "global_attention_config": {"type": "multi_head", "num_heads": 2},
    "ngram_sizes": [3],
    "ngram_table_size": 64,
}
CONFIG = BltTrainingConfig(model=MODEL, steps=6, batch_size=2, learning_rate=1e-2)
SPACE = {"rule": "space"}


TEXTS = [b"some words again and again " * (1 + index % 3) for index in range(40)]


def make_data(folder, *, fingerprints=None, valid_fraction=0.2, seq_len=32, texts=TEXTS):
    folder.mkdir()
    rule = PatchRule(**SPACE)
    documents = []
    for index, text in enumerate(texts):
        tokens = frame_tokens(text)
        lengths = find_patch_lengths(tokens, None, rule)
        documents.append(PatchedDocument(index, f"doc-{index}", tokens, lengths))
    config = PackConfig(seq_len=seq_len, max_patches=16, valid_fraction=valid_fraction)
    result = write_bucket(documents, folder, bucket=0, config=config)
    write_manifest(
        folder,
        kind="training_shards",
        config={
            "seq_len": seq_len,
            "max_patches": 16,
            "patch_rule": SPACE,
            "valid_fraction": valid_fraction,
            "seed": 0,
        },
        fingerprints=fingerprints or {},
        parents={"boundaries": "0" * 64},
        totals=result.counts,
        shards=list(result.shards),
    )
    return folder


@pytest.fixture(scope="module")
def entropy_model():
    keras.utils.set_random_seed(5)
    return EntropyModel(dim=16, num_layers=1, num_heads=2, window=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, entropy_model):
    """Data, and the same run on it twice: a run takes seconds, nearly all of them to compile."""
    folder = tmp_path_factory.mktemp("training")
    save_model(entropy_model, folder / "entropy.keras")
    data = make_data(folder / "data", fingerprints={"entropy_model": fingerprint(entropy_model)})
    for name in ("run", "again"):
        lines = []
        summary = train_blt(
            data,
            folder / name,
            CONFIG,
            entropy_model=folder / "entropy.keras",
            report=lines.append,
        )
        (folder / f"{name}.json").write_text(json.dumps([summary, lines]))
    return folder


def test_several_datasets_are_trained_on_together(folder, tmp_path):
    data = make_data(tmp_path / "a", texts=TEXTS[:20]), make_data(tmp_path / "b", texts=TEXTS[:12])
    train_blt(data, tmp_path / "run", CONFIG)
    members = [read_manifest(place) for place in data]
    run = read_manifest(tmp_path / "run")
    assert run.parents == {"training_shards": "+".join(member.sha256 for member in members)}
    assert run.totals["documents"] == 32
    assert run.config["valid_fraction"] == 0.2 and run.config["split_seed"] == 0
    other = make_data(tmp_path / "c", seq_len=16)
    with pytest.raises(UserError, match="seq_len is 32 there and 16 here"):
        train_blt([data[0], other], tmp_path / "run-2", CONFIG)
    assert not (tmp_path / "run-2").exists()


def test_held_out_sequences_are_of_each_dataset(tmp_path):
    data = [make_data(tmp_path / name, texts=TEXTS[:n]) for name, n in (("a", 40), ("b", 30))]
    several = read_datasets(data, "training_shards")
    model = SimpleNamespace(max_sequence_length=32, max_patches=16)
    config = dataclasses.replace(CONFIG, batch_size=1, max_valid_sequences=7)
    quotas = shares(config.max_valid_sequences, several)
    _, held_out = _datasets(ShardFeed(several), config, model)
    assert len(quotas) == 2 and len(held_out) == sum(quotas) and min(quotas) >= 3
    # The first sequence of each set is there, once.
    for place in data:
        path = min(place.glob("valid-*"))
        first = next(iter(read_training_shard(path))).tokens
        same = [inputs["tokens"][0, : len(first)].tolist() for inputs, _ in held_out]
        assert first.tolist() in same


def test_a_run_holds_a_model_that_learned_its_history_and_its_lineage(folder, entropy_model):
    summary, lines = json.loads((folder / "run.json").read_text())
    assert summary["bits_per_byte"] < 8.0
    assert lines[0] == f"BLT tiny: {summary['parameters']:,} parameters"

    model = load_blt(folder / "run" / "model.keras")
    assert fingerprint(model) == summary["fingerprint"]
    assert (model.max_sequence_length, model.max_patches) == (32, 16)
    assert model.patch_rule == PatchRule(**SPACE)
    # The entropy model is in the file as it was, not trained with the BLT.
    made_by = fingerprint(entropy_model)
    assert model.entropy_fingerprint == made_by == fingerprint(model.entropy_model)

    text = (folder / "run" / "history.jsonl").read_text()
    history = [json.loads(line) for line in text.splitlines()]
    assert [record["step"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in history if "held_out_bits_per_byte" in r] == [3, 6]
    assert history[-1]["held_out_bits_per_byte"] == summary["held_out_bits_per_byte"]
    assert history[-1]["bits_per_byte"] < history[0]["bits_per_byte"]

    manifest = read_manifest(folder / "run", "blt_run")
    assert manifest.parents == {"training_shards": sha256_file(folder / "data" / "_manifest.json")}
    assert manifest.fingerprints == {"blt": summary["fingerprint"], "entropy_model": made_by}
    assert manifest.config["steps"] == 6
    split = read_trained_split(folder / "run" / "model.keras", folder / "x", summary["fingerprint"])
    assert split == TrainedSplit(0.2, 0)
    for shard in manifest.shards:
        assert sha256_file(folder / "run" / shard.name) == shard.sha256


def test_the_same_seed_gives_the_same_files(folder):
    for name in ("model.keras", "history.jsonl", "_manifest.json"):
        assert (folder / "run" / name).read_bytes() == (folder / "again" / name).read_bytes()


def test_a_training_that_is_stopped_leaves_the_run_that_was_there(folder, tmp_path, monkeypatch):
    """Was: no manifest, an empty history, and the old model."""
    shutil.copytree(folder / "run", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("blt.training.blt.fit_language_model", stop)
    with pytest.raises(KeyboardInterrupt):
        train_blt(folder / "data", tmp_path / "run", CONFIG)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert after.pop("history.jsonl.part") == b""
    assert after == before


def test_another_entropy_model_is_refused(tmp_path):
    keras.utils.set_random_seed(3)
    save_model(EntropyModel(dim=16, num_layers=1, num_heads=2, window=8), tmp_path / "e.keras")
    data = make_data(tmp_path / "data", fingerprints={"entropy_model": "ab" * 32})
    with pytest.raises(UserError, match=r"made by entropy model abababababab…, but entropy model"):
        train_blt(data, tmp_path / "run", CONFIG, entropy_model=tmp_path / "e.keras")
    assert not (tmp_path / "run").exists()


def test_nothing_to_train_on_is_refused(tmp_path):
    data = make_data(tmp_path / "data")
    for path in data.glob("train-*"):
        path.unlink()
    with pytest.raises(UserError, match=r"train-00000.tfrecord: missing, though the manifest"):
        train_blt(data, tmp_path / "run", CONFIG)


def test_empty_documents_are_nothing_to_train_on(tmp_path):
    data = make_data(tmp_path / "data", texts=[b""] * 40)
    with pytest.raises(UserError, match="no text to train on: all of it is held out, or all doc"):
        train_blt(data, tmp_path / "run", CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "micra"}, "--preset micra: not one of"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "--learning-rate 0: must be a number above 0"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        BltTrainingConfig(**changes)
