"""Peak memory of `blt patch` on one byte shard, and on one ten times as large.

    python benchmarks/patch_memory.py --text corpus/*.txt

Makes byte shards of 1 MB and 10 MB (one shard each) from the text, repeated until it is long
enough, and patches them with the rule `space` and with a small entropy model of random weights.
Peak memory is the resident set of the process and its children, summed, polled from /proc.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (1_000_000, 10_000_000)
DOCUMENT_BYTES = 3_000
POLL_SEC = 0.02
REPO = Path(__file__).parents[1]


def main() -> None:
    arguments = parse_arguments()
    text = b"".join(path.read_bytes() for path in arguments.text)
    if not text:
        sys.exit("--text: no bytes in these files")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        datasets = [make_data(folder / f"bytes-{size}", text, size) for size in SIZES]
        save_small_model(folder / "entropy.keras")
        model = ["--entropy-model", folder / "entropy.keras", "--threshold-nats", 3]
        print("| rule | " + " | ".join(f"{size / 1e6:g} MB" for size in SIZES) + " | ratio |")
        print("|---|" + "---|" * (len(SIZES) + 1))
        rules = {
            "space": ["--rule", "space"],
            "entropy": model,
            "entropy, entropies kept": [*model, "--keep-entropies", "f16"],
        }
        for rule, flags in rules.items():
            peaks = [
                peak_bytes("patch", "--data", data, *flags, "--output", folder / f"{rule}-{i}")
                for i, data in enumerate(datasets)
            ]
            shown = " | ".join(f"{peak / 1e6:.0f} MB" for peak in peaks)
            print(f"| {rule} | {shown} | {peaks[-1] / peaks[0]:.2f} |", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files to read")
    parser.add_argument("--folder", type=Path, help="where temporary files go")
    return parser.parse_args()


def make_data(folder: Path, text: bytes, size: int) -> Path:
    """Makes a dataset of one byte shard with `size` bytes in documents of some kilobytes."""
    text = (text * (size // len(text) + 1))[:size]
    corpus = folder.with_name(f"{folder.name}-corpus")
    corpus.mkdir()
    for start in range(0, size, DOCUMENT_BYTES):
        (corpus / f"{start:08d}.txt").write_bytes(text[start : start + DOCUMENT_BYTES])
    blt("encode", "--input", corpus, "--output", folder, "--target-shard-bytes", size * 2)
    assert len(list(folder.glob("bytes-*.tfrecord"))) == 1
    return folder


def save_small_model(path: Path) -> None:
    from blt.cli.quiet import import_keras, silence

    silence()
    import_keras().utils.set_random_seed(0)
    from blt.model.entropy_model import EntropyModel
    from blt.model.serialization import save_model

    save_model(EntropyModel(dim=32, num_layers=1, num_heads=2, window=64), path)


def blt(*argv: object) -> None:
    subprocess.run(_command(argv), check=True, stdout=subprocess.DEVNULL, env=_environment())


def peak_bytes(*argv: object) -> int:
    """Runs a command; returns the most memory that it and its children held at once."""
    peak = 0
    process = subprocess.Popen(_command(argv), stdout=subprocess.DEVNULL, env=_environment())
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid))
        time.sleep(POLL_SEC)
    if process.returncode:
        sys.exit(f"{argv[0]} failed")
    return peak


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and all below it; 0 for what has just ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(tree_bytes, children))


def _command(argv: tuple) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *map(str, argv)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO)}


if __name__ == "__main__":
    main()
