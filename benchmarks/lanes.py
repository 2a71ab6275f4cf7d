"""Speed of the entropy engine by its number of lanes, on this machine's device.

    python benchmarks/lanes.py --text corpus.txt

Documents are cut from the text at random places, their lengths log-normal with a median of 600
bytes and a mean of about 3 KB. The models have random weights. Every number of lanes is timed once
in each round, in turn; the figure is the median of the rounds, and the ratio is to 8 lanes.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from blt.quiet import import_keras, silence
from blt.tokenizer import frame_tokens

LANES = (8, 4, 2, 1)
MODELS = {  # sizes, and bytes of text that a round takes
    "2 layers of width 64": (
        {"dim": 64, "num_layers": 2, "num_heads": 4, "hidden_dim": 256},
        400_000,
    ),
    "6 layers of width 256": (
        {"dim": 256, "num_layers": 6, "num_heads": 8, "hidden_dim": 768},
        80_000,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a file to cut documents from")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    silence()
    import_keras().utils.set_random_seed(0)
    text = arguments.text.read_bytes()
    print("| model | " + " | ".join(f"{n} lanes, KB/s" for n in LANES) + " | ratio to 8 lanes |")
    print("|---" * (len(LANES) + 2) + "|")
    for name, (sizes, num_bytes) in MODELS.items():
        documents = cut_documents(text, num_bytes)
        speeds = measure(sizes, documents, arguments.rounds)
        cells = [f"{speed / 1e3:.1f}" for speed in speeds]
        ratios = ", ".join(f"{speed / speeds[0]:.2f}" for speed in speeds[1:])
        print(f"| {name} | {' | '.join(cells)} | {ratios} |", flush=True)


def cut_documents(text: bytes, num_bytes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    documents = []
    while num_bytes > 0:
        length = int(np.clip(rng.lognormal(np.log(600), 1.79), 1, min(len(text), 50_000)))
        start = rng.integers(len(text) - length + 1)
        documents.append(frame_tokens(text[start : start + length]))
        num_bytes -= length
    return documents


def measure(sizes: dict, documents: list[np.ndarray], rounds: int) -> list[float]:
    """Returns the median bytes a second for each of LANES."""
    from blt.engine import EntropyEngine
    from blt.model.entropy_model import EntropyModel

    model = EntropyModel(**sizes)
    engines = [EntropyEngine(model, lanes=lanes) for lanes in LANES]
    for engine in engines:  # compile
        list(engine.run(enumerate(documents[:1])))
    num_bytes = sum(len(tokens) - 2 for tokens in documents)
    speeds: list[list[float]] = [[] for _ in engines]
    for _ in range(rounds):
        for engine, found in zip(engines, speeds, strict=True):
            start = time.perf_counter()
            list(engine.run(enumerate(documents)))
            found.append(num_bytes / (time.perf_counter() - start))
    return [statistics.median(found) for found in speeds]


if __name__ == "__main__":
    main()
