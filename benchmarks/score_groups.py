"""Peak memory of `blt score` on many documents: with no groups, by input, and by a unique field.

    python benchmarks/score_groups.py

Makes 300,000 short documents, each with a url of its own, trains an n-gram model on some of them,
and scores them: encoded without the url, then with it (`--keep-fields url`), grouped by input as
is the default, and by the url itself. Peak memory is the resident set of the process and its
children, summed, polled from /proc. Ends with status 1 if one is more than 50 MB above the first.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from patch_memory import blt, peak_bytes

ALLOWED_BYTES = 50_000_000
TRAINED_ON = 5_000
WORDS = ["the", "byte", "latent", "transformer", "reads", "patches", "of", "bytes", "and"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=300_000)
    parser.add_argument("--folder", type=Path, help="where temporary files go (200 MB)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_corpus(folder / "some.jsonl", TRAINED_ON)
        write_corpus(folder / "all.jsonl", arguments.documents)
        for made, corpus, *flags in (
            ("some", "some"),
            ("plain", "all"),
            ("with-url", "all", "--keep-fields", "url"),
        ):
            blt("encode", "--input", folder / f"{corpus}.jsonl", "--output", folder / made, *flags)
        model = folder / "model.ngram"
        blt("train-ngram", "--data", folder / "some", "--output", model)
        print("| run | seconds | peak memory | above the first |\n|---|---|---|---|")
        first, is_within = None, True
        for label, data, *flags in (
            ("no kept field", "plain"),
            ("url kept, by input", "with-url"),
            ("url kept, by url", "with-url", "--by", "url"),
        ):
            output = folder / f"scores-{data}-{len(flags)}"
            start = time.perf_counter()
            peak = peak_bytes(
                "score", "--data", folder / data, "--model", model, "--output", output, *flags
            )
            seconds = time.perf_counter() - start
            first = peak if first is None else first
            is_within &= peak - first <= ALLOWED_BYTES
            cells = f"{seconds:.0f} | {peak / 1e6:,.0f} MB | {(peak - first) / 1e6:+,.0f} MB"
            print(f"| {label} | {cells} |", flush=True)
        summary = json.loads((output / "_summary.json").read_text())
        assert summary["documents"] == arguments.documents
        url = summary["by"]["url"]
        print(f"by url: {len(url['values']):,} shown, {url['other']['documents']:,} in other")
    sys.exit(0 if is_within else 1)


def write_corpus(path: Path, num_documents: int) -> None:
    """Writes JSON Lines of some 90 bytes of text, and a url that no other line has."""
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(num_documents):
            row = {
                "id": str(number),
                "text": " ".join(rng.choice(WORDS) for _ in range(15)),
                "url": f"https://example.org/{number % 97}/pages/{number:09d}.html",
            }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
