"""Measures the n-gram entropy model beside compressors and, if one is given, a Keras entropy model.

    python benchmarks/ngram.py CORPORA [--entropy-model entropy.keras]

CORPORA is a folder with `wikitext2/train.jsonl` (what is counted, all of it),
`wikitext2/test.jsonl`, `wikitext2/test_raw.jsonl` (the same without <unk>), and JSONL files with a
field `text` in `code/` and `multilingual/`; what is not there is left out. All is timed in this
process on as many cores as it is given; `taskset -c 0` gives it one. The engines' times are the
best of two or three. An entropy model should have been trained on the same text (`blt encode` and
`blt train-entropy` of `wikitext2/train.jsonl`).

Boundaries in common: both models cut the same text, each at the threshold that gives a mean of 4.5
bytes a patch; of the boundaries that either has, the share that both have, and of those of the
Keras model, the share that the n-gram model has too. Chance: what the second would be if the n-gram
model's boundaries lay anywhere.
"""

import argparse
import json
import lzma
import math
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from blt.cli.quiet import silence
from blt.engine import get_entropy_engine, import_engine_backend
from blt.ngram.config import NgramConfig
from blt.ngram.counting import count_documents
from blt.ngram.model import build_model, save_ngram
from blt.tokenizer import frame_tokens

TARGET_PATCH_BYTES = 4.5
TEXTS = {
    "WikiText-2 test": "wikitext2/test.jsonl",
    "WikiText-2 test, raw": "wikitext2/test_raw.jsonl",
    "code": "code/*.jsonl",
    "multilingual": "multilingual/*.jsonl",
}
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpora", type=Path, metavar="CORPORA")
    parser.add_argument("--train", default="wikitext2/train.jsonl", help="below CORPORA")
    parser.add_argument("--entropy-model", type=Path, metavar="FILE.keras")
    parser.add_argument("--entropy-model-bytes", type=int, default=300_000, help="it reads at most")
    arguments = parser.parse_args()
    silence()

    training = read_documents(sorted(arguments.corpora.glob(arguments.train)))
    texts = {
        name: read_documents(sorted(arguments.corpora.glob(pattern)))
        for name, pattern in TEXTS.items()
    }
    texts = {name: documents for name, documents in texts.items() if documents}
    with tempfile.TemporaryDirectory() as folder:
        print_models(training, texts, Path(folder))
        default = Path(folder) / "default.ngram"
        print_texts(default, texts)
        if arguments.entropy_model:
            print_against(default, arguments.entropy_model, texts, arguments.entropy_model_bytes)


def read_documents(paths: list[Path]) -> list[bytes]:
    lines = (line for path in paths for line in path.read_bytes().splitlines())
    return [json.loads(line)["text"].encode() for line in lines]


def best_time(work, repeats: int = REPEATS):
    """Returns the seconds of the fastest call, and what the last one returned."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def run_engine(path: Path, documents: list[bytes], repeats: int = REPEATS):
    """Returns MB/s, bits per byte, and the entropies of each document."""
    import_engine_backend(path)
    engine = get_entropy_engine(path)
    framed = [frame_tokens(document) for document in documents]
    seconds, results = best_time(lambda: list(engine.run(enumerate(framed))), repeats)
    num_bytes = sum(map(len, documents))
    nats = sum(float(result.token_nats[1:-1].sum(dtype=np.float64)) for result in results)
    return (
        num_bytes / seconds / 1e6,
        nats / num_bytes / math.log(2),
        [result.entropies for result in results],
    )


def print_models(training: list[bytes], texts: dict, folder: Path) -> None:
    framed = [frame_tokens(document) for document in training]
    num_bytes = sum(map(len, training))
    defaults = NgramConfig()
    print(f"Counted: {len(training)} documents, {num_bytes:,} bytes.\n")
    print(f"| order | min count | grams | file, MB | training, MB/s | {' | '.join(texts)} |")
    print("|---" * (5 + len(texts)) + "|")
    for order in range(3, 7):
        for min_count in (1, 2, 4):
            config = NgramConfig(order=order, min_count=min_count, max_megabytes=1000)
            is_default = (order, min_count) == (defaults.order, defaults.min_count)
            path = folder / ("default.ngram" if is_default else f"{order}-{min_count}.ngram")

            def train(config=config, path=path):
                model = build_model(count_documents(framed, config.order + 1), config)
                save_ngram(model, path)
                return model

            seconds, model = best_time(train, 1)
            figures = [f"{run_engine(path, documents, 1)[1]:.3f}" for documents in texts.values()]
            cells = [order, min_count, f"{sum(model.config['grams']):,}"]
            cells += [f"{path.stat().st_size / 1e6:.1f}", f"{num_bytes / seconds / 1e6:.1f}"]
            mark = "**" if is_default else ""
            print("| " + " | ".join(f"{mark}{cell}{mark}" for cell in [*cells, *figures]) + " |")


def print_texts(path: Path, texts: dict) -> None:
    print("\n| text | documents | MB | n-gram, MB/s | n-gram, bits/byte | zlib -6 | xz |")
    print("|---" * 7 + "|")
    for name, documents in texts.items():
        speed, bits, _ = run_engine(path, documents)
        num_bytes = sum(map(len, documents))
        compressed = [
            8 * sum(len(compress(document)) for document in documents) / num_bytes
            for compress in (lambda data: zlib.compress(data, 6), lzma.compress)
        ]
        cells = [name, f"{len(documents):,}", f"{num_bytes / 1e6:.2f}", f"{speed:.1f}"]
        cells += [f"{figure:.3f}" for figure in (bits, *compressed)]
        print(f"| {' | '.join(cells)} |")


def print_against(path: Path, keras_path: Path, texts: dict, max_bytes: int) -> None:
    print("\n| text, its beginning | MB | model | MB/s | bits/byte | threshold, nats |", end="")
    print(" in common | of Keras's | chance |")
    print("|---" * 9 + "|")
    for name, documents in texts.items():
        step = max(1, sum(map(len, documents)) // max_bytes)  # every step-th, from all over
        taken = documents[::step]
        size = f"{sum(map(len, taken)) / 1e6:.2f}"
        cuts = {}
        for model, file in (("n-gram", path), ("Keras", keras_path)):
            speed, bits, entropies = run_engine(file, taken, 2)
            threshold, cuts[model] = cut(entropies)
            row = [name, size, model, f"{speed:.3f}", f"{bits:.3f}", f"{threshold:.3f}"]
            if model == "Keras":
                both = np.count_nonzero(cuts["n-gram"] & cuts["Keras"])
                either = np.count_nonzero(cuts["n-gram"] | cuts["Keras"])
                shares = both / either, both / cuts["Keras"].sum(), cuts["n-gram"].mean()
                row += [f"{share:.1%}" for share in shares]
            print(f"| {' | '.join([*row, '', '', ''][:9])} |")


def cut(entropies: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Returns the threshold of the wanted mean, and for each byte but a first one if it is cut.

    A document's first byte opens a patch in any case, so it is not among those that tell.
    """
    following = np.concatenate([values[2:-1] for values in entropies])
    num_documents = sum(len(values) > 2 for values in entropies)
    num_bytes = len(following) + num_documents
    wanted = round(num_bytes / TARGET_PATCH_BYTES) - num_documents
    threshold = float(np.sort(following)[-wanted - 1])
    return threshold, following > threshold


if __name__ == "__main__":
    main()
