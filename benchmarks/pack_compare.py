"""Speed and memory of `blt pack` in two checkouts, in turns on the same data.

    git worktree add ../before REVISION
    python benchmarks/pack_compare.py --text corpus.txt --before ../before --megabytes 400

The data are encoded and cut at spaces by this checkout. The shards of both must be the same; the
speed is the median of the rounds' own ratios of wall time, above 1 where the change made it faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]
# In a process of its own: what a process held counts as its children's, too.
_MAKE_INPUTS = """
import pathlib, sys
from encode import make_inputs
make_inputs(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes(), int(sys.argv[3]))
"""


def run(checkout: Path, *argv: str) -> tuple[float, float]:
    """Runs a command of a checkout; returns its seconds and the most memory it held, in MB."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, argv)]
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: failed in {checkout}")
    return time.monotonic() - start, usage.ru_maxrss / 1e3


def shards(folder: Path) -> dict[str, str]:
    manifest = json.loads((folder / "_manifest.json").read_text())
    return {shard["name"]: shard["sha256"] for shard in manifest["shards"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a file to cut documents from")
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "after": _HERE}
    seconds: dict[str, list[float]] = {which: [] for which in checkouts}
    memory = dict.fromkeys(checkouts, 0.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = [sys.executable, "-c", _MAKE_INPUTS, folder, arguments.text.resolve()]
        subprocess.run([*make, str(arguments.megabytes)], cwd=_HERE / "benchmarks", check=True)
        data, patches = folder / "bytes", folder / "patches"
        run(_HERE, "encode", "--input", folder / "input.jsonl", "--output", data)
        run(_HERE, "patch", "--data", data, "--rule", "space", "--output", patches)
        for _ in range(arguments.rounds):
            for which, checkout in checkouts.items():
                output = folder / which
                flags = ("--data", data, "--patches", patches, "--output", output, "--overwrite")
                taken, held = run(checkout, "pack", *flags)
                seconds[which].append(taken)
                memory[which] = max(memory[which], held)
        num_bytes = json.loads((data / "_manifest.json").read_text())["totals"]["bytes"]
        same = shards(folder / "before") == shards(folder / "after")
    pairs = zip(seconds["before"], seconds["after"], strict=True)
    found = {
        "megabytes": num_bytes / 1e6,
        "seconds": {which: statistics.median(taken) for which, taken in seconds.items()},
        "max_rss_mb": memory,
        "speed_ratio": statistics.median(before / after for before, after in pairs),
        "same_shards": same,
    }
    print(json.dumps(found, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
