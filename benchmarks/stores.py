"""Datasets in a store: what 100,000 units cost, and how fast `encode` writes there.

    python benchmarks/stores.py units --units 100000 --latency 0.05
    python benchmarks/stores.py encode --text corpus.txt --megabytes 500 --latency 0.02

The store is the tests' Google Cloud Storage on loopback, in a process of its own, which waits
before it answers each request. `units` runs the parts of a stage by which a launcher starts,
resumes and finishes it, each in a process of its own; the work itself is not done, its results are
put into the store. `encode` runs the command with its output here and there in turns.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from encode import make_inputs
from store_process import BUCKET, Store


def bench_stage(num_units: int):
    """Returns a stage like `encode` and its units."""
    from blt.dataset.stage import Stage, make_units
    from blt.dataset.storage import as_place

    stage = Stage(
        kind="byte_shards",
        output=as_place(f"gs://{BUCKET}/out"),
        config={"format": "auto"},
        run_unit=None,
        shard_patterns=("bytes-*.tfrecord",),
    )
    payloads = [
        {"files": [{"path": f"gs://corpus/part-{index:06d}.jsonl.zst", "size": 1 << 26}]}
        for index in range(num_units)
    ]
    return stage, make_units(stage, payloads, [1 << 26] * num_units)


def unit_blobs(units) -> dict[str, bytes]:
    """Returns what the work on the units would put into the store, by key."""
    blobs = {}
    counts = dict.fromkeys(("documents", "bytes", "tokens", "records", "rejects", "filtered"), 17)
    counts.update({f"count_{number}": number for number in range(20)})
    for unit in units:
        name, data = f"bytes-{unit.index:05d}-000.tfrecord", b"%d" % unit.index
        shard = {
            "name": name,
            "documents": 17,
            "bytes": 17,
            "tokens": 17,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        version = f'"{hashlib.md5(data).hexdigest()}"'
        marker = {
            "digest": unit.digest,
            "counts": counts,
            "shards": [shard],
            "files": {name: {"size": len(data), "version": version}},
        }
        blobs[f"out/{name}"] = data
        blobs[f"out/_units/{unit.index:05d}.json"] = json.dumps(marker).encode()
    return blobs


def run_phase(phase: str, num_units: int) -> None:
    """Runs a part of a stage and prints what it took, as JSON."""
    import apache_beam as beam

    from blt.dataset import stage as stages
    from blt.dataset.finishing import finish
    from pipelines.run_units import build_pipeline

    stage, units = bench_stage(num_units)
    start, cpu = time.monotonic(), time.process_time()
    found = {}
    if phase == "finish":
        manifest = finish(stage, units)
        found["shards"] = len(manifest.shards)
    else:
        assert stages.finished_manifest(stage, units) is None
        stage, pending = stages.start(stage, units)
        found["pending"] = len(pending)
        if pending:
            pipeline = beam.Pipeline()
            build_pipeline(pipeline, stage, pending)
            found["graph_bytes"] = len(pipeline.to_runner_api().SerializeToString())
    found["seconds"] = time.monotonic() - start
    found["cpu_seconds"] = time.process_time() - cpu
    found["max_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


def bench_units(arguments: argparse.Namespace) -> dict:
    store = Store("gcs", arguments.latency)
    found = {}
    for phase in ("start", "resume", "finish"):
        if phase == "resume":
            blobs = unit_blobs(bench_stage(arguments.units)[1])
            keys = list(blobs)
            for first in range(0, len(keys), 10_000):
                store.put({key: blobs[key] for key in keys[first : first + 10_000]})
        command = [sys.executable, __file__, "phase", phase, "--units", str(arguments.units)]
        done = subprocess.run(command, env=store.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        found[phase] = json.loads(done.stdout.splitlines()[-1])
        print(f"{phase}: {json.dumps(found[phase])}", flush=True)
    store.stop()
    return found


class Watch:
    """The most memory of a process and its children, and of scratch, in bytes."""

    def __init__(self, pid: int, scratch: Path) -> None:
        self.rss = self.scratch = 0
        self._pid, self._folder = pid, scratch
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while Path(f"/proc/{self._pid}").exists():
            try:
                pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
                files = [path.stat().st_size for path in self._folder.rglob("*") if path.is_file()]
            except (OSError, IndexError):
                continue
            self.rss = max(self.rss, pages * resource.getpagesize())
            self.scratch = max(self.scratch, sum(files))
            time.sleep(0.05)


def bench_encode(arguments: argparse.Namespace) -> dict:
    store = Store("gcs", arguments.latency)
    seconds: dict[str, list[float]] = {"local": [], "store": []}
    most: dict[str, dict[str, float]] = {"local": {}, "store": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = make_inputs(folder, arguments.text.read_bytes(), arguments.megabytes)
        for number in range(arguments.rounds):
            outputs = {"local": str(folder / f"out-{number}"), "store": f"gs://{BUCKET}/{number}"}
            for which, output in outputs.items():
                scratch = folder / f"scratch-{which}-{number}"
                scratch.mkdir()
                command = [sys.executable, "-m", "pipelines.cli", "encode", "--output", output]
                command += ["--input", str(folder / "input.jsonl"), *arguments.beam_flags]
                start = time.monotonic()
                environment = {**store.environment, "TMPDIR": str(scratch)}
                process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
                watch = Watch(process.pid, scratch)
                if process.wait():
                    sys.exit(f"{which}: exit status {process.returncode}")
                seconds[which].append(time.monotonic() - start)
                for what in ("rss", "scratch"):
                    value = getattr(watch, what) / 1e6
                    most[which][f"{what}_mb"] = max(most[which].get(f"{what}_mb", 0), value)
    store.stop()
    pairs = zip(seconds["local"], seconds["store"], strict=True)
    return {
        "megabytes": num_bytes / 1e6,
        "seconds": {which: statistics.median(taken) for which, taken in seconds.items()},
        "store_to_local_speed": statistics.median(local / there for local, there in pairs),
        "most": most,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("units", "encode", "phase"))
    parser.add_argument("phase", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument("--text", type=Path, help="a file to cut documents from, for encode")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments, arguments.beam_flags = parser.parse_known_args()
    if arguments.what == "phase":
        run_phase(arguments.phase, arguments.units)
        return
    found = bench_units(arguments) if arguments.what == "units" else bench_encode(arguments)
    print(json.dumps(found, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
