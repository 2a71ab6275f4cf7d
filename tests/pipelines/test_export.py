"""`blt export --to meta-arrow` on real shards, read back with pyarrow alone."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.dataset.manifest import read_manifest
from blt.formats import meta_arrow
from blt.formats.boundaries import read_boundaries, restore_entropies
from blt.formats.byte_shard import read_documents
from blt.training_data import meta_arrow_export as exporting
from pipelines import export, patch
from tests.blt.datasets import write_byte_dataset
from tests.shared import dataset_files

THRESHOLD = 3.0
TEXTS = {
    "empty": "",
    "one": "a",
    "greek": "Μῆνιν ἄειδε θεὰ Πηληϊάδεω Ἀχιλῆος " * 8,
    "emoji": "👩‍👩‍👧 𝕏 é\n" * 20,
    "nul": "a\x00b\r\n\x7f",
    "short": "the byte latent transformer",
}
BINARY = {
    "latin1": ("Straße" * 20).encode("latin-1"),
    "cut": "東京".encode()[:-1],
    "utf8": b"\xed\xa0\x80",
}


def run(module, *argv):
    return command.main(module, [str(arg) for arg in argv])


def export_to(output, data, patches, *flags):
    argv = ("--to", "meta-arrow", "--data", data, "--patches", patches, "--output", output)
    return run(export, *argv, *flags)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two byte shards; documents over 50 bytes in parts, which cut characters in two."""
    documents = {name: text.encode() for name, text in TEXTS.items()}
    folder = tmp_path_factory.mktemp("data") / "bytes"
    write_byte_dataset(folder, {**documents, **BINARY}, num_shards=2, part_bytes=50)
    return folder


@pytest.fixture(scope="module", params=["f16", "u8"])
def patches(request, data, small_entropy_model, tmp_path_factory):
    output = tmp_path_factory.mktemp(f"patches-{request.param}") / "patches"
    argv = ("--data", data, "--entropy-model", small_entropy_model, "--output", output)
    argv += ("--threshold-nats", THRESHOLD, "--keep-entropies", request.param)
    assert run(patch, *argv) == 0
    return output


@pytest.fixture(scope="module")
def exported(data, patches, tmp_path_factory):
    output = tmp_path_factory.mktemp("export") / "arrow"
    assert export_to(output, data, patches, "--max-lost-fraction", 0.5) == 0
    return output


def read_rows(folder):
    """What a stranger reads: every Arrow file that has its marker."""
    files = sorted(folder.glob("*.arrow"))
    assert all(path.with_name(path.name + ".complete").read_bytes() == b"" for path in files)
    table = pa.dataset.dataset([str(path) for path in files], format="arrow").to_table()
    assert table.schema.names == ["sample_id", "text", "entropies"]
    assert table.schema.types == [pa.string(), pa.string(), pa.list_(pa.float16())]
    entropies = [np.array(values, np.float16) for values in table["entropies"].to_pylist()]
    ids, texts = table["sample_id"].to_pylist(), table["text"].to_pylist()
    return {name: (text, own) for name, text, own in zip(ids, texts, entropies, strict=True)}


def test_texts_come_back_whole_and_entropies_are_the_stored_ones(exported, data, patches):
    rows = read_rows(exported)
    assert {name: text for name, (text, _) in rows.items()} == TEXTS
    for shard, boundaries in zip(
        read_manifest(data).shards, read_manifest(patches).shards, strict=True
    ):
        described = list(read_boundaries(patches / boundaries.name))
        index = 0
        for parts in read_documents(data / shard.name):
            own = [
                restore_entropies(row.entropies) for row in described[index : index + len(parts)]
            ]
            index += len(parts)
            if parts[0].doc_id in BINARY:
                continue
            text, entropies = rows[parts[0].doc_id]
            assert len(entropies) == len(text.encode()) + 2
            expected = np.concatenate(own).astype(np.float16)
            np.testing.assert_array_equal(entropies[:-1], expected[1:])
            assert entropies[-1] == 0


def test_their_rule_on_what_was_written_gives_our_patches(exported, data, patches):
    """A patch starts at ids 0 and 1, and at j >= 2 iff entry j - 1 is above the threshold."""
    rows = read_rows(exported)
    checked = 0
    for shard, boundaries in zip(
        read_manifest(data).shards, read_manifest(patches).shards, strict=True
    ):
        for row in read_boundaries(patches / boundaries.name):
            whole = row.doc_id in rows and row.num_tokens == len(rows[row.doc_id][1])
            if not whole:  # parts begin with a patch of their own
                continue
            entropies = rows[row.doc_id][1].astype(np.float32)
            starts = [0, 1] + [j for j in range(2, row.num_tokens) if entropies[j - 1] > THRESHOLD]
            lengths = np.diff(starts, append=row.num_tokens)
            np.testing.assert_array_equal(row.patch_lengths, lengths)
            checked += len(lengths)
        assert shard.documents
    assert checked > 10


def test_what_is_no_text_is_rejected_by_name_and_counted(exported, data):
    totals = read_manifest(exported, "meta_arrow").totals
    assert totals["documents"] == len(TEXTS)
    assert totals["rejects"] == len(BINARY)
    assert totals["records"] == len(TEXTS) + len(BINARY)
    assert totals["bytes"] == sum(len(text.encode()) for text in TEXTS.values())
    rejects = pq.read_table(exported / "_rejects.parquet").to_pylist()
    assert {row["reason"] for row in rejects} == {"invalid_utf8"}
    by_id = {row["detail"].split("'")[1]: row for row in rejects}
    assert by_id.keys() == BINARY.keys()
    assert "byte 4 is not UTF-8" in by_id["latin1"]["detail"]
    for doc_id, row in by_id.items():
        assert row["sample"] == BINARY[doc_id]
        records = [r for parts in read_documents(data / row["source"]) for r in parts]
        assert records[row["position"]].doc_id == doc_id


def test_too_many_rejects_fail_and_are_kept(data, patches, tmp_path, capsys):
    assert export_to(tmp_path / "arrow", data, patches) == 1
    err = capsys.readouterr().err
    assert "lost 33.3 % of records (3 of 9), more than --max-lost-fraction 0.01 allows" in err
    assert not (tmp_path / "arrow" / "_manifest.json").exists()
    assert not list((tmp_path / "arrow").glob("*.complete"))
    assert export_to(tmp_path / "arrow", data, patches, "--max-lost-fraction", 0.5) == 0


def test_a_document_that_no_row_can_hold_is_rejected(data, patches, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MAX_ROW_TOKENS", 100)
    assert export_to(tmp_path / "arrow", data, patches, "--max-lost-fraction", 1) == 0
    fitting = {name: text for name, text in TEXTS.items() if len(text.encode()) + 2 <= 100}
    assert read_rows(tmp_path / "arrow").keys() == fitting.keys() < TEXTS.keys()
    reasons = pq.read_table(tmp_path / "arrow" / "_rejects.parquet")["reason"].to_pylist()
    assert reasons.count("too_long") == len(TEXTS) - len(fitting) + 1  # and one that is no text


def test_batches_are_small_and_the_bytes_do_not_depend_on_the_run(
    exported, data, patches, tmp_path, monkeypatch
):
    flags = ("--max-lost-fraction", 0.5)
    assert export_to(tmp_path / "again", data, patches, *flags) == 0
    assert dataset_files(tmp_path / "again") == dataset_files(exported)
    monkeypatch.setattr(meta_arrow, "_BATCH_TOKENS", 64)
    assert export_to(tmp_path / "small", data, patches, *flags) == 0
    (path, *_) = sorted((tmp_path / "small").glob("*.arrow"))
    with pa.ipc.open_file(path) as file:
        assert file.num_record_batches > 2
    again = read_rows(tmp_path / "small")
    for name, (text, entropies) in read_rows(exported).items():
        assert again[name][0] == text
        np.testing.assert_array_equal(again[name][1], entropies)


def test_a_lost_file_is_made_again(exported, data, patches, tmp_path):
    output = tmp_path / "arrow"
    shutil.copytree(exported, output)
    lost = sorted(output.glob("*.arrow"))[1]
    lost.unlink()
    assert export_to(output, data, patches, "--max-lost-fraction", 0.5) == 0
    assert dataset_files(output) == dataset_files(exported)


def test_mistakes_are_one_line(data, small_bytes, patches, tmp_path, capsys):
    plain = tmp_path / "plain"
    assert run(patch, "--data", data, "--rule", "space", "--output", plain) == 0
    capsys.readouterr()
    for argv, message in (
        ((data, plain), "plain: holds no entropies. Run `blt patch` with --keep-entropies f16"),
        ((small_bytes, patches), "made from other byte shards than --data"),
    ):
        assert export_to(tmp_path / "out", *argv) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_dry_run_names_the_outputs(data, patches, tmp_path, capsys):
    assert export_to(tmp_path / "out", data, patches, "--dry-run", "--json") == 0
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert outputs[:2] == ["bytes-00000-000.shard_00.arrow", "bytes-00001-000.shard_00.arrow"]
    assert not (tmp_path / "out").exists()
