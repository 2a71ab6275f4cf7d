"""What Beam and the files around it add to the engine: `blt patch` against the engine alone.

    python benchmarks/patch_cost.py --text corpus.txt

Makes byte shards of the text's pieces (benchmarks/documents.py) and models S and P with random
weights (benchmarks/engine.py). In every round both ways read the same shards, each in a process of
its own: the engine alone, its results thrown away; and the whole `blt patch`, with entropies kept.
Figures are medians of the rounds; the ratio is of whole processes, from start to exit, so that it
holds Beam's import, plan, counters, Parquet and manifest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from documents import cut_documents
from engine import MODELS, make_model

BYTES = {"S": 1_500_000, "P": 100_000}
REPO = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a file to cut documents from")
    parser.add_argument("--models", nargs="+", choices=BYTES, default=list(BYTES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--engine-alone", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine_alone:
        run_engine_alone(*arguments.engine_alone)
        return
    results = []
    print("| model | text, KB | engine alone, s | its runs, s | blt patch, s | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in arguments.models:
            row = measure(model, folder, arguments)
            results.append(row)
            print(
                f"| {model} | {row['bytes'] / 1e3:.0f} | {row['engine_process_sec']:.1f} | "
                f"{row['engine_run_sec']:.1f} | {row['patch_sec']:.1f} | {row['ratio']:.3f} |",
                flush=True,
            )
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


def measure(model: str, folder: Path, arguments: argparse.Namespace) -> dict:
    assert model in MODELS
    file = make_model(model, folder)["keras"]
    data = make_data(folder / f"bytes-{model}", arguments.text.read_bytes(), BYTES[model])
    alone, runs, whole = [], [], []
    for number in range(arguments.rounds):
        start = time.perf_counter()
        argv = [__file__, "--text", arguments.text, "--engine-alone", data, file]
        runs.append(float(call(argv)))
        alone.append(time.perf_counter() - start)
        start = time.perf_counter()
        flags = ["--threshold-nats", "3", "--keep-entropies", "f16", "--precision", "float32"]
        flags += ["--data", data, "--entropy-model", file, "--output", folder / f"{model}-{number}"]
        call(["-m", "pipelines.cli", "patch", *flags])
        whole.append(time.perf_counter() - start)
    return {
        "model": model,
        "bytes": json.loads((data / "_manifest.json").read_text())["totals"]["bytes"],
        "rounds": arguments.rounds,
        "engine_process_sec": statistics.median(alone),
        "engine_run_sec": statistics.median(runs),
        "patch_sec": statistics.median(whole),
        "ratio": statistics.median(b / a for a, b in zip(alone, whole, strict=True)),
    }


def make_data(folder: Path, text: bytes, num_bytes: int) -> Path:
    """Makes byte shards of documents with about so many bytes in all."""
    corpus = folder.with_suffix(".jsonl")
    with corpus.open("w") as file:
        for document in cut_documents(text, num_bytes // 3_000):
            file.write(json.dumps({"text": document.decode("utf-8", "replace")}) + "\n")
    flags = ["--target-shard-bytes", str(num_bytes)]
    call(["-m", "pipelines.cli", "encode", "--input", corpus, "--output", folder, *flags])
    return folder


def run_engine_alone(data: Path, model: Path) -> None:
    """Runs the engine over the shards, and prints the seconds that it took."""
    from blt.cli.quiet import silence
    from blt.engine import get_entropy_engine, import_engine_backend
    from blt.formats.byte_shard import read_byte_shard

    silence()
    import_engine_backend(model, owns_process=True)
    engine = get_entropy_engine(model)
    start = time.perf_counter()
    for shard in sorted(data.glob("bytes-*")):
        records = read_byte_shard(shard)
        for _ in engine.run((record.doc_id, record.tokens, record.part > 0) for record in records):
            pass
    print(time.perf_counter() - start)


def call(argv: list) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout


if __name__ == "__main__":
    main()
