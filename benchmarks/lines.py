"""What `reset_on_newline` costs, and what its memo of repeated lines saves.

    python benchmarks/lines.py --text code.jsonl --entropy-model model.ngram

The documents are the field `text` of a JSONL file. Three ways take turns in each round: whole
documents; lines, each looked at; lines, repeated ones looked at once. The figure is the median of
the rounds, in KB of text a second of this process's CPU time (all its threads; `taskset -c 0` gives
it one core), so that what else the machine does shows less.
"""

import argparse
import collections
import json
import statistics
import time
from pathlib import Path

from blt.cli.quiet import silence
from blt.engine import LineEngine, get_entropy_engine, import_engine_backend
from blt.tokenizer import frame_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--entropy-model", type=Path, required=True, metavar="FILE")
    parser.add_argument("--bytes", type=int, default=1 << 40, help="of text, at most")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    silence()
    import_engine_backend(arguments.entropy_model)
    engine = get_entropy_engine(arguments.entropy_model)
    documents = read_documents(arguments.text, arguments.bytes)
    num_bytes = sum(map(len, documents))
    ways = {
        "whole documents": engine,
        "lines, without the memo": LineEngine(engine, memo_bytes=0),
        "lines": LineEngine(engine),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counted = {}
    for number in range(arguments.rounds + 1):
        for name, way in ways.items():
            elapsed, counted[name] = run(way, documents)
            if number:  # the first round compiles
                seconds[name].append(elapsed)
    print(f"{len(documents)} documents, {num_bytes:,} bytes\n")
    print("| | KB/s | ratio | tokens through the model | lines that came again |")
    print("|---" * 5 + "|")
    first = statistics.median(seconds["whole documents"])
    for name, counts in counted.items():
        median = statistics.median(seconds[name])
        lines = counts["memo_lines"]
        known = f"{counts['memo_hits'] / lines:.1%} of {lines:,}" if lines else ""
        cells = [name, f"{num_bytes / median / 1e3:,.1f}", f"{first / median:.2f}"]
        cells += [f"{counts['tokens']:,}", known]
        print("| " + " | ".join(cells) + " |")


def read_documents(path: Path, num_bytes: int) -> list[bytes]:
    documents = []
    for line in path.read_bytes().splitlines():
        documents.append(json.loads(line)["text"].encode())
        num_bytes -= len(documents[-1])
        if num_bytes <= 0:
            break
    return documents


def run(engine, documents: list[bytes]):
    """Returns the seconds of CPU time that the engine takes, and what it counted."""
    counters = collections.Counter()
    start = time.process_time()
    for _ in engine.run(enumerate(map(frame_tokens, documents)), counters):
        pass
    return time.process_time() - start, counters


if __name__ == "__main__":
    main()
