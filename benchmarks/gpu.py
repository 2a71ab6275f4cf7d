"""One GPU: boundaries, scores and training beside the card's own matrix products, in one run.

    KERAS_BACKEND=jax python benchmarks/gpu.py --text corpus.txt --output gpu.json

Stages, each of which can be asked for by name (`--stages card entropies`):

- card: the rate of a bfloat16 product of 8192 x 8192 matrices, and of a copy on the device. All
  shares below are of that rate.
- attention: the attention kernels side by side, forward and with gradients, and their error.
- entropies: `EntropyEngine.run` over the documents of `benchmarks/engine.py`, from bytes to
  entropies in host memory, for its models T, S and P; the step alone by kernel and row length; and
  how busy the card is (time of the same steps with nothing between them, over the time of the run).
- profile: what the device spends a step of each model on.
- precision: bfloat16 against float32, and the card against the CPU, with `--entropy-model`.
- sharing: several threads on one engine, and several processes on one card.
- scoring, training, run: the BLT (`benchmarks/gpu_blt.py`).
- torch: the same entropy models, weights and rows in PyTorch (`benchmarks/gpu_torch.py`).

Needs JAX (on a CPU it runs too, slowly: `--tiny` makes everything small); the torch stage needs
PyTorch. Figures are medians. It needs neither TensorFlow nor Beam.
"""

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # stages share the card

import gpu_engine
import jax
import jax.numpy as jnp
import numpy as np
from engine import MODELS, needed_operations
from gpu_engine import documents_of, make_entropy_model
from gpu_timing import seconds_of

KERNELS = ("fused", "blocks", "cudnn")


def main() -> None:
    arguments = parse_arguments()
    report = Report(arguments.output)
    if "torch" in arguments.stages:
        arguments.baseline = Baseline(arguments)
    for name in arguments.stages:
        start = time.perf_counter()
        try:
            found = STAGES[name](arguments, report)
        except Exception as error:  # the other stages' figures are worth having
            if arguments.strict:
                raise
            found = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        found["stage_seconds"] = round(time.perf_counter() - start, 1)
        report.add(name, found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a file to cut documents from")
    parser.add_argument("--entropy-model", type=Path, help="a trained model, for precision")
    parser.add_argument("--output", type=Path, required=True, help="a JSON file for the figures")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["T", "S", "P"])
    parser.add_argument("--variants", nargs="+", default=["small", "base"], help="of the BLT")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=["fused"])
    parser.add_argument("--row-lengths", nargs="+", type=int, default=[])
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 3], help="for sharing")
    parser.add_argument("--seconds", type=float, default=3.0, help="about so long for a figure")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--strict", action="store_true", help="stop at the first failure")
    return parser.parse_args()


class Report:
    """Figures by stage, written as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.figures: dict[str, Any] = {"device": describe_device()}

    def add(self, stage: str, found: dict[str, Any]) -> None:
        self.figures[stage] = found
        self._path.write_text(json.dumps(self.figures, indent=1) + "\n")
        print(f"{stage}: {json.dumps(found)}", flush=True)

    def matrix_rate(self) -> float:
        return self.figures.get("card", {}).get("matrix_flops_per_second", math.nan)


def describe_device() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "kind": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "cores": os.cpu_count(),
    }


# The card


def card(arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
    size = 512 if arguments.tiny else 8192
    keys = jax.random.split(jax.random.key(0), 2)
    x, y = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)
    product = jax.jit(jnp.matmul)
    rate = 2 * size**3 / seconds_of(lambda: product(x, y), seconds=arguments.seconds / 2)
    large = jnp.ones((size * size * 8,), jnp.float32) * 1.5
    add = jax.jit(lambda x: x + 1.0)
    copied = 2 * large.nbytes / seconds_of(lambda: add(large), seconds=arguments.seconds / 4)
    found = {"jax_matrix_flops_per_second": rate, "copy_bytes_per_second": copied}
    if importlib.util.find_spec("torch") and not arguments.tiny:
        # The same product by PyTorch, which picks another kernel: the faster is the card's rate.
        code = "import gpu_torch; print(gpu_torch.matrix_rate())"
        environment = {**os.environ, "PYTHONPATH": gpu_engine.python_path()}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        if done.returncode == 0:
            found["torch_matrix_flops_per_second"] = float(done.stdout.split()[-1])
    rates = (found[key] for key in list(found) if key.endswith("matrix_flops_per_second"))
    return {"matrix_flops_per_second": max(rates), **found}


# PyTorch

_ROWS = 20  # of 65,536 tokens


class Baseline:
    """The models in PyTorch, each in a process that warms up while other stages compile."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from gpu_torch import export_weights

        from blt.tokenizer import frame_tokens

        self._arguments = arguments
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        documents = documents_of(arguments)
        row_length = 512 if arguments.tiny else 65536
        tokens = np.concatenate([frame_tokens(text) for text in documents]).astype(np.int32)
        sizes = [len(text) + 2 for text in documents]
        segment_ids = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)
        shape = (min(_ROWS, len(tokens) // row_length), row_length)
        rows = [x[: math.prod(shape)].reshape(shape) for x in (tokens, segment_ids)]
        np.savez(folder / "rows.npz", tokens=rows[0], segment_ids=rows[1])
        self._running = {}
        for name in arguments.models:
            export_weights(make_entropy_model(name), folder / f"{name}.npz")
            for way in ("plain", "compiled"):
                stem = folder / f"{name}-{way}"
                command = [sys.executable, Path(__file__).with_name("gpu_torch.py")]
                command += ["--weights", folder / f"{name}.npz", "--rows", folder / "rows.npz"]
                command += ["--output", f"{stem}.json", "--wait", f"{stem}.ready"]
                command += ["--seconds", str(arguments.seconds), "--entropies", f"{stem}.npy"]
                command += ["--compile"] if way == "compiled" else []
                log = (folder / f"{stem}.log").open("w")
                self._running[name, way] = subprocess.Popen(command, stdout=log, stderr=log), stem

    def run(self, name: str, way: str, patience: float) -> dict[str, Any]:
        """Times one of them, once it is warm; it may still take so many seconds to be."""
        process, stem = self._running[name, way]
        ready = Path(f"{stem}.ready")
        deadline = time.monotonic() + patience
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if not ready.exists():
            process.kill()
            return {"failed": Path(f"{stem}.log").read_text()[-600:] or "it was not warm in time"}
        ready.unlink()
        if process.wait():
            return {"failed": Path(f"{stem}.log").read_text()[-600:]}
        found = json.loads(Path(f"{stem}.json").read_text())
        if name == "S":
            found["differs_from_engine_mean"] = self._difference(np.load(f"{stem}.npy"))
        return found

    def _difference(self, entropies: np.ndarray) -> float:
        """Mean difference to our engine's entropies over the first row's documents, in nats."""
        from blt.tokenizer import frame_tokens

        engine = gpu_engine.make_engine(make_entropy_model("S"), self._arguments)
        documents, ours, begin = iter(documents_of(self._arguments)), [], 0
        texts = []
        while begin + len(text := next(documents)) + 2 <= len(entropies):
            texts.append(frame_tokens(text))
            begin += len(text) + 2
        begin = 0
        for result in engine.run(enumerate(texts)):  # theirs are about the token that follows
            theirs = entropies[begin : begin + len(result.entropies) - 1]
            ours.append(np.abs(result.entropies[1:] - theirs))
            begin += len(result.entropies)
        return float(np.concatenate(ours).mean())


def torch(arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {}
    documents = documents_of(arguments)
    for way, patience in (("plain", 60.0), ("compiled", 5.0)):
        for name in arguments.models:
            needed = sum(needed_operations(name, len(text)) for text in documents)
            needed /= sum(map(len, documents))
            row = arguments.baseline.run(name, way, patience)
            if "bytes_per_second" in row:
                rate = report.matrix_rate()
                row["share_of_matrix_rate"] = row["bytes_per_second"] * needed / rate
            found[f"{name} {way}"] = row
    return found


def blt_stage(name: str) -> Callable[[argparse.Namespace, Report], dict[str, Any]]:
    def run(arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
        import gpu_blt

        return getattr(gpu_blt, name)(arguments, report)

    return run


STAGES: dict[str, Callable[[argparse.Namespace, Report], dict[str, Any]]] = {
    "card": card,
    "attention": gpu_engine.attention,
    "entropies": gpu_engine.entropies,
    "profile": gpu_engine.profile,
    "precision": gpu_engine.precision,
    "sharing": gpu_engine.sharing,
    "scoring": blt_stage("scoring"),
    "training": blt_stage("training"),
    "run": blt_stage("run"),
    "torch": torch,
}


if __name__ == "__main__":
    main()
