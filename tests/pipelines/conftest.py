"""A small byte dataset and an untrained entropy model, made once."""

import json
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
def small_corpus(tmp_path_factory):
    """60 documents in 3 JSONL files: an empty one, a one-byte one, one of 6 KB, short ones."""
    folder = tmp_path_factory.mktemp("small") / "corpus"
    folder.mkdir()
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
    return folder


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
