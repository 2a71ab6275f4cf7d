"""Altered, cut and made-up bytes for every reader, under any options: no crash, no record lost.

The number of examples is small here; `BLT_FUZZ_EXAMPLES=100000` makes more (with
`HYPOTHESIS_PROFILE=explore` others), and
`python -m tests.fuzz --reader jsonl` goes on for minutes.
"""

import argparse
import json
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blt.corpus import EncodeConfig, build_plan, discover_inputs
from blt.corpus.records import Reject
from tests.fuzz import __main__ as command
from tests.fuzz import laws
from tests.fuzz.alter import KINDS, altered
from tests.fuzz.laws import Made, check_file, random_options, read
from tests.fuzz.samples import NAMES, samples

EDITS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=6,
)
SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def check(path, data, seed):
    path.write_bytes(data)
    rng = random.Random(seed)
    return check_file(path, random_options(rng, path.name, len(data)), rng)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=int(os.environ.get("BLT_FUZZ_EXAMPLES", 30)), **SETTINGS)
@given(edits=EDITS, seed=st.integers(0, 1 << 32))
def test_altered_files_are_read_or_said_to_be_damaged(name, edits, seed, tmp_path):
    check(tmp_path / name, altered(samples()[name], edits), seed)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, **SETTINGS)
@given(data=st.binary(max_size=600), after=st.booleans(), seed=st.integers(0, 1 << 32))
def test_any_bytes_are_read_or_said_to_be_damaged(name, data, after, seed, tmp_path):
    head = samples()[name][:12] if after else b""
    check(tmp_path / name, head + data, seed)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_whole_gives_no_damage(name, tmp_path):
    (tmp_path / name).write_bytes(samples()[name])
    config = EncodeConfig()
    (payload,) = build_plan(discover_inputs([tmp_path / name]).files, config)
    records = read(payload["files"][0], config)
    is_one = name in ("x.txt", "y.txt", "x.bin", "x.wet")
    assert sum(isinstance(record, Made) for record in records) >= 2 - is_one
    assert not [r for r in records if isinstance(r, Reject) and r.ends_input]


def test_the_command_saves_a_case_that_fails_and_runs_it_again(tmp_path, monkeypatch):
    def fail(path, options, rng):
        raise ValueError("lost")

    monkeypatch.setattr(laws, "check_file", fail)
    target = command.Target("bytes")
    arguments = argparse.Namespace(folder=tmp_path / "kept", limit_seconds=10, limit_mb=1000)
    session = command.Session(target, arguments, tmp_path)
    for seed in range(3):
        session.run(target.alter(target.seeds()[0], seed))
    (how,) = session.failures.values()  # one, for the one place in which all fail
    (saved,) = (tmp_path / "kept").glob("bytes-*.case")
    assert how == f"python -m tests.fuzz --rerun {saved}"
    assert "ValueError: lost" in saved.with_suffix(".txt").read_text("utf-8")
    with pytest.raises(ValueError, match="lost"):
        command.rerun(saved)
    assert json.loads((tmp_path / "state.json").read_text())["failures"] == session.failures
