"""Peak memory of `blt encode` on inputs of 200 MB and of 2 GB, and on 100,000 files of 200 bytes.

    python benchmarks/encode_memory.py --text corpus.txt

All are made on the spot: JSONL of the text's pieces (benchmarks/documents.py), plain and as one
gzip file; and pieces of the text as files, whose time and shards are also told. Peak memory is the
resident set of the process and its children, summed, polled from /proc.
"""

import argparse
import gzip
import json
import tempfile
import time
from pathlib import Path

from documents import cut_documents
from patch_memory import peak_bytes

SIZES = (200_000_000, 2_000_000_000)
TINY_FILES, TINY_BYTES = 100_000, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a file to cut documents from")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where temporary files go (5 GB)")
    arguments = parser.parse_args()
    pieces = cut_documents(arguments.text.read_bytes(), 10_000)
    lines = [
        json.dumps({"id": f"doc-{i}", "text": piece.decode("utf-8", "ignore")}).encode() + b"\n"
        for i, piece in enumerate(pieces)
    ]
    print("| input | " + " | ".join(f"{size / 1e6:,.0f} MB" for size in SIZES) + " | ratio |")
    print("|---|" + "---|" * (len(SIZES) + 1))
    for suffix in (".jsonl", ".jsonl.gz"):
        peaks = []
        for size in SIZES:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                path = Path(folder) / f"input{suffix}"
                write_lines(path, lines, size)
                flags = ["--direct_num_workers", arguments.workers]
                output = Path(folder) / "bytes"
                peaks.append(peak_bytes("encode", "--input", path, "--output", output, *flags))
        cells = " | ".join(f"{peak / 1e6:,.0f} MB" for peak in peaks)
        print(f"| {suffix} | {cells} | {peaks[-1] / peaks[0]:.2f} |", flush=True)
    measure_tiny_files(arguments)


def measure_tiny_files(arguments: argparse.Namespace) -> None:
    text = arguments.text.read_bytes()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        corpus, output = Path(name) / "corpus", Path(name) / "bytes"
        for number in range(TINY_FILES):
            folder = corpus / f"{number // 1000:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            start = 140 * number % len(text)
            (folder / f"{number % 1000:03d}.txt").write_bytes(text[start : start + TINY_BYTES])
        start = time.perf_counter()
        peak = peak_bytes("encode", "--input", corpus, "--output", output)
        seconds = time.perf_counter() - start
        shards = len(list(output.glob("bytes-*")))
    print(f"{TINY_FILES:,} files: {seconds:.1f} s, {peak / 1e6:,.0f} MB, {shards} shards")


def write_lines(path: Path, lines: list[bytes], size: int) -> None:
    """Writes lines, from the first again after the last, until there are `size` bytes of them."""
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        written = 0
        while written < size:
            for line in lines:
                file.write(line)
                written += len(line)
                if written >= size:
                    break


if __name__ == "__main__":
    main()
