"""Speed of `encode_unit` in two checkouts, in turns on the same files: before a change and after.

    git worktree add ../before REVISION
    python benchmarks/encode_compare.py --text corpus.txt --before ../before

The inputs are those of `benchmarks/encode.py`. Each checkout has a process of its own for each
format, which waits while the other works; the ratio is the median of the rounds' own, of CPU time
(the machine may be shared), above 1 where the change made it faster.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from encode import FORMATS, make_inputs

_WORKER = """
import pathlib, sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/benchmarks"]
from encode import encode_alone
path, output = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
for line in sys.stdin:
    start = time.process_time()
    encode_alone(path, output)
    print(time.process_time() - start, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a file to cut documents from")
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before, "after": Path(__file__).parents[1]}
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = make_inputs(folder, arguments.text.read_bytes(), arguments.megabytes)
        for kind in FORMATS:
            workers = {
                which: start_worker(path.resolve(), folder / f"input.{kind}", folder / which)
                for which, path in checkouts.items()
            }
            seconds: dict[str, list[float]] = {which: [] for which in workers}
            for number in range(arguments.rounds + 1):
                for which, worker in workers.items():
                    worker.stdin.write("go\n")
                    worker.stdin.flush()
                    taken = float(worker.stdout.readline())
                    if number:  # the first round imports
                        seconds[which].append(taken)
            for worker in workers.values():
                worker.stdin.close()
                worker.wait()
            pairs = zip(seconds["before"], seconds["after"], strict=True)
            speeds = {w: num_bytes / 1e6 / statistics.median(s) for w, s in seconds.items()}
            found[kind] = {**speeds, "ratio": statistics.median(b / a for b, a in pairs)}
            print(f"{kind}: {json.dumps(found[kind])}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


def start_worker(checkout: Path, path: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", _WORKER, str(checkout), str(path), str(output)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    main()
