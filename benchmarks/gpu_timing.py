"""How the stages of `benchmarks/gpu.py` time what they run."""

import collections
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

ROUNDS = 3


def seconds_of(run: Callable[[], Any], *, seconds: float, rounds: int = ROUNDS) -> float:
    """Median seconds of a call that enqueues device work, called back to back in each round."""
    jax.block_until_ready(run())
    start = time.perf_counter()
    jax.block_until_ready(run())
    once = time.perf_counter() - start
    times = max(1, min(1000, int(seconds / rounds / max(once, 1e-5))))
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(times):
            result = run()
        jax.block_until_ready(result)
        found.append((time.perf_counter() - start) / times)
    return statistics.median(found)


def tried(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a measurement finds, or why it could not."""
    try:
        return measure(*arguments)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:600]}


def kernel_times(run: Callable[[], Any], times: int) -> dict[str, float]:
    """Milliseconds of each kernel on the device in so many runs, the largest first."""
    run()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(times):
                run()
        traces = list(Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    lines = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"
    }
    totals: collections.Counter[str] = collections.Counter()
    for event in events:
        line = lines.get((event.get("pid"), event.get("tid")), "")
        if "GPU" in names.get(event.get("pid"), "") and "Stream" in line and "dur" in event:
            totals[event["name"][:90]] += event["dur"] / 1e3
    return {name: round(total, 3) for name, total in totals.most_common(40)}
