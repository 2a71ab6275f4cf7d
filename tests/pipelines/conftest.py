"""A small byte dataset and an untrained entropy model, made once for all processes of a run."""

import fcntl
import json
import os
import random

import pytest

from blt.cli import command
from pipelines import encode

WORDS = [
    "the",
    "byte",
    "latent",
    "transformer",
    "reads",
    "patches",
    "of",
    "bytes",
    "and",
    "der",
    "Straße",
    "東京",
    "😀",
]


def make_text(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function that returns a folder by name, made by the first process that asks for it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which the processes of a run share

    def made(name, make):
        folder = root / "made-once" / name
        folder.parent.mkdir(exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = folder.with_suffix(".done")
            if not done.exists():
                assert not folder.exists(), f"{name} could not be made; see the first failure"
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def small_corpus(made_once):
    """60 documents in 3 JSONL files: an empty one, a one-byte one, one of 6 KB, short ones."""
    return made_once("corpus", _make_corpus)


def _make_corpus(folder):
    rng = random.Random(11)
    for number in range(3):
        texts = [make_text(rng, rng.randrange(1, 60)) for _ in range(20)]
        texts[number] = ("", "a", make_text(rng, 900))[number]
        rows = [
            {"id": f"{number}/{i}", "text": text, "lang": "en" if i % 2 else "de"}
            for i, text in enumerate(texts)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{number}.jsonl").write_text(lines)


@pytest.fixture(scope="session")
def small_bytes(small_corpus, tmp_path_factory):
    """The corpus as three byte shards."""
    output = tmp_path_factory.mktemp("small-bytes") / "bytes"
    argv = ["--input", str(small_corpus), "--output", str(output), "--keep-fields", "lang"]
    assert command.main(encode, [*argv, "--target-shard-bytes", "5KB"]) == 0
    assert len(list(output.glob("bytes-*.tfrecord"))) >= 3
    return output


@pytest.fixture(scope="session")
def small_entropy_model(tmp_path_factory):
    """An entropy model of two narrow layers with random weights, spread out by hand."""
    import keras

    from blt.model.entropy_model import EntropyModel
    from blt.model.serialization import save_model

    keras.utils.set_random_seed(3)
    model = EntropyModel(dim=32, num_layers=2, num_heads=2, hidden_dim=64, window=32)
    for weight in model.weights:
        if "output" in weight.path:
            weight.assign(weight * 6.0)  # else all entropies are about ln 260
    path = tmp_path_factory.mktemp("model") / "entropy.keras"
    save_model(model, path)
    return path
