"""Runs the quickstart and says what it took, what it reached, and how much of that is memory.

    python benchmarks/quickstart.py OUTPUT      (a new folder; some four minutes on 2 CPU cores)

Prints a table of seconds by stage; bits per byte on the held-out documents for the BLT and the
entropy model beside the baselines zlib (level 6) and xz on the same documents; and the same over
those documents alone that share little text with the training documents, since documentation
repeats itself: a document's overlap is the share of its bytes that lie in a run of 50 bytes which
also occurs in a training document.
"""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from blt.dataset.splits import is_held_out

RUN_BYTES = 50
LITTLE_OVERLAP = 0.05
CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def main(root: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "run", str(CONFIG), "--output", str(root)]
    finished = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE)
    summary = json.loads(finished.stdout)
    print("| stage | seconds |\n|---|---|")
    for stage, seconds in summary["seconds"].items():
        print(f"| {stage} | {seconds:.0f} |")

    overlaps = measure_overlap(root / "corpus" / "python-docs.jsonl.gz")
    scores = {name: read_scores(root / f"scores-{name}") for name in ("blt", "entropy")}
    own = {doc_id for doc_id, overlap in overlaps.items() if overlap < LITTLE_OVERLAP}
    print(f"\n| bits per byte | all {len(overlaps)} held out | the {len(own)} of little overlap |")
    print("|---|---|---|")
    for label, rows, column in (
        ("BLT", scores["blt"], "bits_per_byte"),
        ("entropy model", scores["entropy"], "bits_per_byte"),
        ("zlib -6", scores["blt"], "zlib_bits_per_byte"),
        ("xz", scores["blt"], "xz_bits_per_byte"),
    ):
        figures = [corpus_figure(rows, column, ids) for ids in (set(overlaps), own)]
        print(f"| {label} | {figures[0]:.3f} | {figures[1]:.3f} |")
    sizes = {row["doc_id"]: row["num_bytes"] for row in scores["blt"]}
    shared = sum(overlaps[doc_id] * sizes[doc_id] for doc_id in overlaps) / sum(sizes.values())
    print(f"\nOf the held-out bytes, {shared:.0%} lie in runs of {RUN_BYTES} seen in training.")


def read_scores(folder: Path) -> list[dict]:
    return [row for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def corpus_figure(rows: list[dict], column: str, ids: set[str]) -> float:
    """The sum of bits over the sum of bytes of the documents `ids`."""
    chosen = [row for row in rows if row["doc_id"] in ids and row["num_bytes"]]
    bits = sum(row[column] * row["num_bytes"] for row in chosen)
    return bits / sum(row["num_bytes"] for row in chosen)


def measure_overlap(corpus: Path) -> dict[str, float]:
    """doc_id -> the share of a held-out document's bytes in runs that training documents hold."""
    with gzip.open(corpus) as lines:
        documents = {row["id"]: row["text"].encode() for row in map(json.loads, lines)}
    held_out = {doc_id for doc_id in documents if is_held_out(doc_id)}
    seen = {
        text[start : start + RUN_BYTES]
        for doc_id, text in documents.items()
        if doc_id not in held_out
        for start in range(len(text) - RUN_BYTES + 1)
    }
    overlaps = {}
    for doc_id in held_out:
        text = documents[doc_id]
        covered = bytearray(len(text))
        for start in range(len(text) - RUN_BYTES + 1):
            if text[start : start + RUN_BYTES] in seen:
                covered[start : start + RUN_BYTES] = b"\1" * RUN_BYTES
        overlaps[doc_id] = sum(covered) / len(text)
    return overlaps


if __name__ == "__main__":
    main(Path(sys.argv[1]))
