import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blt.cli.command import main
from blt.commands import inspect
from blt.dataset import stage as stages
from blt.dataset.finishing import finish
from blt.dataset.manifest import MANIFEST_NAME, read_manifest, write_manifest
from blt.dataset.storage import atomic_path, read_json, write_json
from blt.dataset.units import no_progress
from blt.dataset.working import work_on
from blt.errors import UserError, WorkError
from blt.formats.training_shard import TrainingShardWriter
from blt.inspection import Look, check_folder, inspect_path
from blt.inspection.documents import cut_lengths, find_documents, first_documents
from blt.inspection.visible import visible_bytes, visible_patches, visible_text
from blt.tokenizer import frame_tokens
from blt.training_data.packing import PackedSequence
from tests.blt.dataset.test_stage import make_stage
from tests.blt.report.artefacts import (
    DOCUMENTS,
    HOSTILE_ID,
    write_bytes,
    write_history,
    write_patches,
    write_run,
)

LOOK = Look(documents=2, num_bytes=12)


def lines_of(path, look=LOOK):
    return inspect_path(path, look).lines


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def data(tmp_path):
    return write_bytes(tmp_path / "bytes")


def test_byte_shards_are_told_in_words_with_rejects_and_first_documents(data):
    text = "\n".join(lines_of(data.folder))
    assert "byte shards, made by `blt encode` of blt" in text
    assert "  documents  5\n" in text and "  records    7\n" in text
    assert "  id_field    none\n" in text and "  input       in.jsonl\n" in text
    assert "invalid_json  2: the line is not JSON" in text
    assert "  fox (124 bytes)\n    The quick br…\n  empty (0 bytes)\n    (empty)" in text


def test_patches_stand_between_bars(tmp_path, data):
    patches = write_patches(tmp_path / "patches", data)
    lines = lines_of(patches.folder, Look(documents=1, num_bytes=10))
    assert lines[-2:] == ["  fox (124 bytes)", "    |The |quic|k |…"]
    assert any("byte shards" in line and "(bytes, beside it)" in line for line in lines)


def test_boundaries_without_their_byte_shards_say_how_to_give_them(tmp_path, data):
    patches = write_patches(tmp_path / "elsewhere" / "patches", data)
    assert "Give their folder with --data." in lines_of(patches.folder)[-1]
    shown = lines_of(patches.folder, Look(documents=1, num_bytes=4, data=[data.folder]))
    assert shown[-1] == "    |The |…"
    other = write_bytes(tmp_path / "other", {"x": b"y"})
    with pytest.raises(UserError, match=r"not the byte shards that .* was made from"):
        lines_of(patches.folder, Look(data=[other.folder]))


def test_boundaries_of_other_byte_shards_are_not_shown_as_if_they_fitted(tmp_path, data):
    patches = write_patches(tmp_path / "patches", data)
    other = write_bytes(tmp_path / "other", {"x": b"y"})
    with pytest.raises(WorkError, match=r"boundaries of document 'fox' do not fit document 'x'"):
        list(first_documents(other, patches, count=1, num_bytes=5))


def test_nothing_that_a_terminal_obeys_is_printed(run_folder):
    look = Look(documents=10, num_bytes=1000)
    for path in (run_folder, *(p for p in run_folder.iterdir() if p.suffix != ".jsonl")):
        for line in lines_of(path, look):
            assert line.isprintable(), line
    text = "\n".join(lines_of(run_folder / "patches", look))
    assert "\\x1b" in text and "\\xff" in text and "\\u{202e}" in text and "\\|" in text


@given(st.binary(max_size=60))
def test_shown_bytes_are_printable(raw_bytes):
    assert visible_bytes(raw_bytes).isprintable()


@given(st.text(max_size=30))
def test_shown_text_is_printable(text):
    assert visible_text(text).isprintable()


@given(st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")), st.data())
def test_every_byte_is_in_a_piece_of_its_patch(raw_bytes, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw_bytes)), max_size=6)))
    edges = [0, *cuts, len(raw_bytes)]
    patches = [raw_bytes[a:b] for a, b in itertools.pairwise(edges)]
    for patch, pieces in zip(patches, visible_patches(patches), strict=True):
        assert bool(pieces) == bool(patch)
        places = [byte for byte, _ in pieces]
        assert places == sorted(set(places)) and places[:1] == [0][: len(patch)]


def test_a_character_that_a_boundary_cuts_stands_once():
    assert visible_patches(["字".encode()[:1], "字".encode()[1:] + b"a"]) == [
        [(0, "字")],
        [(0, "·"), (1, "·"), (2, "a")],
    ]


def test_beginnings_cut_the_last_patch():
    assert cut_lengths(np.array([1, 4, 3, 9]), 6).tolist() == [1, 4, 1]
    assert cut_lengths(np.array([1]), 5).tolist() == [1]


def test_documents_are_found_by_id_and_size(tmp_path, data):
    patches = write_patches(tmp_path / "patches", data)
    size = len(DOCUMENTS[HOSTILE_ID])
    found = find_documents(data, patches, [(HOSTILE_ID, size), ("fox", 3)], num_bytes=8)
    assert list(found) == [(HOSTILE_ID, size)]
    document = found[HOSTILE_ID, size]
    assert [patch.raw_bytes for patch in document.patches()] == [b"<scr", b"ipt>"]
    np.testing.assert_allclose(document.entropies[:3], [0.0, 0.01, 0.02], atol=1e-4)


def test_scores_are_told_with_best_worst_and_compressors(run_folder):
    text = "\n".join(lines_of(run_folder / "scores-blt"))
    assert "Scores of the BLT:" in text
    best = text.index("Best, of documents of 100 bytes or more")
    assert text.index("  fox ", best) < text.index("2.000; zlib") < text.index("Worst, of")
    assert "zlib is ahead at 2 of 4 documents." in text
    groups = text.index(
        "By source, in bits per byte; the groups with the most bytes:\n  in.jsonl  "
    )
    assert groups < best


def test_a_folder_of_datasets_lists_them_in_the_order_of_the_data(run_folder):
    lines = lines_of(run_folder)
    names = [line.split()[0] for line in lines[1:-1]]
    assert names[:5] == ["bytes/", "patches/", "blt/", "scores-blt/", "scores-entropy/"]
    assert lines[-1].endswith("blt inspect " + str(run_folder / "patches"))


def test_a_training_run_tells_the_end_of_its_history(run_folder):
    text = "\n".join(lines_of(run_folder / "blt"))
    assert "held out, in bits per byte, over time: 6.750, 5.250" in text


def test_training_shards_show_sequences_with_their_documents(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    path = folder / "train-00000.tfrecord"
    first, second = frame_tokens(b"abcd"), frame_tokens(b"xy")
    with atomic_path(path) as temporary:
        writer = TrainingShardWriter(temporary, name=path.name)
        writer.write(
            PackedSequence(
                tokens=np.concatenate([first, second]),
                patch_lengths=np.array([1, 3, 2, 1, 3], np.int32),
                segment_ids=np.array([1] * 6 + [2] * 4, np.int32),
                doc_ids=("one", "two"),
            )
        )
        shard = writer.close(2)
    write_manifest(
        folder,
        kind="training_shards",
        config={},
        fingerprints={},
        parents={},
        totals={"documents": 2, "bytes": 6, "tokens": 10},
        shards=[shard],
    )
    expected = [
        "Sequence 0: 10 tokens, 5 patches, 2 documents; patches between |",
        "  one (4 bytes in this sequence)",
        "    |abc|d|",
        "  two (2 bytes in this sequence)",
        "    |xy|",
    ]
    assert lines_of(folder)[-5:] == expected
    assert lines_of(path)[-5:] == expected
    assert check_folder(folder) == (1, [])


def test_an_unfinished_folder_says_how_far_it_is(tmp_path):
    stage, units = make_stage(tmp_path / "out", ("a", "boom", "ccc"))
    stage, pending = stages.start(stage, units)
    for unit in pending[:2]:
        work_on(stage, unit, no_progress)
    text = "\n".join(lines_of(tmp_path / "out"))
    assert "not finished: 1 of 3 units are done" in text
    assert "unit 00001 failed: in.txt: cannot be shouted." in text
    assert "Once that is fixed, run `blt encode` again to finish it" in text
    with pytest.raises(WorkError):
        finish(stage, units)
    text = "\n".join(lines_of(tmp_path / "out"))
    assert "The last run failed: " in text
    assert "2 of 3 units failed: unit 1: in.txt: cannot be shouted.; unit 2: it was not" in text
    # A run that begins anew is no failed one.
    stages.start(stage, units)
    text = "\n".join(lines_of(tmp_path / "out"))
    assert "failed" not in text
    assert "Run the same `blt encode` again to finish it" in text


def test_single_files_are_recognised(run_folder):
    for name, words in {
        "bytes/bytes-00000-000.tfrecord": "a byte shard",
        "bytes/_rejects.parquet": "rejects: records that were refused",
        "patches/patches-00000-000.parquet": "patch boundaries",
        "scores-blt/scores-00000-000.parquet": "scores, made by",
        "scores-blt/_summary.json": "a summary of scores",
        "entropy.keras.history.jsonl": "the history of a training",
        "threshold.yaml": "a calibrated threshold",
        "bytes/_manifest.json": "byte shards, made by",
    }.items():
        assert words in lines_of(run_folder / name)[0], name


def test_a_shard_of_boundaries_finds_its_byte_shard(run_folder):
    lines = lines_of(run_folder / "patches" / "patches-00000-000.parquet", Look(1, 4))
    assert lines[-1] == "    |The |…"


def test_a_raw_corpus_is_recognised_with_the_command_to_encode_it(tmp_path):
    path = tmp_path / "my corpus.jsonl"
    path.write_text('{"text": "hello \\u001b"}\n', encoding="utf-8")
    lines = lines_of(path)
    assert "a raw corpus: JSON Lines" in lines[0]
    assert lines[-1] == f"  blt encode --input '{path}' --output bytes"
    assert "1 file, " in lines_of(tmp_path)[0]


def test_what_a_raw_corpus_is_taken_as_for_want_of_the_text_field_is_said(tmp_path):
    (tmp_path / "log").write_text('{"level": 3}\n{"level": 4}\n')
    lines = lines_of(tmp_path / "log")
    assert "a raw corpus: text" in lines[0]
    assert "looks like JSON Lines, but none of its first objects has the field 'text'" in "\n".join(
        lines
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.bin", bytes(range(256)) * 8, "binary data of an unknown kind"),
        ("x.keras", b"PK no", "not a .keras model file"),
        ("x.parquet", b"PAR1 no", "not a Parquet file"),
        ("x.yaml", b"a: [1", "not a YAML file"),
        ("x.yaml", b"colour: red", "keys that are not ours"),
        ("x.json", b'{"a": 1}', "JSON that blt did not make"),
    ],
)
def test_what_is_unknown_is_refused_with_what_was_expected(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        inspect_path(tmp_path / name, LOOK)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds nothing that blt knows"):
        inspect_path(tmp_path, LOOK)


def test_check_passes_whole_datasets_and_names_what_is_wrong(run_folder, capsys):
    assert main(inspect, [str(run_folder), "--check"]) == 0
    assert "4 shards" in capsys.readouterr().out
    shard = run_folder / "patches" / "patches-00000-000.parquet"
    damaged = bytearray(shard.read_bytes())
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    (run_folder / "scores-blt" / "scores-00000-000.parquet").unlink()
    assert main(inspect, [str(run_folder), "--check"]) == 1
    said = capsys.readouterr().err
    assert "patches-00000-000.parquet: its sha256 is not the manifest's" in said
    assert "scores-00000-000.parquet: missing" in said


@pytest.mark.parametrize(
    ("total", "words"),
    [
        ("documents", "totals say 6 documents, its shards 5"),
        ("records", "8 records were read, but 7 are"),
        ("rejects", "2 rejects, but the totals say 3"),
    ],
)
def test_check_sees_totals_that_do_not_add_up(data, total, words):
    manifest = read_json(data.folder / MANIFEST_NAME)
    manifest["totals"][total] += 1
    write_json(data.folder / MANIFEST_NAME, manifest)
    _, problems = check_folder(data.folder)
    assert any(words in problem for problem in problems)


def test_json_says_the_same_as_data(run_folder, capsys):
    assert main(inspect, [str(run_folder / "patches"), "--json", "--documents", "1"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["what"] == "boundaries"
    assert value["documents"][0]["doc_id"] == "fox"
    assert value["documents"][0]["patches"][:2] == ["The ", "quic"]
    assert value["parents"]["byte_shards"] == read_manifest(run_folder / "bytes").sha256


def test_model_files_tell_kind_size_and_fingerprint(tmp_path):
    from blt.model.entropy_model import EntropyModel
    from blt.model.serialization import fingerprint, save_model

    model = EntropyModel(dim=8, num_layers=1, num_heads=1, window=16)
    model(np.zeros((1, 16), np.int32))
    save_model(model, tmp_path / "m.keras")
    summary = inspect_path(tmp_path / "m.keras", LOOK)
    assert "an entropy model" in summary.lines[0]
    assert summary.data["fingerprint"] == fingerprint(model)
    assert summary.data["parameters"] == model.count_params()
    assert summary.data["config"]["window"] == 16


def test_a_history_with_a_foreign_line_is_refused(tmp_path):
    path = tmp_path / "history.jsonl"
    write_history(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"no": 1}\n')
    with pytest.raises(UserError, match="line 31 is not a record of a training"):
        inspect_path(path, LOOK)
