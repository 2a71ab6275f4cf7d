"""Kills stages at random moments and lets them go on: is the result the undisturbed one?

    python benchmarks/kill_resume.py --input corpus/ --kills 50
    python benchmarks/kill_resume.py --input corpus/ --store gcs --stages encode,patch,pack,score
    python benchmarks/kill_resume.py --input corpus/ --store s3 --kills 0 --overwrites 20
    python benchmarks/kill_resume.py --input corpus/ --kills 50 -- --drop-duplicates

An undisturbed run of each stage is the standard. Then, until there were so many kills: the stage is
started on an empty folder, killed with all its processes after a random part of the time that the
undisturbed run took, started again, and so on, until a run comes to its end. With `--overwrites` it
is not killed, but another run with `--overwrite` and another setting takes the folder from it.
Every file of the result must be that of the standard, byte for byte, but for the plan and the
markers, and nothing else may be there. All the while a watcher reads whatever appears: an object
that is not whole, or that no run should leave, is a failure. Exit status 1 if anything is amiss.
"""

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from store_process import Store

from blt.dataset import storage
from blt.dataset.storage import as_place

REPO = Path(__file__).parents[1]


def stage_argv(stage: str, root: str, arguments: argparse.Namespace, shift: int = 0) -> list[str]:
    """Returns the command of a stage, without its output; with `shift`, of another setting."""
    data, patches = f"{root}/base-encode", f"{root}/base-patch"
    size = arguments.target_shard_bytes
    encode = ["--input", *map(str, arguments.input)]
    encode += ["--target-shard-bytes", str(size * (1 + shift))]
    pack = ["--data", data, "--patches", patches, "--target-shard-bytes", str(size)]
    argv = {
        "encode": [*encode, "--max-lost-fraction", "1", *arguments.flags],
        "patch": ["--data", data, "--rule", "static", "--patch-size", str(4 + shift)],
        "pack": [*pack, "--seed", str(shift)],
        "score": ["--data", data, "--model", str(arguments.model), "--seed", str(shift)],
    }[stage]
    return [stage, *argv, "--direct_num_workers", arguments.workers]


class Runs:
    """Runs of commands in the environment of a store."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = {**environment, "PYTHONPATH": str(REPO)}

    def start(self, argv: list[str]) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *argv],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        )

    def run(self, argv: list[str], kill_after: float | None = None) -> tuple[int | None, str]:
        """Runs a command; returns its exit status, None if it was killed, and what it said."""
        process = self.start(argv)
        try:
            _, errors = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, ""
        return process.returncode, errors

    def must(self, argv: list[str]) -> None:
        status, errors = self.run(argv)
        if status:
            sys.exit(f"blt {' '.join(argv)}: exit status {status}\n{errors}")


def contents(folder: str) -> dict[str, bytes]:
    """Returns what a folder holds, by name, without plan, and of markers the names alone."""
    start = len(folder) + 1
    found = {}
    for file in storage.list_below(folder):
        name = file.path[start:]
        if name != "_plan.json":
            is_marker = name.startswith("_units/") and name.endswith(".json")
            found[name] = b"" if is_marker else as_place(file.path).read_bytes()
    return found


class Watcher:
    """Reads whatever appears in a folder, and notes what is not as it must be."""

    def __init__(self, folder: str, *expected: dict[str, bytes]) -> None:
        self.problems: list[str] = []
        self.num_seen = 0
        self._folder, self._expected = folder, expected
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        seen = set()
        while not self._done.is_set():
            for file in list(storage.list_below(self._folder)):
                if (file.path, file.version) not in seen:
                    seen.add((file.path, file.version))
                    try:
                        data = as_place(file.path).read_bytes()
                    except FileNotFoundError:
                        continue
                    self._check(file.path[len(self._folder) + 1 :], data)
            time.sleep(0.02)

    def _check(self, name: str, data: bytes) -> None:
        self.num_seen += 1
        if name == "_plan.json" or (name.startswith("_units/") and name.endswith(".json")):
            try:
                json.loads(data)
            except ValueError:
                self.problems.append(f"{name}: is no JSON")
        elif name.startswith("_dealt/"):  # its own table tells where it ends
            (first,) = struct.unpack_from("<Q", data, 8)
            (end,) = struct.unpack_from("<Q", data, first - 8)
            if end != len(data):
                self.problems.append(f"{name}: is not whole")
        elif not any(data == expected.get(name) for expected in self._expected):
            known = any(name in expected for expected in self._expected)
            self.problems.append(f"{name}: {'is not whole' if known else 'should not be there'}")


def check(what: str, folder: str, expected: dict[str, bytes], watcher: Watcher) -> None:
    found = contents(folder)
    different = sorted(
        name for name in expected.keys() | found if expected.get(name) != found.get(name)
    )
    if different or watcher.problems:
        sys.exit(f"{what}: {', '.join(different[:10])}; watcher: {watcher.problems[:5]}")


def kill_stage(stage: str, root: str, runs: Runs, arguments: argparse.Namespace) -> None:
    """Kills a stage until it was killed often enough."""
    rng = random.Random(f"{arguments.seed} {stage}")
    argv = stage_argv(stage, root, arguments)
    standard = f"{root}/standard-{stage}"
    start = time.perf_counter()
    runs.must([*argv, "--output", standard])
    seconds = time.perf_counter() - start
    expected = contents(standard)
    kills = rounds = num_seen = 0
    while kills < arguments.kills:
        output = f"{root}/killed-{stage}-{rounds}"
        watcher = Watcher(output, expected)
        status, errors = None, ""
        while status is None:
            status, errors = runs.run([*argv, "--output", output], rng.uniform(0, 1.1 * seconds))
            kills += status is None
            if kills >= arguments.kills and status is None:
                status, errors = runs.run([*argv, "--output", output])
        watcher.stop()
        if status:
            sys.exit(f"{stage}: after {kills} kills: exit status {status}\n{errors}")
        check(f"{stage}: after {kills} kills", output, expected, watcher)
        rounds, num_seen = rounds + 1, num_seen + watcher.num_seen
    print(
        f"{stage}: {kills} kills in {rounds} results, each the same as the undisturbed one "
        f"({seconds:.1f} s, {len(expected)} files); the watcher read {num_seen} files, all whole",
        flush=True,
    )


def overwrite_stage(stage: str, root: str, runs: Runs, arguments: argparse.Namespace) -> None:
    """Takes the folder of a live run from it, again and again."""
    rng = random.Random(f"{arguments.seed} {stage}")
    standards, seconds = [], 0.0
    for shift in range(2):
        start = time.perf_counter()
        standard = f"{root}/standard-{stage}-{shift}"
        runs.must([*stage_argv(stage, root, arguments, shift), "--output", standard])
        seconds = time.perf_counter() - start
        standards.append(contents(standard))
    statuses = []
    for number in range(arguments.overwrites):
        output = f"{root}/overwritten-{stage}-{number}"
        watcher = Watcher(output, *standards)
        first = runs.start([*stage_argv(stage, root, arguments), "--output", output])
        time.sleep(rng.uniform(0, seconds))
        argv = [*stage_argv(stage, root, arguments, 1), "--output", output, "--overwrite"]
        status, errors = runs.run(argv)
        _, first_errors = first.communicate()
        statuses.append(first.returncode)
        if first.returncode not in (0, 1, 2) or "Traceback" in first_errors:
            sys.exit(f"{stage}: the first run: {first.returncode}\n{first_errors}")
        if status:
            sys.exit(f"{stage}: the run with --overwrite: exit status {status}\n{errors}")
        watcher.stop()
        # What came late from the first run lies there until the next finish.
        found = contents(output)
        strays = found.keys() - standards[1].keys()
        if strays or found != standards[1]:
            runs.must([*argv[:-1], "--verify"])
        check(f"{stage}: after overwrite {number}", output, standards[1], watcher)
    counted = {status: statuses.count(status) for status in sorted(set(statuses))}
    print(
        f"{stage}: {arguments.overwrites} times taken from a live run, whose exit statuses were "
        f"{counted}; each result the same as the undisturbed one",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, nargs="+", required=True)
    parser.add_argument("--store", choices=("local", "gcs", "s3"), default="local")
    parser.add_argument("--stages", default="encode", help="of encode,patch,pack,score")
    parser.add_argument("--kills", type=int, default=50, help="of all stages together")
    parser.add_argument("--overwrites", type=int, default=0, help="of all stages together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target-shard-bytes", type=int, default=100_000, help="for many units")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--folder", type=Path, help="where temporary files go")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="more flags for `blt encode`")
    arguments = parser.parse_args()
    stages = arguments.stages.split(",")
    arguments.kills = -(-arguments.kills // len(stages))
    arguments.overwrites = -(-arguments.overwrites // len(stages))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = None if arguments.store == "local" else Store(arguments.store)
        environment = dict(os.environ) if store is None else store.environment
        os.environ.update(environment)  # for contents, and the watcher
        root = folder if store is None else store.url
        runs = Runs(environment)
        arguments.model = Path(folder) / "model.ngram"
        for stage in ("encode", "patch"):
            argv = stage_argv(stage, root, arguments)
            runs.must([*argv, "--output", f"{root}/base-{stage}"])
        if "score" in stages:
            argv = ["train-ngram", "--data", f"{root}/base-encode", "--output", arguments.model]
            runs.must(list(map(str, argv)))
        for stage in stages:
            if arguments.kills:
                kill_stage(stage, root, runs, arguments)
            if arguments.overwrites:
                overwrite_stage(stage, root, runs, arguments)
        if store is not None:
            store.stop()


if __name__ == "__main__":
    main()
