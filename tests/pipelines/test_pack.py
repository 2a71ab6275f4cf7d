"""`blt pack` on real shards and runners."""

import json
import shutil

import numpy as np
import pytest

from blt.cli import command
from blt.dataset.manifest import read_manifest
from blt.dataset.splits import is_held_out
from blt.errors import WorkError
from blt.formats.byte_shard import read_byte_shard
from blt.formats.training_shard import read_training_shard
from blt.training_data.packing import write_bucket
from pipelines import pack, pack_transform, patch
from tests.shared import dataset_files

FLAGS = ("--seq-len", "128", "--max-patches", "60", "--target-shard-bytes", "6KB")


def run(*argv):
    return command.main(pack, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def patches(small_bytes, tmp_path_factory):
    output = tmp_path_factory.mktemp("space") / "patches"
    argv = ["--data", small_bytes, "--rule", "space", "--output", output]
    assert command.main(patch, [str(arg) for arg in argv]) == 0
    return output


@pytest.fixture(scope="module")
def packed(small_bytes, patches, tmp_path_factory):
    output = tmp_path_factory.mktemp("packed") / "train"
    assert run("--data", small_bytes, "--patches", patches, "--output", output, *FLAGS) == 0
    return output


def read_documents(folder):
    """doc_id -> the tokens of its pieces, put together in the order they lie in the shards."""
    documents, splits = {}, {}
    manifest = read_manifest(folder, "training_shards")
    for shard in manifest.shards:
        for sequence in read_training_shard(folder / shard.name):
            assert len(sequence.tokens) <= 128
            assert len(sequence.patch_lengths) <= 60
            assert sequence.patch_lengths.sum() == len(sequence.tokens)
            for segment, doc_id in enumerate(sequence.doc_ids, 1):
                piece = sequence.tokens[sequence.segment_ids == segment]
                documents.setdefault(doc_id, []).append(piece)
                splits[doc_id] = shard.name.split("-")[0]
    return {doc_id: np.concatenate(pieces) for doc_id, pieces in documents.items()}, splits


def test_every_document_arrives_whole_and_in_its_split(packed, small_bytes):
    documents, splits = read_documents(packed)
    for path in small_bytes.glob("bytes-*"):
        for record in read_byte_shard(path):
            np.testing.assert_array_equal(documents.pop(record.doc_id), record.tokens)
            held_out = is_held_out(record.doc_id, fraction=0.1, seed=0)
            assert splits[record.doc_id] == ("valid" if held_out else "train")
    assert documents == {}
    assert set(splits.values()) == {"train", "valid"}


def test_documents_are_shuffled(packed):
    order = [
        doc_id
        for shard in read_manifest(packed).shards
        for sequence in read_training_shard(packed / shard.name)
        for doc_id in sequence.doc_ids
    ]
    files = [doc_id.split("/")[0] for doc_id in order]
    assert files != sorted(files)


def test_runner_workers_and_reruns_do_not_show(packed, small_bytes, patches, tmp_path):
    argv = ("--data", small_bytes, "--patches", patches, *FLAGS)
    assert run(*argv, "--output", tmp_path / "again", "--direct_num_workers", "2") == 0
    assert dataset_files(tmp_path / "again") == dataset_files(packed)


def test_a_missing_bucket_alone_is_packed_again(packed, small_bytes, patches, tmp_path, capsys):
    argv = ("--data", small_bytes, "--patches", patches, *FLAGS, "--output", tmp_path / "train")
    assert run(*argv) == 0
    (tmp_path / "train" / "train-00001.tfrecord").unlink()
    capsys.readouterr()
    assert run(*argv) == 0
    assert "units are finished" in capsys.readouterr().err
    assert dataset_files(tmp_path / "train") == dataset_files(packed)


def test_another_seed_gives_another_order(packed, small_bytes, patches, tmp_path):
    argv = ("--data", small_bytes, "--patches", patches, *FLAGS)
    assert run(*argv, "--output", tmp_path / "train", "--seed", "1") == 0
    name = "train-00000.tfrecord"
    assert dataset_files(tmp_path / "train")[name] != dataset_files(packed)[name]


def test_boundaries_of_other_shards_are_refused(small_corpus, patches, tmp_path, capsys):
    from pipelines import encode

    argv = ["--input", small_corpus / "0.jsonl", "--output", tmp_path / "bytes"]
    assert command.main(encode, [str(arg) for arg in argv]) == 0
    assert run("--data", tmp_path / "bytes", "--patches", patches, "--output", tmp_path / "t") == 2
    assert "made from other byte shards" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_what_is_read_is_never_the_output(small_bytes, patches, tmp_path, capsys, flags):
    shutil.copytree(small_bytes, tmp_path / "bytes")
    shutil.copytree(patches, tmp_path / "patches")
    before = dataset_files(tmp_path)
    argv = ("--data", tmp_path / "bytes", "--patches", tmp_path / "patches")
    for output, flag in (("bytes", "--data"), ("./patches/../patches", "--patches")):
        assert run(*argv, "--output", tmp_path / output, *flags) == 2
        assert f"is what {flag} names, to be read" in capsys.readouterr().err
    assert dataset_files(tmp_path) == before


def test_overwrite_replaces_no_other_kind_of_dataset(small_bytes, patches, tmp_path, capsys):
    shutil.copytree(small_bytes, tmp_path / "other")
    before = dataset_files(tmp_path)
    argv = ("--data", small_bytes, "--patches", patches, "--output", tmp_path / "other")
    assert run(*argv, "--overwrite") == 2
    assert "other: holds byte shards, and this command makes training" in capsys.readouterr().err
    assert dataset_files(tmp_path) == before


def test_patches_longer_than_a_sequence_are_cut_counted_and_said(
    small_bytes, patches, tmp_path, capsys
):
    argv = ["--data", small_bytes, "--patches", patches, "--seq-len", "6"]
    assert run(*argv, "--output", tmp_path / "short") == 0
    totals = read_manifest(tmp_path / "short").totals
    out = capsys.readouterr().out
    assert 0 < 2 * totals["cut_patches"] <= totals["cut_pieces"]
    number, pieces = totals["cut_patches"], totals["cut_pieces"]
    assert f"{number:,} patches longer than --seq-len 6 were cut into {pieces:,} pieces" in out
    assert run(*argv[:-1], "512", "--output", tmp_path / "long") == 0
    whole = read_manifest(tmp_path / "long").totals
    assert (whole["cut_patches"], whole["cut_pieces"]) == (0, 0)
    assert totals["patches"] == whole["patches"] + pieces - number
    assert "were cut" not in capsys.readouterr().out


def test_what_was_dealt_is_kept_until_all_is_packed(
    packed, small_bytes, patches, tmp_path, monkeypatch, capsys
):
    def failing(documents, output, *, bucket, **options):
        if bucket == 1:
            raise WorkError("no luck")
        return write_bucket(documents, output, bucket=bucket, **options)

    argv = ("--data", small_bytes, "--patches", patches, "--output", tmp_path / "out", *FLAGS)
    monkeypatch.setattr(pack, "write_bucket", failing)
    assert run(*argv) == 1
    assert "unit 1: no luck" in capsys.readouterr().err
    assert list((tmp_path / "out" / "_dealt").glob("*/*.documents"))
    monkeypatch.setattr(pack, "write_bucket", write_bucket)
    monkeypatch.delattr(pack_transform, "deal_group")  # it is not needed any more
    assert run(*argv) == 0
    assert dataset_files(tmp_path / "out") == dataset_files(packed)
    assert not (tmp_path / "out" / "_dealt").exists()


def test_what_an_earlier_version_began_is_said_with_the_way_out(
    small_bytes, patches, tmp_path, monkeypatch, capsys
):
    argv = ("--data", small_bytes, "--patches", patches, "--output", tmp_path / "out", *FLAGS)
    monkeypatch.setattr(pack_transform, "deal_group", _raise_work_error)
    assert run(*argv) == 1
    path = tmp_path / "out" / "_plan.json"
    plan = json.loads(path.read_text())
    for unit in plan["units"]:
        unit["payload"].pop("pairs", None)
    path.write_text(json.dumps(plan))
    assert run(*argv) == 2
    assert "was begun by an earlier version of blt. Give --overwrite" in capsys.readouterr().err


def _raise_work_error(*args):
    raise WorkError("stopped")


def test_a_document_that_did_not_come_through_fails_the_run(
    small_bytes, patches, tmp_path, monkeypatch, capsys
):
    def losing(documents, *args, **options):
        return write_bucket(list(documents)[1:], *args, **options)

    argv = ("--data", small_bytes, "--patches", patches, "--output", tmp_path / "out", *FLAGS)
    monkeypatch.setattr(pack, "write_bucket", losing)
    assert run(*argv) == 1
    err = capsys.readouterr().err
    assert "of 60 documents, 5" in err and "were packed. This is a bug" in err
    assert not (tmp_path / "out" / "_manifest.json").exists()
