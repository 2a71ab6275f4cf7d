"""The entropy engine beside the naive way, Hugging Face's, and the machine's own matrix products.

    python benchmarks/engine.py --text corpus.txt --output engine.json

Documents: 2,000 pieces of the text, their lengths log-normal with a median of 600 bytes and a mean
of about 3 KB. Models, with random weights and a window of 512: T (2 layers of width 64, 4 heads),
S (6 x 256, 8 heads), P (14 x 768, 12 heads).

- engine: `EntropyEngine.run` on a sample of the documents, from bytes to entropies in host memory.
- naive: the same layers and weights in the same framework, a document at a time in pieces of 8,192,
  padded to 8,192, with a full mask over 8,192 x 8,192. Every row costs the same, so one is timed.
- hf: `transformers`' BltPatcher with the same weights, a document a call, not padded, on a smaller
  sample. Only where `transformers` and PyTorch are installed (`pip install 'blt[parity]'`).
- share: what the documents need (two operations for every weight of a matrix and for every key in
  reach, no padding, nothing twice) a second, of what a product of two 4096 x 4096 matrices reaches.

Each way has a process of its own, which does nothing until it is its turn: in every round, all ways
are timed one after the other. Figures are medians of the rounds, ratios medians of the rounds' own.
"""

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from documents import cut_documents, sample_by_length

WINDOW = 512
VOCAB_SIZE = 260
NAIVE_ROW = 8192
MATRIX = 4096
NUM_DOCUMENTS = 2000
DTYPES = ("float32", "bfloat16")
MODELS: dict[str, dict[str, int]] = {
    "T": {"dim": 64, "num_layers": 2, "num_heads": 4, "hidden_dim": 256},
    "S": {"dim": 256, "num_layers": 6, "num_heads": 8, "hidden_dim": 768},
    "P": {"dim": 768, "num_layers": 14, "num_heads": 12, "hidden_dim": 2048},
}
# One of how many documents is timed: by the engine, and by Hugging Face's.
STEPS = {"T": (4, 25), "S": (20, 100), "P": (80, 1000)}


def main() -> None:
    arguments = parse_arguments()
    documents = cut_documents(arguments.text.read_bytes(), NUM_DOCUMENTS, seed=arguments.seed)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            files = make_model(name, Path(folder))
            for dtype in arguments.dtypes:
                row = measure(name, dtype, files, documents, arguments)
                results.append(row)
                print(json.dumps(row), flush=True)
                if arguments.output:
                    about = {"machine": describe_machine(), "results": results}
                    arguments.output.write_text(json.dumps(about, indent=1) + "\n")
    print_table(results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a file to cut documents from")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the documents")
    parser.add_argument("--no-hf", action="store_true", help="leave Hugging Face's out")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    return parser.parse_args()


def measure(
    name: str,
    dtype: str,
    files: dict[str, Path],
    documents: list[bytes],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Times every way of one model in one number format, in turns."""
    engine_step, hf_step = STEPS[name]
    sample = sample_by_length(documents, engine_step)
    hf_sample = sample_by_length(documents, hf_step)
    options = {"files": files, "dtype": dtype}
    found: dict[str, list[Any]] = {"matrix": [], "engine": [], "naive": []}
    with contextlib.ExitStack() as stack:
        ways = {
            "matrix": stack.enter_context(Way(matrix_way, {"dtype": dtype})),
            "engine": stack.enter_context(Way(engine_way, {**options, "sample": sample})),
            "naive": stack.enter_context(Way(naive_way, options)),
        }
        if not arguments.no_hf and all(map(importlib.util.find_spec, ("transformers", "torch"))):
            ways["hf"] = stack.enter_context(Way(hf_way, {**options, "sample": hf_sample}))
            found["hf"] = []
        for _ in range(arguments.rounds):
            for way, process in ways.items():
                found[way].append(process.run())
    num_bytes = sum(map(len, documents))
    rows = sum(-(-(len(document) + 2) // NAIVE_ROW) for document in documents)
    engine = [sum(map(len, sample)) / seconds for seconds, _ in found["engine"]]
    naive = [num_bytes / (rows * seconds) for seconds in found["naive"]]
    needed = sum(needed_operations(name, len(d)) for d in sample) / sum(map(len, sample))
    shares = [speed * needed / rate for speed, rate in zip(engine, found["matrix"], strict=True)]
    tokens, padding = (found["engine"][0][1][key] for key in ("tokens", "padding"))
    row = {
        "model": name,
        "dtype": dtype,
        "rounds": arguments.rounds,
        "mean_document_bytes": num_bytes / len(documents),
        "median_document_bytes": statistics.median(map(len, documents)),
        "operations_per_byte": needed,
        "matrix_flops_per_second": statistics.median(found["matrix"]),
        "engine_bytes_per_second": statistics.median(engine),
        "share_of_matrix_rate": statistics.median(shares),
        "padding_share": padding / (tokens + padding),
        "naive_bytes_per_second": statistics.median(naive),
        "ratio_to_naive": statistics.median(map(lambda a, b: a / b, engine, naive)),
    }
    if "hf" in found:
        hf = [sum(map(len, hf_sample)) / seconds for seconds in found["hf"]]
        row["hf_bytes_per_second"] = statistics.median(hf)
        row["ratio_to_hf"] = statistics.median(map(lambda a, b: a / b, engine, hf))
    return row


def needed_operations(name: str, num_bytes: int) -> float:
    """Returns the operations that the entropies of one document take, at the least."""
    sizes = MODELS[name]
    dim, layers = sizes["dim"], sizes["num_layers"]
    weights = layers * (4 * dim * dim + 3 * dim * sizes["hidden_dim"]) + dim * VOCAB_SIZE
    positions = num_bytes + 1  # BOS and every byte; nothing is predicted from EOS
    short = min(positions, WINDOW)
    keys = short * (short + 1) / 2 + (positions - short) * WINDOW
    return 2.0 * weights * positions + 4.0 * dim * layers * keys


class Way:
    """A process that times one way whenever it is asked to."""

    def __init__(self, way: Callable[..., Callable[[], Any]], options: dict[str, Any]) -> None:
        self._way, self._options = way, options

    def __enter__(self) -> "Way":
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (self._way, self._options, theirs)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self._connection.recv()  # it is ready
        return self

    def run(self) -> Any:
        self._connection.send(True)
        return self._connection.recv()

    def __exit__(self, *_: object) -> None:
        self._connection.send(False)
        self._process.join()


def _serve(way: Callable[..., Callable[[], Any]], options: dict, connection: Connection) -> None:
    run = way(**options)
    connection.send("ready")
    while connection.recv():
        connection.send(run())


def make_model(name: str, folder: Path) -> dict[str, Path]:
    """Writes a model with random weights for us and for Hugging Face; in a process of its own."""
    files = {"keras": folder / f"{name}.keras", "hf": folder / f"{name}-hf"}
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_write_model, args=(MODELS[name], files))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the model {name} could not be made")
    return files


def _write_model(sizes: dict[str, int], files: dict[str, Path]) -> None:
    from blt.cli.quiet import import_keras, silence

    silence()
    import_keras().utils.set_random_seed(0)
    from blt.conversion.export import write_hugging_face
    from blt.model.entropy_model import EntropyModel
    from blt.model.serialization import save_model

    model = EntropyModel(**sizes, window=WINDOW, normalization_type="rms_norm")
    save_model(model, files["keras"])
    write_hugging_face(model, files["hf"], source=files["keras"])


def matrix_way(dtype: str) -> Callable[[], float]:
    """Operations a second of a product of two square matrices, with all cores."""
    from blt.cli.quiet import import_keras, silence

    silence()
    keras = import_keras()
    import numpy as np

    from blt.model.compiled import compile_function

    ops = keras.ops
    rng = np.random.default_rng(0)
    x, y = (
        ops.convert_to_tensor(rng.standard_normal((MATRIX, MATRIX), np.float32), dtype)
        for _ in range(2)
    )
    program = compile_function(
        keras.Sequential(), lambda x, y: ops.cast(ops.matmul(x, y), "float32")[0], jit_compile=False
    )
    ops.convert_to_numpy(program(x, y))

    def run() -> float:
        rates = []
        for _ in range(3):
            start = time.perf_counter()
            ops.convert_to_numpy(program(x, y))
            rates.append(2 * MATRIX**3 / (time.perf_counter() - start))
        return statistics.median(rates)

    return run


def engine_way(
    files: dict[str, Path], dtype: str, sample: list[bytes]
) -> Callable[[], tuple[float, dict[str, int]]]:
    """Seconds for the sample, and what the engine counted."""
    from blt.cli.quiet import silence
    from blt.engine import get_entropy_engine, import_engine_backend
    from blt.tokenizer import frame_tokens

    silence()
    import_engine_backend(files["keras"], owns_process=True)
    from collections import Counter

    engine = get_entropy_engine(files["keras"], precision=dtype)
    list(engine.run([("warm", frame_tokens(sample[0]))]))

    def run() -> tuple[float, dict[str, int]]:
        counters: Counter[str] = Counter()
        start = time.perf_counter()
        documents = ((key, frame_tokens(text)) for key, text in enumerate(sample))
        for result in engine.run(documents, counters):
            assert len(result.entropies) == len(sample[result.key]) + 2
        return time.perf_counter() - start, dict(counters)

    return run


def naive_way(files: dict[str, Path], dtype: str) -> Callable[[], float]:
    """Seconds for one row of 8,192 with a full mask."""
    from blt.cli.quiet import import_keras, silence

    silence()
    ops = import_keras().ops
    import numpy as np

    from blt.engine.precision import in_precision
    from blt.layers import make_block_mask
    from blt.model.compiled import compile_function
    from blt.model.entropy_model import entropy_nats
    from blt.model.serialization import load_entropy_model

    model = in_precision(load_entropy_model(files["keras"]), dtype)

    def entropies(tokens: Any) -> Any:
        segment_ids = ops.ones_like(tokens)
        mask = make_block_mask(segment_ids, window=WINDOW, block_size=NAIVE_ROW)
        x = model.embedding(tokens, segment_ids)
        for layer in model.transformer_layers:
            x = layer(x, mask)
        return entropy_nats(model.output_layer(model.norm(x)))

    program = compile_function(model, entropies, jit_compile=False)  # XLA takes twice as long
    tokens = np.random.default_rng(0).integers(4, VOCAB_SIZE, (1, NAIVE_ROW)).astype(np.int32)
    ops.convert_to_numpy(program(tokens))

    def run() -> float:
        start = time.perf_counter()
        ops.convert_to_numpy(program(tokens))
        return time.perf_counter() - start

    return run


def hf_way(files: dict[str, Path], dtype: str, sample: list[bytes]) -> Callable[[], float]:
    """Seconds for the sample with `transformers`' BltPatcher, a document a call."""
    import torch
    from transformers.models.blt.modeling_blt import BltPatcher

    model = BltPatcher.from_pretrained(files["hf"], dtype=getattr(torch, dtype)).eval()
    rows = []
    for text in sample:
        tokens = [1, *(byte + 4 for byte in text), 2]
        rows += [tokens[i : i + NAIVE_ROW] for i in range(0, len(tokens), NAIVE_ROW)]

    def run() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for row in rows:
                model(input_ids=torch.tensor([row]), patch_size=None, threshold=1.0)
        return time.perf_counter() - start

    with torch.inference_mode():
        model(input_ids=torch.tensor([rows[0]]), patch_size=None, threshold=1.0)
    return run


def describe_machine() -> dict[str, Any]:
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system()}


def print_table(results: list[dict[str, Any]]) -> None:
    print("| model | dtype | engine, KB/s | share of matrix rate | padding | to naive | to HF |")
    print("|---|---|---|---|---|---|---|")
    for row in results:
        hf = f"{row['ratio_to_hf']:.1f}" if "ratio_to_hf" in row else "-"
        print(
            f"| {row['model']} | {row['dtype']} | {row['engine_bytes_per_second'] / 1e3:.2f} "
            f"| {row['share_of_matrix_rate']:.0%} | {row['padding_share']:.1%} "
            f"| {row['ratio_to_naive']:.1f} | {hf} |"
        )


if __name__ == "__main__":
    main()
