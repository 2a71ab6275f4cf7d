"""Speed of `encode`, beside reading alone and beside the usual Beam pipeline.

    python benchmarks/encode.py --text corpus.txt --output encode.json

The text's pieces (benchmarks/documents.py) become JSONL, JSONL.gz, JSONL.zst, Parquet and text (a
document per line) of `--megabytes` of text each. On one core, in turns, in every round:

- encode: `encode_unit`, from the file to finished byte shards, without Beam.
- read: the file as `encode` reads and decompresses it, and its bytes thrown away (gzip by ISA-L).
- ceiling: the same file read and decompressed by the usual library (gzip by zlib), and its bytes
  thrown away; Parquet's columns read.
- Beam: `ReadFromText | json.loads | tf.train.Example | WriteToTFRecord` on the runner that `blt
  encode` has, written as its documentation has it. It reads neither zstd nor Parquet.

Then whole commands, as processes, on `--copies` files of such JSONL, no two sharing a document or
an id: `blt encode` with 1 worker and with 2, with 1 that looks for duplicates by bytes and by id,
and how much of the time of 1 is not `encode_unit`'s. Figures are medians of the rounds; MB are of
text.
"""

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from documents import cut_documents

REPO = Path(__file__).parents[1]
MEAN_BYTES = 2_900
FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a file to cut documents from")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--copies", type=int, default=24, help="files for whole commands")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where temporary files go")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        num_bytes = make_inputs(folder, arguments.text.read_bytes(), arguments.megabytes)
        results = [measure(folder, kind, num_bytes, arguments.rounds) for kind in FORMATS]
        print("| input | encode, MB/s | read | ceiling | share | Beam pipeline | ratio |")
        print("|---|---|---|---|---|---|---|")
        for row in results:
            beam = (
                f"{row['beam']:.1f} | {row['encode'] / row['beam']:.1f}" if row["beam"] else "- | -"
            )
            read = f"{row['read']:.0f}" if row["read"] else "-"
            print(
                f"| {row['input']} | {row['encode']:.0f} | {read} | "
                f"{row['ceiling']:.0f} | "
                f"{row['encode'] / row['ceiling']:.0%} | {beam} |"
            )
        commands = measure_commands(folder, num_bytes, arguments.copies, arguments.rounds)
        print(
            f"\nblt encode of {commands['megabytes']:,.0f} MB of JSONL: {commands['one']:.1f} s "
            f"with 1 worker, {commands['two']:.1f} s with 2 ({commands['speedup']:.2f} times as "
            f"fast), {commands['duplicates']:.1f} s with 1 that looks for duplicates; of 1, "
            f"{commands['beam_share']:.1%} of the time is not `encode_unit`'s"
        )
    if arguments.output:
        about = {"results": results, "commands": commands}
        arguments.output.write_text(json.dumps(about, indent=1) + "\n")


def make_inputs(folder: Path, text: bytes, megabytes: int) -> int:
    """Writes the input of each format; returns the bytes of text in one of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    pieces = cut_documents(text, megabytes * 1_000_000 // MEAN_BYTES)
    documents = [piece.decode("utf-8", "ignore") for piece in pieces]
    lines = [
        json.dumps({"id": f"doc-{i}", "text": text, "url": f"https://example.org/{i}"})
        for i, text in enumerate(documents)
    ]
    raw = "\n".join(lines).encode() + b"\n"
    (folder / "input.jsonl").write_bytes(raw)
    (folder / "input.jsonl.gz").write_bytes(gzip.compress(raw, 6, mtime=0))
    (folder / "input.jsonl.zst").write_bytes(zstandard.ZstdCompressor(3).compress(raw))
    table = pa.table({"id": [f"doc-{i}" for i in range(len(documents))], "text": documents})
    pq.write_table(table, folder / "input.parquet", compression="zstd", row_group_size=1000)
    flat = [text.replace("\n", " ") for text in documents]
    (folder / "input.txt").write_text("\n".join(flat) + "\n")
    return sum(len(text.encode()) for text in documents)


def measure(folder: Path, kind: str, num_bytes: int, rounds: int) -> dict:
    path = folder / f"input.{kind}"
    ways: dict[str, Callable[[], object]] = {
        "encode": lambda: encode_alone(path, folder / "shards"),
        "ceiling": lambda: read_alone(path),
    }
    if kind != "parquet":
        ways["read"] = lambda: read_as_encode(path)
    if kind in ("jsonl", "jsonl.gz"):
        ways["beam"] = lambda: beam_pipeline(path, folder / "beam")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            if number:  # the first round imports
                seconds[way].append(time.perf_counter() - start)
    speeds = {way: num_bytes / 1e6 / statistics.median(found) for way, found in seconds.items()}
    return {"input": kind, "beam": None, "read": None, **speeds}


def encode_alone(path: Path, output: Path) -> None:
    from blt.corpus.config import EncodeConfig
    from blt.corpus.encode import encode_unit
    from blt.corpus.files.discover import discover_inputs
    from blt.corpus.planning.plan import build_plan

    config = EncodeConfig(doc_per="line")
    shutil.rmtree(output, ignore_errors=True)
    (output / "_units").mkdir(parents=True)
    for index, unit in enumerate(build_plan(discover_inputs([str(path)]).files, config)):
        encode_unit(unit, config, output, index)


def read_as_encode(path: Path) -> None:
    from blt.corpus.files.decompress import read_blocks

    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix, "plain")
    for _ in read_blocks(str(path), compression):
        pass


def read_alone(path: Path) -> None:
    """Reads and decompresses as fast as the usual library for the format does."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        for _ in pq.ParquetFile(path).iter_batches(columns=["id", "text"], use_threads=False):
            pass
        return
    if path.suffix == ".zst":
        import zstandard

        with path.open("rb") as file:
            for _ in zstandard.ZstdDecompressor().read_to_iter(file, 1 << 20, 1 << 20):
                pass
        return
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        while file.read(1 << 20):
            pass


def beam_pipeline(path: Path, output: Path) -> None:
    """What one writes with Beam's own parts."""
    import apache_beam as beam
    import tensorflow as tf

    from pipelines.beam_flags import make_options, make_runner

    def encode(line: str) -> bytes:
        row = json.loads(line)
        tokens = [1, *(byte + 4 for byte in row["text"].encode("utf-8")), 2]
        features = {
            "doc_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[row["id"].encode()])),
            "tokens": tf.train.Feature(int64_list=tf.train.Int64List(value=tokens)),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        return example.SerializeToString()

    shutil.rmtree(output, ignore_errors=True)
    options = make_options([])
    with beam.Pipeline(runner=make_runner(options), options=options) as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromText(str(path))
            | beam.Map(encode)
            | beam.io.WriteToTFRecord(str(output / "shard"))
        )


def measure_commands(folder: Path, num_bytes: int, copies: int, rounds: int) -> dict:
    """Times `blt encode` of several files: with a worker, with two, and looking for duplicates."""
    inputs = folder / "many"
    inputs.mkdir()
    raw = (folder / "input.jsonl").read_bytes()
    for copy in range(copies):
        other = raw.replace(b'{"id": "', b'{"id": "%d-' % copy)
        (inputs / f"{copy}.jsonl").write_bytes(other.replace(b'"text": "', b'"text": "%d ' % copy))
    ways = {
        "one": [],
        "two": ["--direct_num_workers", "2"],
        "duplicates": ["--drop-duplicates", "--on-duplicate-id", "suffix"],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ("alone", *ways)}
    for _ in range(rounds):
        start = time.perf_counter()
        encode_alone(inputs, folder / "shards")
        seconds["alone"].append(time.perf_counter() - start)
        shutil.rmtree(folder / "shards")
        for way, flags in ways.items():
            start = time.perf_counter()
            run_command(inputs, folder / "bytes", flags)
            seconds[way].append(time.perf_counter() - start)
            shutil.rmtree(folder / "bytes")
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "megabytes": copies * num_bytes / 1e6,
        **medians,
        "speedup": medians["one"] / medians["two"],
        "beam_share": 1 - medians["alone"] / medians["one"],
    }


def run_command(inputs: Path, output: Path, flags: list[str]) -> None:
    argv = ["encode", "--input", str(inputs), "--output", str(output), "--doc-per", "line", *flags]
    subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *argv],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )


if __name__ == "__main__":
    from blt.cli.quiet import silence

    silence()
    main()
