"""Runs altered files through a reader, or the record codec, for minutes.

    python -m tests.fuzz --reader jsonl --seconds 600 --seed 0
    python -m tests.fuzz --rerun fuzz-failures/jsonl-0123456789ab.case

What is tried next is led by the kinds of outcome that were seen. With --coverage, which needs the
package `atheris` (not among our dependencies), it is led by the lines of `blt.corpus` and
`blt.formats` that were reached: another way to look, but with fewer cases a second, and in all of
the readers that were compared fewer outcomes in the same time.

A case that raises, takes --limit-seconds, takes --limit-mb more memory, or ends the process, is a
failure and is saved; the run goes on. The seconds are those of the process's CPU time. At the end
stands one line.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEAD_BYTES = 5  # of a case: which file, and the seed of its options; then the file
_CODEC = "codec"
_RESTARTS = 50


class Target:
    """What a reader's cases are: bytes that are a file's number, a seed of options, and a file."""

    def __init__(self, reader: str) -> None:
        self.reader = reader
        if reader == _CODEC:
            self._codec = importlib.import_module("tests.fuzz.codec")
            self.names = self._codec.KINDS
            self._files = {name: self._codec.sample(name) for name in self.names}
            return
        samples = importlib.import_module("tests.fuzz.samples")
        self._laws = importlib.import_module("tests.fuzz.laws")
        self._alter = importlib.import_module("tests.fuzz.alter")
        self.names = samples.READERS[reader]
        self._files = {name: samples.samples()[name] for name in self.names}

    def seeds(self) -> list[bytes]:
        """Returns the cases to begin with."""
        return [bytes([n, 0, 0, 0, 0]) + self._files[name] for n, name in enumerate(self.names)]

    def alter(self, case: bytes, seed: int) -> bytes:
        """Returns another case."""
        rng = random.Random(seed)
        if len(case) < _HEAD_BYTES or rng.random() < 0.02:
            case = rng.choice(self.seeds())
        head, data = case[:_HEAD_BYTES], case[_HEAD_BYTES:]
        if rng.random() < 0.4:
            head = head[:1] + rng.randbytes(_HEAD_BYTES - 1)
        if rng.random() < 0.9:
            name = self._name(head)
            alter = self._codec.alter if self.reader == _CODEC else self._alter.alter
            data = alter(name, data, rng)
        return head + data

    def check(self, case: bytes, folder: Path) -> str:
        """Checks the laws for a case; returns its outcome."""
        head, data = case[:_HEAD_BYTES], case[_HEAD_BYTES:]
        name = self._name(head)
        path = folder / name
        if self.reader == _CODEC:
            outcome = self._codec.check(name, data, path)
            return f"{name}: {re.sub('[0-9]+', '', outcome)}"
        path.write_bytes(data)
        options, rng = self.options(case)
        return f"{name}: {self._laws.check_file(path, options, rng)}"

    def options(self, case: bytes) -> tuple[dict[str, Any], random.Random]:
        head = case[:_HEAD_BYTES]
        rng = random.Random(int.from_bytes(head[1:], "little"))
        if self.reader == _CODEC:
            return {}, rng
        name = self._name(head)
        return self._laws.random_options(rng, name, len(case) - _HEAD_BYTES), rng

    def describe(self, case: bytes) -> str:
        """Returns a case in words and literals, of which a test can be made."""
        name, data = self._name(case[:_HEAD_BYTES]), case[_HEAD_BYTES:]
        return f"{name}\n{self.options(case)[0]!r}\n{data!r}\n"

    def _name(self, head: bytes) -> str:
        return self.names[(head[0] if head else 0) % len(self.names)]


class Session:
    """Runs cases, counts them, and saves those that fail; goes on where an ended process was."""

    def __init__(self, target: Target, arguments: argparse.Namespace, work: Path) -> None:
        self._target, self._arguments, self._work = target, arguments, work
        self._state = work / "state.json"
        self.current = work / "current.case"
        found = json.loads(self._state.read_text()) if self._state.exists() else {}
        self.mutants = found.get("mutants", 0)
        self.outcomes = set(found.get("outcomes", ()))
        self.failures = dict(found.get("failures", {}))
        self.slowest = found.get("slowest", 0.0)
        self._seconds_before = found.get("seconds", 0.0)
        self._start = self._saved = time.process_time()
        self._peak = _peak_mb()

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.process_time() - self._start

    def run(self, case: bytes) -> bool:
        """Runs a case; returns whether its outcome is new."""
        self.current.write_bytes(case)
        # Of CPU time, since others may use the machine; and for what waits without using any.
        signal.setitimer(signal.ITIMER_PROF, self._arguments.limit_seconds)
        faulthandler.dump_traceback_later(30 * self._arguments.limit_seconds, exit=True)
        start = time.process_time()
        folder = self._work / "file"
        folder.mkdir(exist_ok=True)
        try:
            outcome = self._target.check(case, folder)
        except Exception as error:
            outcome = _place(error)
            self._fail(case, outcome, traceback.format_exc())
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        self.slowest = max(self.slowest, time.process_time() - start)
        self.mutants += 1
        peak, self._peak = self._peak, max(self._peak, _peak_mb())
        if self.mutants > 10 and self._peak - peak > self._arguments.limit_mb:
            self._fail(case, "memory", f"{self._peak - peak} MB more than ever before")
        is_new = outcome not in self.outcomes
        self.outcomes.add(outcome)
        if time.process_time() - self._saved > 2:
            self.save()
        return is_new

    def is_over(self) -> bool:
        return self.seconds > self._arguments.seconds or (
            self._arguments.runs is not None and self.mutants >= self._arguments.runs
        )

    def save(self) -> None:
        self._saved = time.process_time()
        state = {
            "mutants": self.mutants,
            "outcomes": sorted(self.outcomes),
            "failures": self.failures,
            "slowest": self.slowest,
            "seconds": self.seconds,
            "peak_mb": self._peak,
        }
        self._state.write_text(json.dumps(state))

    def _fail(self, case: bytes, where: str, what: str) -> None:
        if where not in self.failures:
            self.failures[where] = save_failure(self._target, case, what, self._arguments.folder)
            self.save()


def save_failure(target: Target, case: bytes, what: str, folder: Path) -> str:
    """Keeps a case; returns how it is run again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target.reader}-{hashlib.sha256(case).hexdigest()[:12]}.case"
    path.write_bytes(case)
    path.with_suffix(".txt").write_text(target.describe(case) + "\n" + what, "utf-8")
    rerun = f"python -m tests.fuzz --rerun {path}"
    print(f"{what.strip().splitlines()[-1][:300]}\n  {rerun}", file=sys.stderr, flush=True)
    return rerun


def _place(error: BaseException) -> str:
    """Names where an error comes from, so that one mistake is saved once."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/blt/" in f.filename or "/fuzz/" in f.filename][-2:]
    lines = [f"{Path(f.filename).name}:{f.lineno}" for f in ours]
    return f"{type(error).__name__} at {' '.join(lines)}"


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def run_plain(target: Target, session: Session, seed: int) -> None:
    """Alters what gave new outcomes, most often what did so last."""
    rng = random.Random(seed)
    pool = target.seeds()
    for case in pool.copy():
        session.run(case)
    while not session.is_over():
        at = max(rng.randrange(len(pool)), rng.randrange(len(pool)))
        case = target.alter(pool[at], rng.randrange(1 << 32))
        if session.run(case):
            pool.append(case)


def run_guided(target: Target, session: Session, seed: int, work: Path) -> None:
    """Lets atheris choose what to alter; does not return."""
    import atheris

    corpus = work / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, case in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(case)

    def run(case: bytes) -> None:
        session.run(case)
        if session.is_over():
            session.save()
            os._exit(0)

    def alter(case: bytes, max_size: int, number: int) -> bytes:
        return target.alter(case, number)[:max_size]

    options = ["-max_len=8192", "-len_control=0", "-timeout=600", "-rss_limit_mb=8192"]
    options += ["-verbosity=0", "-print_final_stats=0", f"-artifact_prefix={work}/"]
    atheris.Setup(["fuzz", *options, f"-seed={seed + 1}", str(corpus)], run, custom_mutator=alter)
    atheris.Fuzz()


@contextlib.contextmanager
def _instrumented(is_guided: bool) -> Iterator[None]:
    if not is_guided:
        yield
        return
    import atheris

    with atheris.instrument_imports(include=["blt.corpus", "blt.formats"]):
        yield


def work_on(arguments: argparse.Namespace) -> None:
    """What the child process does."""
    work = arguments.work
    with _instrumented(arguments.coverage):
        target = Target(arguments.reader)
    session = Session(target, arguments, work)
    faulthandler.register(signal.SIGPROF, all_threads=False, chain=True)
    faulthandler.enable()
    if arguments.coverage:
        run_guided(target, session, arguments.seed, work)
    run_plain(target, session, arguments.seed)
    session.save()


def supervise(arguments: argparse.Namespace) -> int:
    """Runs child processes until the time is over; returns the exit status."""
    ended: dict[str, str] = {}
    state: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="blt-fuzz-") as folder:
        work = Path(folder)
        for restart in range(_RESTARTS):
            command = [sys.executable, "-m", "tests.fuzz", *sys.argv[1:], "--work", folder]
            command += ["--seed", str(arguments.seed + 1000 * restart)]
            environment = {**os.environ, "TMPDIR": folder}
            child = subprocess.run(command, capture_output=True, env=environment)
            if (work / "state.json").exists():
                state = json.loads((work / "state.json").read_text())
            sys.stderr.buffer.write(b"".join(_told(child.stderr)))
            if child.returncode == 0:
                break
            what = child.stderr.decode("utf-8", "replace")[-4000:]
            if not (work / "current.case").exists():
                raise SystemExit(what)
            case = (work / "current.case").read_bytes()
            what += f"\nthe process ended with {child.returncode}"
            name = f"ended {restart}"
            ended[name] = save_failure(Target(arguments.reader), case, what, arguments.folder)
            for left in work.glob("tmp*"):
                shutil.rmtree(left, ignore_errors=True)
    failures = {**state.get("failures", {}), **ended}
    for where, rerun in failures.items():
        print(f"{where}\n  {rerun}", file=sys.stderr)
    print(
        f"{arguments.reader}: {state.get('mutants', 0):,} mutants in {state.get('seconds', 0):.0f} "
        f"s of CPU time, {len(state.get('outcomes', ()))} distinct outcomes, slowest "
        f"{state.get('slowest', 0):.2f} s, peak {state.get('peak_mb', 0)} MB, "
        f"{len(failures)} failures"
    )
    return 1 if failures else 0


def _told(stderr: bytes) -> list[bytes]:
    """Returns the lines of a child that are its failures, without what libraries say."""
    lines = stderr.splitlines(keepends=True)
    return [
        line
        for index, line in enumerate(lines)
        if b"--rerun" in line or (index + 1 < len(lines) and b"--rerun" in lines[index + 1])
    ]


def rerun(path: Path) -> None:
    """Runs one case, and lets what it raises be seen."""
    target = Target(path.name.rpartition("-")[0])
    case = path.read_bytes()
    print(target.describe(case))
    with tempfile.TemporaryDirectory() as folder:
        print(target.check(case, Path(folder)))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--reader", help="text, jsonl, csv, …; or codec")
    parser.add_argument("--seconds", type=float, default=600, help="of CPU time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, help="end after so many cases")
    parser.add_argument("--coverage", action="store_true", help="needs atheris")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-failures"), metavar="DIR")
    parser.add_argument("--limit-seconds", type=float, default=10, help="for one case")
    parser.add_argument("--limit-mb", type=int, default=512, help="for one case")
    parser.add_argument("--rerun", type=Path, metavar="FILE.case")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rerun:
        rerun(arguments.rerun)
        return 0
    readers = (
        [*importlib.import_module("tests.fuzz.samples").READERS, _CODEC]
        if (arguments.work is None)
        else [arguments.reader]
    )
    if arguments.reader not in readers:
        parser.error(f"--reader: one of {', '.join(readers)}")
    if arguments.work is not None:
        work_on(arguments)
        return 0
    return supervise(arguments)


if __name__ == "__main__":
    sys.exit(main())
