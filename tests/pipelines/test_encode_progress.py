"""What is to be seen while `blt encode` works: each phase by its name, with right counts."""

import io
import json
import re
import time

import pytest

from blt.cli import console as consoles
from blt.cli.command import parse_arguments
from blt.cli.console import Console
from blt.corpus import EncodeConfig, build_plan, discover_inputs
from blt.corpus.admission import admission
from blt.corpus.admission.duplicates import is_scanned, scan_unit
from blt.corpus.files import discover
from blt.corpus.planning import plan
from blt.dataset.stage import Stage, make_units
from pipelines import duplicates_transform, encode

NUM_FILES, NUM_DOCUMENTS = 3, 3


class Screen(io.StringIO):
    """A terminal on which one can wait for something new."""

    num_shown = 0

    def isatty(self):
        return True

    def write(self, text):
        self.num_shown += "bytes: " in text
        return super().write(text)

    def wait(self):
        """Waits for a line of which the work was looked at after now."""
        wanted, deadline = self.num_shown + 2, time.monotonic() + 5
        while self.num_shown < wanted:
            assert time.monotonic() < deadline, "nothing moves"
            time.sleep(0.001)

    def lines(self):
        return [line for line in re.split(r"[\r\n]", self.getvalue()) if line.startswith("bytes: ")]


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(NUM_FILES):
        rows = [{"id": f"{number} {i % 2}", "text": f"text {i}"} for i in range(NUM_DOCUMENTS)]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def slow_down(monkeypatch, screen):
    """Makes what encoding does with each file wait until it was seen."""

    def read_records(entry, *args, read=admission.read_records):
        for record in read(entry, *args):
            yield record
            screen.wait()
        screen.wait()

    def waiting(function):
        def call(*args, **kwargs):
            screen.wait()
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(consoles, "_TERMINAL_INTERVAL_SEC", 0.001)
    monkeypatch.setattr(admission, "read_records", read_records)
    for module, name in (
        (discover, "_inspect"),
        (plan, "detect"),
        (duplicates_transform, "resolve_partition"),
    ):
        monkeypatch.setattr(module, name, waiting(getattr(module, name)))


def test_every_phase_is_named_and_moves(corpus, tmp_path, monkeypatch):
    screen = Screen()
    slow_down(monkeypatch, screen)
    argv = ["--input", str(corpus), "--output", str(tmp_path / "bytes"), "--drop-duplicates"]
    argv += ["--on-duplicate-id", "suffix", "--limit", str(NUM_FILES * NUM_DOCUMENTS)]
    argv += ["--target-shard-bytes", "150"]
    summary = encode.run(parse_arguments(encode, argv), Console(screen))
    assert summary.data["records"] == NUM_FILES * NUM_DOCUMENTS
    assert summary.data["documents"] == NUM_DOCUMENTS

    num_bytes = sum(path.stat().st_size for path in corpus.iterdir())
    size = consoles.format_bytes(num_bytes)
    patterns = {
        "looking for files": r"bytes: looking for files: (\d+) files?, \d+ s so far",
        "looking at files": rf"bytes: looking at files: \d+%, (\d) of {NUM_FILES} files.*",
        "looking for the end": r"bytes: looking for the end of --limit: \d+%, (\d) of 9 docu.*",
        "looking for duplicates": rf"bytes: looking for duplicates: (\d+)%, .* of {size}.*",
        "comparing": r"bytes: comparing documents: \d+%, (\d) of 2 rounds.*",
        "encoding": rf"bytes: (\d+)%, .* of {size}.*",
    }
    shown = [line for line in screen.lines() if "looking for finished units" not in line]
    found = []  # (phase, number shown)
    for line in shown:
        found += [(k, int(m[1])) for k, p in patterns.items() if (m := re.fullmatch(p, line))]
    assert len(found) == len(
        [line for line in shown if not line.endswith("first, which reads the input.")]
    )
    assert list(dict.fromkeys(phase for phase, _ in found)) == list(patterns)
    for phase in patterns:
        numbers = [number for other, number in found if other == phase]
        assert numbers == sorted(numbers), phase
        assert len(set(numbers)) >= 2, phase


def test_what_a_killed_run_had_read_is_not_counted_again(corpus, tmp_path):
    config = EncodeConfig(drop_duplicates=True, target_shard_bytes=150)
    payloads = build_plan(discover_inputs([corpus]).files, config)
    stage = Stage(
        kind="byte_shards", output=tmp_path / "out", config={}, run_unit=None, shard_patterns=()
    )
    units = make_units(stage, payloads, [100] * len(payloads))
    assert len(units) == NUM_FILES
    scan_unit(units[0], config, stage.output)
    assert [is_scanned(unit, stage.output) for unit in units[:2]] == [True, False]

    reading, comparing = duplicates_transform.start_search(stage, units, config)
    assert (reading.read_done(), reading.total) == (0, 100 * (NUM_FILES - 1))
    scan_unit(units[1], config, stage.output)
    assert reading.read_done() == 100
    for unit in units[2:]:
        scan_unit(unit, config, stage.output)
    assert reading.read_done() == reading.total
    assert (comparing.read_done(), comparing.total) == (0, 1)
