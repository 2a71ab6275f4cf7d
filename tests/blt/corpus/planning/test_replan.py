"""Encoding again after the input grew, changed or lost a file."""

import gzip
import os
import shutil

import pytest

from blt.corpus.admission.duplicates import remove_found
from blt.dataset.manifest import read_manifest
from blt.dataset.storage import read_json
from blt.errors import UserError
from blt.formats.byte_shard import read_byte_shard
from blt.tokenizer import tokens_to_bytes
from tests.blt.corpus.helpers import make_dataset
from tests.shared import dataset_files

SMALL = {"target_shard_bytes": 8}  # a unit for each file


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
        os.utime(folder / f"{name}.txt", ns=(7, 7))
    return folder


def documents(folder):
    manifest = read_manifest(folder, "byte_shards")
    records = [r for s in manifest.shards for r in read_byte_shard(manifest.shard_path(s))]
    return [(record.doc_id, tokens_to_bytes(record.tokens).decode()) for record in records]


def shards(folder):
    return {name: data for name, data in dataset_files(folder).items() if name.startswith("bytes-")}


def test_new_files_go_into_new_units_and_old_units_stay(tmp_path):
    corpus = write(tmp_path / "in", b="bb", d="dd")
    output = make_dataset(tmp_path / "out", corpus)
    before = shards(output), read_manifest(output).sha256
    times = {path.name: path.stat().st_mtime_ns for path in output.glob("bytes-*")}
    write(corpus, a="aa", c="cc", e="ee")
    make_dataset(output, corpus)
    assert documents(output) == [(f"{n}.txt", n * 2) for n in "bdace"]
    assert set(before[0].items()) < set(shards(output).items())
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("bytes-*")}.items() > (
        times.items()
    )
    assert read_manifest(output).sha256 != before[1]
    assert read_manifest(output).totals["documents"] == 5


def test_nothing_new_changes_nothing(tmp_path):
    corpus = write(tmp_path / "in", b="bb", d="dd")
    output = make_dataset(tmp_path / "out", corpus)
    before = dataset_files(output)
    make_dataset(output, corpus)
    assert dataset_files(output) == before


def test_growing_is_the_same_however_the_runs_were_cut(tmp_path):
    options = {"target_shard_bytes": 3, "on_duplicate_id": "suffix", "drop_duplicates": True}
    outputs = []
    for name, cuts in (("whole", [None]), ("cut", [0, 1, None])):
        corpus = write(tmp_path / "in", b="bb", d="dd", x="bb")
        output = tmp_path / name
        make_dataset(output, corpus, **options)
        write(corpus, a="aa", c="bb")
        for max_units in cuts:
            make_dataset(output, corpus, max_units=max_units, **options)
        remove_found(output)
        outputs.append(dataset_files(output))
        assert documents(output) == [("b.txt", "bb"), ("d.txt", "dd"), ("a.txt", "aa")]
        for path in (corpus / "a.txt", corpus / "c.txt"):
            path.unlink()
    assert outputs[0] == outputs[1]


def test_a_killed_run_may_grow_too(tmp_path):
    corpus = write(tmp_path / "in", b="bbb", d="ddd")
    output = make_dataset(tmp_path / "out", corpus, target_shard_bytes=3, max_units=1)
    write(corpus, a="aaa")
    make_dataset(output, corpus, target_shard_bytes=3)
    assert [doc_id for doc_id, _ in documents(output)] == ["b.txt", "d.txt", "a.txt"]


def test_a_changed_file_is_refused_and_named(tmp_path):
    corpus = write(tmp_path / "in", b="bb", d="dd")
    output = make_dataset(tmp_path / "out", corpus)
    write(corpus, d="longer")
    with pytest.raises(UserError, match=r"d\.txt \(had 2 bytes, has 6\).*--overwrite"):
        make_dataset(output, corpus)
    write(corpus, d="DD")
    os.utime(corpus / "d.txt", ns=(1, 1))
    with pytest.raises(UserError, match=r"d\.txt \(was modified\)"):
        make_dataset(output, corpus)
    make_dataset(output, corpus, overwrite=True)
    assert documents(output) == [("b.txt", "bb"), ("d.txt", "DD")]


def test_a_file_that_was_only_touched_is_the_same(tmp_path):
    corpus = write(tmp_path / "in", b="bb", d="dd")
    (corpus / "z.txt.gz").write_bytes(gzip.compress(b"zz", mtime=0))
    output = make_dataset(tmp_path / "out", corpus)
    before = dataset_files(output)
    for path in corpus.iterdir():
        os.utime(path, ns=(5, 5))
    make_dataset(output, corpus)
    assert dataset_files(output) == before


def test_a_file_that_changed_before_it_was_encoded_is_planned_anew(tmp_path):
    corpus = write(tmp_path / "in", b="bbb", d="ddd")
    output = make_dataset(tmp_path / "out", corpus, target_shard_bytes=3, max_units=1)
    write(corpus, d="other")
    make_dataset(output, corpus, target_shard_bytes=3)
    assert documents(output) == [("b.txt", "bbb"), ("d.txt", "other")]
    assert [len(u["payload"]["files"]) for u in read_json(output / "_plan.json")["units"]] == [
        1,
        0,
        1,
    ]


def test_but_not_where_units_depend_on_one_another(tmp_path):
    corpus = write(tmp_path / "in", b="bbb", d="ddd")
    options = {"target_shard_bytes": 3, "drop_duplicates": True}
    output = make_dataset(tmp_path / "out", corpus, max_units=1, **options)
    write(corpus, d="other")
    with pytest.raises(UserError, match=r"d\.txt \(had 3 bytes, has 5\)"):
        make_dataset(output, corpus, **options)


def test_a_vanished_file_is_refused_and_named(tmp_path):
    corpus = write(tmp_path / "in", b="bb", d="dd")
    output = make_dataset(tmp_path / "out", corpus)
    (corpus / "b.txt").unlink()
    with pytest.raises(UserError, match=r"b\.txt, no longer among the inputs.*--overwrite"):
        make_dataset(output, corpus)
    with pytest.raises(UserError, match=r"b\.txt, no longer"):
        make_dataset(output, corpus / "d.txt")


def test_other_words_for_the_same_files_are_the_same_input(tmp_path, monkeypatch):
    corpus = write(tmp_path / "in", b="bb", d="dd")
    output = make_dataset(tmp_path / "out", corpus)
    before = dataset_files(output)
    make_dataset(output, corpus / "d.txt", corpus / "b.txt")
    monkeypatch.chdir(tmp_path)
    make_dataset(output, "in/*.txt")
    assert dataset_files(output) == before


def rename(corpus, to):
    corpus.rename(to)


def copy(corpus, to):
    shutil.copytree(corpus, to, copy_function=shutil.copyfile)
    shutil.rmtree(corpus)


def link(corpus, to):
    corpus.rename(corpus.with_name("real"))
    to.symlink_to(corpus.with_name("real"))


@pytest.mark.parametrize("move", [rename, copy, link])
@pytest.mark.parametrize("num_done", [None, 2, 0])
def test_a_corpus_that_lies_elsewhere_is_the_same(move, num_done, tmp_path):
    names = dict.fromkeys("abcdef", "some text")
    unmoved = make_dataset(tmp_path / "whole", write(tmp_path / "in", **names), **SMALL)
    output = make_dataset(tmp_path / "out", tmp_path / "in", max_units=num_done, **SMALL)
    move(tmp_path / "in", tmp_path / "elsewhere")
    make_dataset(output, tmp_path / "elsewhere", **SMALL)
    assert shards(output) == shards(unmoved)
    for name in ("_sources.parquet", "_rejects.parquet"):
        assert (output / name).read_bytes() == (unmoved / name).read_bytes()
    before = dataset_files(output)
    make_dataset(output, tmp_path / "elsewhere", **SMALL)
    write(tmp_path / "elsewhere", g="new")
    make_dataset(output, tmp_path / "elsewhere", **SMALL)
    assert set(shards(output).items()) > {i for i in before.items() if i[0].startswith("bytes-")}
    assert documents(output)[-1] == ("g.txt", "new")


def test_what_changed_on_the_way_is_refused(tmp_path):
    output = make_dataset(tmp_path / "out", write(tmp_path / "in", a="aa", b="bb"), **SMALL)
    copy(tmp_path / "in", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "b.txt").write_text("bc")
    with pytest.raises(UserError, match=r"elsewhere/b\.txt \(was modified\)"):
        make_dataset(output, tmp_path / "elsewhere", **SMALL)
    (tmp_path / "elsewhere" / "b.txt").unlink()
    with pytest.raises(UserError, match=r"in/b\.txt, no longer among the inputs"):
        make_dataset(output, tmp_path / "elsewhere", **SMALL)


@pytest.mark.parametrize("num_done", [None, 2])
def test_where_units_depend_on_one_another_a_copy_must_keep_its_times(num_done, tmp_path):
    names = {"a": "aa", "b": "bb", "c": "aa", "d": "dd"}
    options = {"drop_duplicates": True, **SMALL}
    write(tmp_path / "in", **names)
    unmoved = make_dataset(tmp_path / "whole", tmp_path / "in", **options)
    output = make_dataset(tmp_path / "out", tmp_path / "in", max_units=num_done, **options)
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere")  # with their times
    make_dataset(output, tmp_path / "elsewhere", **options)
    assert shards(output) == shards(unmoved)


def test_a_new_file_of_an_old_name_is_called_by_its_path(tmp_path):
    first = write(tmp_path / "one", a="old")
    output = make_dataset(tmp_path / "out", first)
    second = write(tmp_path / "two", a="new")
    make_dataset(output, first, second)
    assert documents(output) == [("a.txt", "old"), ("two/a.txt", "new")]


def test_a_split_file_that_was_touched_is_compared_range_by_range(tmp_path):
    corpus = write(tmp_path / "in", b="one\ntwo\nthree\n")
    options = {"doc_per": "line", "target_shard_bytes": 5}
    output = make_dataset(tmp_path / "out", corpus, **options)
    os.utime(corpus / "b.txt", ns=(5, 5))
    make_dataset(output, corpus, **options)
    write(corpus, b="one\ntwo\nthrEe\n")
    os.utime(corpus / "b.txt", ns=(6, 6))
    with pytest.raises(UserError, match=r"b\.txt \(was modified\)"):
        make_dataset(output, corpus, **options)


LIMITED = {"doc_per": "line", "target_shard_bytes": 8, "min_bytes": 2}


@pytest.mark.parametrize("limit", range(1, 8))
def test_the_limit_is_the_first_documents_in_the_order_of_the_plan(tmp_path, limit):
    corpus = write(tmp_path / "in", a="a0\na\na1\n", b="b0\nb1\nb2\nb3\nb4\n", c="c0\n")
    whole = make_dataset(tmp_path / "whole", corpus, **LIMITED)
    output = make_dataset(tmp_path / "out", corpus, limit=limit, **LIMITED)
    assert documents(output) == documents(whole)[:limit]
    totals = read_manifest(output).totals
    assert totals["records"] == totals["documents"] + totals["filtered"]
    write(corpus, d="d0\n")
    make_dataset(output, corpus, limit=limit, **LIMITED)
    assert documents(output) == documents(whole)[:limit]


def test_a_limit_that_is_not_reached_grows_up_to_it(tmp_path):
    corpus = write(tmp_path / "in", b="b0\nb1\n")
    output = make_dataset(tmp_path / "out", corpus, limit=4, **LIMITED)
    write(corpus, a="a0\na1\na2\n")
    make_dataset(output, corpus, limit=4, **LIMITED)
    assert [text for _, text in documents(output)] == ["b0", "b1", "a0", "a1"]
    shutil.rmtree(output)
    make_dataset(output, corpus, limit=4, **LIMITED)
    assert [text for _, text in documents(output)] == ["a0", "a1", "a2", "b0"]


def test_a_new_file_does_not_take_the_name_of_an_old_one(tmp_path):
    write(tmp_path / "in", a="new")
    write(tmp_path / "in" / "one", a="old")
    output = make_dataset(tmp_path / "out", tmp_path / "in" / "one" / "a.txt")
    make_dataset(output, tmp_path / "in")
    assert documents(output) == [("a.txt", "old"), (f"{tmp_path}/in/a.txt", "new")]
