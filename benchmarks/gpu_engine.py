"""The stages of `benchmarks/gpu.py` that run the entropy engine, and its attention alone."""

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from documents import cut_documents
from engine import MODELS, NUM_DOCUMENTS, WINDOW, needed_operations
from gpu_timing import ROUNDS, kernel_times, seconds_of, tried

from blt.layers.attention import CausalAttention, make_block_mask

# Tiles of the fused kernel that the stage `attention` tries: queries, keys, warps, stages.
FORWARD_TILES = ((128, 64, 4, 3), (128, 64, 8, 2), (64, 64, 4, 3), (64, 128, 4, 3))
BACKWARD_TILES = ((64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 8, 2), (64, 128, 8, 2))


def attention(arguments: argparse.Namespace, report: Any) -> dict[str, Any]:
    """Times of one layer's attention over a row of packed documents, by kernel and tiles."""
    on_gpu = jax.devices()[0].platform == "gpu"
    num_tokens = 65536 if on_gpu else 512
    lengths = np.array([len(text) + 2 for text in documents_of(arguments)])
    segment_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    segment_ids = jnp.asarray(np.resize(segment_ids, num_tokens)[None], jnp.int32)
    shapes = {f"{heads} x {dim}": Attention(heads, dim, segment_ids) for heads, dim in HEADS}
    found: dict[str, Any] = {"num_tokens": num_tokens}
    for name, shape in shapes.items():
        ways = {"blocks": shape.by_blocks}
        if on_gpu:
            ways["cudnn"] = functools.partial(shape.by_blocks, kernel="cudnn")
        found[name] = {way: tried(shape.measure, attend) for way, attend in ways.items()}
        for tiles in FORWARD_TILES if on_gpu else FORWARD_TILES[:1]:
            attend = functools.partial(shape.fused, forward=tiles, backward=BACKWARD_TILES[0])
            found[name][f"forward {tiles}"] = tried(shape.measure_forward, attend)
        for tiles in BACKWARD_TILES if on_gpu else BACKWARD_TILES[:1]:
            attend = functools.partial(shape.fused, forward=FORWARD_TILES[0], backward=tiles)
            found[name][f"backward {tiles}"] = tried(shape.measure_gradients, attend)
        print(name, json.dumps(found[name]), flush=True)
    return found


HEADS = ((8, 32), (12, 64))  # of S and P


class Attention:
    """One layer's attention by each kernel, of q, k and v [1, tokens, heads, head_dim]."""

    def __init__(self, heads: int, head_dim: int, segment_ids: Any) -> None:
        rng = np.random.default_rng(0)
        shape = (1, segment_ids.shape[1], heads, head_dim)
        q, k, v = (jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for _ in range(3))
        self._arrays = q / math.sqrt(head_dim), k, v, segment_ids
        self._layer = CausalAttention(heads, dtype="bfloat16")
        self._layer._head_dim = head_dim
        self._exact: tuple[Any, Any] | None = None

    def by_blocks(self, q: Any, k: Any, v: Any, segment_ids: Any, kernel: str = "blocks") -> Any:
        mask = make_block_mask(segment_ids, window=WINDOW, block_size=128)
        num_past = mask.shape[3] - mask.shape[2]
        k, v = (jnp.pad(x, [[0, 0], [num_past, 0], [0, 0], [0, 0]]) for x in (k, v))
        out = self._layer._attend(q, k, v, mask, num_past, mask.shape[2], kernel)
        return out.reshape(q.shape)

    def fused(
        self, q: Any, k: Any, v: Any, segment_ids: Any, *, forward: tuple, backward: tuple
    ) -> Any:
        from blt.layers.fused_attention import Tiles, fused_attention

        mask = make_block_mask(segment_ids, window=WINDOW, block_size=128)
        visible = jnp.sum(mask, axis=-1, dtype=jnp.int32).reshape(1, -1)
        tiles = Tiles(*forward), Tiles(*backward)
        interpret = jax.devices()[0].platform != "gpu"
        return fused_attention(q, k, v, visible, tiles=tiles, interpret=interpret)

    def exact(self) -> tuple[Any, Any]:
        """The result and the gradients in float32."""
        if self._exact is None:

            def in_float32(q: Any, k: Any, v: Any, segment_ids: Any) -> Any:
                with jax.default_matmul_precision("highest"):
                    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
                    return self.by_blocks(q, k, v, segment_ids)

            gradients = jax.jit(gradients_of(in_float32))(*self._arrays)
            self._exact = jax.jit(in_float32)(*self._arrays), gradients
        return self._exact

    def measure_forward(self, attend: Callable[..., Any]) -> dict[str, Any]:
        run = jax.jit(attend)
        error = relative_error(run(*self._arrays), self.exact()[0])
        return {"error": error, "ms": 1e3 * seconds_of(lambda: run(*self._arrays), seconds=0.2)}

    def measure_gradients(self, attend: Callable[..., Any]) -> dict[str, Any]:
        run = jax.jit(gradients_of(attend))
        pairs = zip(run(*self._arrays), self.exact()[1], strict=True)
        error = max(relative_error(*pair) for pair in pairs)
        seconds = seconds_of(lambda: run(*self._arrays), seconds=0.2)
        return {"gradient_error": error, "gradient_ms": 1e3 * seconds}

    def measure(self, attend: Callable[..., Any]) -> dict[str, Any]:
        return {**self.measure_forward(attend), **self.measure_gradients(attend)}


def gradients_of(attend: Callable[..., Any]) -> Callable[..., Any]:
    def loss(q: Any, k: Any, v: Any, segment_ids: Any) -> Any:
        weights = jnp.cos(jnp.arange(q.size, dtype=jnp.float32)).reshape(q.shape)
        return jnp.sum(attend(q, k, v, segment_ids).astype(jnp.float32) * weights)

    return jax.grad(loss, (0, 1, 2))


def relative_error(found: Any, exact: Any) -> float:
    found, exact = (jnp.asarray(x, jnp.float32) for x in (found, exact))
    return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))


def documents_of(arguments: argparse.Namespace) -> list[bytes]:
    count = 40 if arguments.tiny else NUM_DOCUMENTS
    return cut_documents(arguments.text.read_bytes(), count)


def make_entropy_model(name: str) -> Any:
    import keras

    from blt.model.entropy_model import EntropyModel

    keras.utils.set_random_seed(0)
    return EntropyModel(**MODELS[name], window=WINDOW, normalization_type="rms_norm")


@contextlib.contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    before = os.environ.get("BLT_ATTENTION")
    os.environ["BLT_ATTENTION"] = name
    try:
        yield
    finally:
        os.environ.pop("BLT_ATTENTION")
        if before is not None:
            os.environ["BLT_ATTENTION"] = before


def make_engine(model: Any, arguments: argparse.Namespace, row_length: int | None = None) -> Any:
    from blt.engine import EntropyEngine

    if arguments.tiny:
        row_length = 512
    precision = "bfloat16" if jax.devices()[0].platform == "gpu" else "float32"
    return EntropyEngine(
        model, row_length=row_length, precision=precision, group_tokens=0, num_threads=1
    )


def step_seconds(engine: Any, seconds: float) -> float:
    """Seconds of one step of an engine, with nothing between steps."""
    rng = np.random.default_rng(0)
    shape = (engine.lanes, engine.row_length)
    tokens = jnp.asarray(rng.integers(4, 260, shape), jnp.int32)
    segment_ids = jnp.asarray(np.arange(shape[1])[None] // 2600 + 1, jnp.int32)
    state = [engine._initial_state()]

    def run() -> Any:
        results, state[0] = engine._program(tokens, segment_ids, state[0])
        return results

    return seconds_of(run, seconds=seconds)


def run_engine(engine: Any, documents: list[bytes], repeats: int) -> tuple[float, dict[str, int]]:
    """Seconds from bytes to entropies in host memory, and what the engine counted."""
    from blt.tokenizer import frame_tokens

    counters: collections.Counter[str] = collections.Counter()
    start = time.perf_counter()
    parts = ((i, frame_tokens(text)) for _ in range(repeats) for i, text in enumerate(documents))
    for result in engine.run(parts, counters):
        assert len(result.entropies) == len(documents[result.key]) + 2
    return time.perf_counter() - start, dict(counters)


def entropies(arguments: argparse.Namespace, report: Any) -> dict[str, Any]:
    documents = documents_of(arguments)
    num_bytes = sum(map(len, documents))
    found: dict[str, Any] = {"documents": len(documents), "mean_bytes": num_bytes / len(documents)}
    for name in arguments.models:
        needed = sum(needed_operations(name, len(text)) for text in documents) / num_bytes
        model = make_entropy_model(name)
        rows = found[name] = {"operations_per_byte": needed, "by_kernel": {}}
        for kernel in arguments.kernels:
            for row_length in [None, *arguments.row_lengths]:
                with attention_kernel(kernel):
                    measured = tried(
                        measure_engine, model, arguments, documents, needed, report, row_length
                    )
                rows["by_kernel"][f"{kernel}-{row_length or 'default'}"] = measured
                print(name, kernel, row_length, json.dumps(measured), flush=True)
    return found


def measure_engine(
    model: Any,
    arguments: argparse.Namespace,
    documents: list[bytes],
    needed: float,
    report: Any,
    row_length: int | None,
) -> dict[str, Any]:
    start = time.perf_counter()
    engine = make_engine(model, arguments, row_length)
    run_engine(engine, documents[:2], 1)
    compiled = time.perf_counter() - start
    step = step_seconds(engine, arguments.seconds / 2)
    num_bytes = sum(map(len, documents))
    first, _ = run_engine(engine, documents, 1)
    repeats = max(1, round(arguments.seconds / ROUNDS / first))
    runs = [run_engine(engine, documents, repeats) for _ in range(ROUNDS)]
    seconds = statistics.median(seconds for seconds, _ in runs)
    counted = runs[0][1]
    tokens = counted["tokens"] + counted["padding"]
    speed = num_bytes * repeats / seconds
    return {
        "row_length": engine.row_length,
        "precision": engine.precision,
        "compile_seconds": compiled,
        "step_ms": 1e3 * step,
        "step_share": engine.row_length / step * needed / report.matrix_rate(),
        "bytes_per_second": speed,
        "share_of_matrix_rate": speed * needed / report.matrix_rate(),
        "padding_share": counted["padding"] / tokens,
        "busy_share": tokens / engine.row_length * step / seconds,
        "spread": [num_bytes * repeats / seconds for seconds, _ in runs],
    }


# What a step spends its time on


def profile(arguments: argparse.Namespace, report: Any) -> dict[str, Any]:
    found = {}
    for name in arguments.models:
        engine = make_engine(make_entropy_model(name), arguments)
        state = [engine._initial_state()]
        tokens = np.random.default_rng(0).integers(4, 260, (1, engine.row_length), np.int32)

        def run(engine: Any = engine, state: list = state, tokens: Any = tokens) -> None:
            results, state[0] = engine._program(tokens, np.ones_like(tokens), state[0])
            jax.block_until_ready(results)

        found[name] = {"steps": 3, "kernels": kernel_times(run, 3)}
    return found


def precision(arguments: argparse.Namespace, report: Any) -> dict[str, Any]:
    # The first MB of the text is to be like what the model was trained on.
    count = 10 if arguments.tiny else 400
    documents = cut_documents(arguments.text.read_bytes()[: 1 << 20], count)
    exact, exact_nats = entropies_of(arguments.entropy_model, "float32", documents)
    quick, quick_nats = entropies_of(arguments.entropy_model, "bfloat16", documents)
    few = sample_for_cpu(documents)
    on_cpu = entropies_on_cpu(arguments.entropy_model, few)
    on_card, _ = entropies_of(arguments.entropy_model, "float32", few)
    num_bytes = sum(map(len, documents))
    moved = {}
    for target in (4.5, 6.0, 8.0):
        threshold = np.quantile(exact, 1 - 1 / target)
        wanted = exact > threshold
        moved[str(target)] = float(((quick > threshold) ^ wanted).sum() / 2 / wanted.sum())
    return {
        "bytes": num_bytes,
        "bits_per_byte_float32": float(exact_nats.sum(dtype=np.float64) / num_bytes / math.log(2)),
        "bits_per_byte_bfloat16": float(quick_nats.sum(dtype=np.float64) / num_bytes / math.log(2)),
        "entropies_differ_mean": float(np.abs(exact - quick).mean()),
        "entropies_differ_max": float(np.abs(exact - quick).max()),
        "boundaries_moved": moved,
        "cpu_bytes": sum(map(len, few)),
        "card_and_cpu_differ_max": float(np.abs(on_card - on_cpu).max()),
    }


def sample_for_cpu(documents: list[bytes]) -> list[bytes]:
    """Some documents, of 100 KB in all at most."""
    few, total = [], 0
    for text in documents:
        if total + len(text) <= 100_000:
            few.append(text)
            total += len(text)
    return few


def entropies_of(path: Path, dtype: str, documents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Entropies and -ln p of all bytes of the documents (not of EOS), one after the other."""
    from blt.engine import get_entropy_engine
    from blt.tokenizer import frame_tokens

    engine = get_entropy_engine(path, precision=dtype)
    results = list(engine.run((i, frame_tokens(text)) for i, text in enumerate(documents)))
    return (
        np.concatenate([result.entropies[1:-1] for result in results]),
        np.concatenate([result.token_nats[1:-1] for result in results]),
    )


def entropies_on_cpu(path: Path, documents: list[bytes]) -> np.ndarray:
    """The same in float32, in a process that sees no GPU."""
    with tempfile.TemporaryDirectory() as folder:
        texts, result = Path(folder) / "texts.json", Path(folder) / "result.npy"
        texts.write_text(json.dumps([text.decode("latin-1") for text in documents]))
        code = (
            "import sys, json, pathlib, numpy as np, gpu_engine\n"
            "texts = [t.encode('latin-1') for t in json.load(open(sys.argv[2]))]\n"
            "found, _ = gpu_engine.entropies_of(pathlib.Path(sys.argv[1]), 'float32', texts)\n"
            "np.save(sys.argv[3], found)\n"
        )
        subprocess.run(
            [sys.executable, "-c", code, path, texts, result],
            check=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": python_path()},
        )
        return np.load(result)


def python_path() -> str:
    here = Path(__file__).resolve().parent
    return os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])


# Several threads and processes around one card


def sharing(arguments: argparse.Namespace, report: Any) -> dict[str, Any]:
    documents = documents_of(arguments)
    num_bytes = sum(map(len, documents))
    found: dict[str, Any] = {}
    name = "S" if "S" in arguments.models else arguments.models[0]
    engine = make_engine(make_entropy_model(name), arguments)
    run_engine(engine, documents[:2], 1)
    once, _ = run_engine(engine, documents, 1)
    repeats = max(1, round(arguments.seconds / once))
    for threads in (1, 4):
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: run_engine(engine, documents, repeats), range(threads)))
        seconds = time.perf_counter() - start
        found[f"{threads}_threads_bytes_per_second"] = num_bytes * repeats * threads / seconds
    stats = jax.devices()[0].memory_stats() or {}
    found["one_process_peak_bytes"] = stats.get("peak_bytes_in_use")
    for processes in arguments.processes:
        command = [sys.executable, "-c", _SHARE, str(arguments.text), name, str(repeats)]
        command.append("tiny" if arguments.tiny else "")
        env = {**os.environ, "PYTHONPATH": python_path()}
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True)
            for _ in range(processes)
        ]
        spans = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        speed = num_bytes * repeats * processes / seconds
        found[f"{processes}_processes_bytes_per_second"] = speed
    return {"model": name, **found}


_SHARE = """
import argparse, json, pathlib, sys, time, gpu_engine
text, name, repeats, tiny = sys.argv[1:]
arguments = argparse.Namespace(text=pathlib.Path(text), tiny=bool(tiny))
documents = gpu_engine.documents_of(arguments)
engine = gpu_engine.make_engine(gpu_engine.make_entropy_model(name), arguments)
gpu_engine.run_engine(engine, documents[:2], 1)
start = time.time()
gpu_engine.run_engine(engine, documents, int(repeats))
print(json.dumps([start, time.time()]))
"""
