"""The small modules that everything stands on: vocabulary, split, storage, console."""

import argparse
import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blt.cli import console as consoles
from blt.cli.console import (
    Console,
    Phase,
    ProgressLine,
    format_bytes,
    format_seconds,
    printable,
    progress_text,
)
from blt.commands.arguments import byte_size, place
from blt.dataset.splits import is_held_out, seeded_hash
from blt.dataset.storage import (
    StorePlace,
    atomic_path,
    prepare_output_folder,
    remove_temporaries,
    sha256_json,
    shared_use,
)
from blt.errors import UserError, WorkError, near_names
from blt.tokenizer import ByteTokenizer, frame_tokens, tokens_to_bytes


def test_all_256_bytes_have_ids_of_their_own_above_the_special_ones():
    tokens = frame_tokens(bytes(range(256)))
    assert tokens.tolist() == [1, *range(4, 260), 2]
    assert tokens.dtype == np.uint16


@given(st.binary(max_size=300))
def test_decoding_gives_any_bytes_back(raw):
    assert tokens_to_bytes(frame_tokens(raw)) == raw


def test_the_tokenizer_speaks_text():
    tokenizer = ByteTokenizer()
    ids = tokenizer.text_to_bytes("é")
    assert ids == [1, 0xC3 + 4, 0xA9 + 4]
    assert tokenizer.bytes_to_text(ids) == "é"
    assert tokenizer.bytes_to_text(ids[:-1]) == "\ufffd"


def test_the_split_depends_on_id_and_seed_alone_and_keeps_its_share():
    ids = [f"doc-{i}" for i in range(10_000)]
    held_out = {i for i in ids if is_held_out(i, fraction=0.1, seed=0)}
    assert 900 < len(held_out) < 1100
    assert {i for i in reversed(ids) if is_held_out(i, fraction=0.1, seed=0)} == held_out
    other_seed = {i for i in ids if is_held_out(i, fraction=0.1, seed=1)}
    assert 50 < len(held_out & other_seed) < 150  # one in a hundred is in both by chance
    assert not any(is_held_out(i, fraction=0.0, seed=0) for i in ids)
    assert all(is_held_out(i, fraction=1.0, seed=0) for i in ids)


def test_hashes_know_where_one_part_ends():
    assert seeded_hash(0, "ab", "c") != seeded_hash(0, "a", "bc")
    assert seeded_hash(0, "\ud800") != seeded_hash(0, "?")
    # Pinned: another value would change every split and every shuffle.
    assert seeded_hash(0, "split", "doc-1") == 0x9E071B479D85FDDE


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_what_a_kill_left_is_swept(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".tmp-123-x").write_text("")
    (tmp_path / "kept.tmp-x").write_text("")
    assert remove_temporaries(tmp_path) == 1
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["kept.tmp-x"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output .*file/out: cannot be written to"):
        prepare_output_folder(tmp_path / "file" / "out")


def test_an_error_while_writing_names_the_file(tmp_path):
    with (
        pytest.raises(WorkError, match=r"x.txt: cannot be written \(No space left"),
        atomic_path(tmp_path / "x.txt"),
    ):
        raise OSError(28, "No space left on device")


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkError, match="file/x.txt: cannot be written"),
        atomic_path(tmp_path / "file" / "x.txt"),
    ):
        pass


def test_the_digest_of_json_does_not_depend_on_the_order_of_keys():
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})


def test_near_names_are_offered():
    assert near_names("txt", ["text", "id"]) == " Did you mean 'text'?"
    assert near_names("zzz", ["text", "id"]) == ""


def test_progress_is_readable():
    assert progress_text("patch", 500, 2000, 10.0) == (
        "patch: 25%, 500 B of 2.0 KB, 50 B/s, 30 s left"
    )
    assert progress_text("patch", 0, 0, 0.0) == "patch: 100%, 0 B of 0 B"
    assert progress_text("patch", 0, 2000, 7.0) == "patch: 0%, 0 B of 2.0 KB, 7 s so far"
    assert progress_text("look", 1, 2, 0.5, "file") == "look: 50%, 1 of 2 files, 2/s, 0 s left"
    assert progress_text("look", 1200, None, 3.0, "file") == "look: 1,200 files, 3 s so far"
    assert [format_bytes(n) for n in (0, 999, 1000, 1_700_000)] == [
        "0 B",
        "999 B",
        "1.0 KB",
        "1.7 MB",
    ]
    assert [format_seconds(s) for s in (5, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 5 min"]


def test_a_log_gets_whole_lines_and_a_terminal_one_live_line():
    log = io.StringIO()
    console = Console(log)
    console.show("10 %")
    console.say("done")
    assert log.getvalue() == "10 %\ndone\n"

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    console = Console(terminal)
    console.show("10 %")
    console.say("done")
    assert terminal.getvalue() == "10 %\r    \rdone\n"


def test_a_log_gets_a_line_now_and_then_for_one_phase_after_the_other(monkeypatch):
    monkeypatch.setattr(consoles, "_LOG_INTERVAL_SEC", 0.001)
    log = io.StringIO()

    def shown(line):
        deadline = time.monotonic() + 5
        while line not in log.getvalue():
            assert time.monotonic() < deadline, log.getvalue()
            time.sleep(0.001)
        return True

    done = {"a": 0, "b": 0, "c": 0}
    phases = [Phase(name, lambda name=name: done[name], 4, "file") for name in done]
    with ProgressLine(Console(log), phases):
        assert shown("a: 0%, 0 of 4 files")
        done["a"] = 3
        assert shown("a: 75%, 3 of 4 files, ")
        done["b"] = 4  # a phase that is over before the one before it is not shown
        done["a"] = 4
        assert shown("c: 0%, 0 of 4 files")
        done["c"] = 4
        assert shown("c: 100%, 4 of 4 files, ")
    assert "b: " not in log.getvalue()

    with Console(log).progress("find", None, "file") as progress:
        progress(2)
        progress(1)
        assert shown("find: 3 files, 0 s so far\n")


def test_what_is_said_stays_on_its_line():
    assert printable("a b é 日 \U0001f600") == "a b é 日 \U0001f600"
    assert printable("a\nb\x1b[31m\u202e\udcff") == r"a\nb\x1b[31m\u202e\xff"


def test_what_a_killed_run_left_stays_while_another_run_may_be_writing(tmp_path):
    left = tmp_path / ".tmp-0123-shard"
    left.touch()
    with shared_use(tmp_path) as sweep:
        assert not left.exists()
        left.touch()
        with shared_use(tmp_path):
            sweep()
            assert left.exists()
        sweep()
        assert not left.exists()


@pytest.mark.parametrize("text", ["9" * 400, "-1", "0", "inf", "1e3", "nan", ""])
def test_numbers_of_bytes_that_are_none_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        byte_size(text)


def test_every_path_has_a_name_for_what_is_put_beside_it(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert place(".") == tmp_path / "in"
    assert place("..") == tmp_path
    assert place("a/b") == Path("a/b")
    assert place("gs://a/b") == StorePlace("gs://a/b")
    for text in ("", "n" * 300):
        with pytest.raises(argparse.ArgumentTypeError):
            place(text)
