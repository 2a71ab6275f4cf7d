"""How fast a BLT generates, with its caches and without.

    python benchmarks/generate.py --model quickstart/blt/model.keras --text README.md

The text is repeated until it is long enough. At each context, the model reads all but the last
bytes of it, and then those one after the other, as if it had said them; so both ways do the same
work on the same patches, whatever the model would say. Timed is a byte: its patch decision, the
model, and
the logits' way to the host. Not timed is what comes before the first new byte: compiling, and
reading the prompt, which the last column gives. The baseline, a full pass for every byte, runs
beside it, in rows that are as long as the context and no longer.
"""

# ruff: noqa: E402  (logs are silenced before TensorFlow is imported)

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from blt.cli.quiet import import_keras, silence

silence()
keras = import_keras()

from blt.generation.generate import _CachedDriver, _FullDriver, _Row
from blt.model.blt import load_blt

CONTEXTS = (256, 1024, 4096)
WAYS = {"cached": _CachedDriver, "full passes": _FullDriver}


def main() -> None:
    arguments = parse_arguments()
    model = load_blt(arguments.model)
    text = arguments.text.read_bytes()
    results = [
        {"context": context, "rounds": arguments.rounds, **measure(model, text, context, arguments)}
        for context in arguments.contexts
    ]
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print("| context, bytes | cached, bytes/s | full passes, bytes/s | ratio | prompt, ms |")
    print("|---|---|---|---|---|")
    for row in results:
        cached, full = row["cached"], row["full passes"]
        print(
            f"| {row['context']:,} | {cached:.0f} | {full:.1f} | {cached / full:.1f} | "
            f"{row['prompt_msec']:.0f} |"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a BLT with its entropy model")
    parser.add_argument("--text", type=Path, required=True, help="what it reads")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--new-bytes", type=int, default=48, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    return parser.parse_args()


def measure(
    model: keras.Model, text: bytes, context: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Returns bytes a second of both ways, medians over rounds that take turns."""
    tokens = (text * (context // len(text) + 1))[: context - 1]  # BOS makes it whole
    new = arguments.new_bytes
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    prompts = []
    for number in range(arguments.rounds + 1):
        for name, driver in WAYS.items():
            prompt, seconds = run(driver(model), model, tokens, new)
            if number:  # the first round compiles
                rates[name].append(new / seconds)
                if name == "cached":
                    prompts.append(prompt)
        print(f"context {context}: round {number} of {arguments.rounds}", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {**medians, "prompt_msec": 1000 * statistics.median(prompts)}


def run(driver: Any, model: keras.Model, text: bytes, new: int) -> tuple[float, float]:
    """Returns the seconds that the prompt took, and those of the new bytes."""
    row = _Row(model, text[:-new], seed=0)
    start = time.perf_counter()
    driver.begin([row])
    begun = time.perf_counter()
    for byte in text[-new:]:
        row.append(byte + 4)
        driver.step([row])
    return begun - start, time.perf_counter() - begun


if __name__ == "__main__":
    main()
