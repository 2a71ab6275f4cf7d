"""Kills `blt encode` at random moments and lets it go on: is the result the undisturbed one?

    python benchmarks/kill_resume.py --input corpus/ --kills 50
    python benchmarks/kill_resume.py --input corpus/ --kills 50 -- --drop-duplicates

An undisturbed run is the standard. Then, until there were so many kills: `blt encode` is started on
an empty folder, killed with all its processes after a random part of the time that the undisturbed
run took, started again, and so on, until a run comes to its end. Every file of the result must be
that of the standard, byte for byte. Exit status 1 if one was not.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, nargs="+", required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target-shard-bytes", default="1MB", help="small, for many units")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--folder", type=Path, help="where temporary files go")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="more flags for `blt encode`")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        start = time.perf_counter()
        if run(folder / "standard", arguments) != 0:
            sys.exit("the undisturbed run failed")
        seconds = time.perf_counter() - start
        expected = read_files(folder / "standard")
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} files", flush=True)
        kills = runs = kept = 0
        while kills < arguments.kills:
            output = folder / "killed"
            while (status := run(output, arguments, kill_after=rng.uniform(0, seconds))) is None:
                kills += 1
                kept += len(list(output.glob("_units/*.json")))
            if status:
                sys.exit(f"after {kills} kills, the run that went on ended with status {status}")
            runs += 1
            found = read_files(output)
            different = sorted(
                path for path in expected.keys() | found if expected.get(path) != found.get(path)
            )
            if different:
                sys.exit(f"after {kills} kills these differ: {', '.join(different[:10])}")
            shutil.rmtree(output)
        print(
            f"{kills} kills in {runs} results, each the same as the undisturbed one; "
            f"{kept / kills:.1f} finished units found after a kill, on average"
        )


def run(output: Path, arguments: argparse.Namespace, kill_after: float | None = None) -> int | None:
    """Runs the command; returns its exit status, or None if it was killed before its end."""
    argv = ["encode", "--input", *arguments.input, "--output", output]
    argv += ["--target-shard-bytes", arguments.target_shard_bytes]
    argv += ["--direct_num_workers", arguments.workers, "--max-lost-fraction", "1"]
    argv += arguments.flags
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, argv)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    if process.returncode:
        print(errors, file=sys.stderr)
    return process.returncode


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


if __name__ == "__main__":
    main()
