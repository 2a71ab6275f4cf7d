"""Duplicates are found exactly: against a loop over all documents with a set."""

import gzip
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.corpus import EncodeConfig, build_plan, discover_inputs, encode_unit
from blt.corpus.admission import duplicates as module
from blt.corpus.admission.duplicates import find_duplicates, remove_found, scan_unit
from blt.dataset.units import Unit
from blt.errors import WorkError
from blt.formats.byte_shard import read_documents
from tests.blt.corpus.helpers import read_back


def write(folder, *files):
    folder.mkdir()
    for number, rows in enumerate(files):
        lines = [json.dumps({"id": i, "text": t}) + "\n" for i, t in rows]
        # Compressed, so that no file is split: one is one unit, however small a unit shall be.
        data = gzip.compress("".join(lines).encode(), mtime=0)
        (folder / f"{number:03d}.jsonl.gz").write_bytes(data)
    return folder


def make_units(folder, config):
    payloads = build_plan(discover_inputs([folder]).files, config)
    return [
        Unit.make(index=i, payload=p, num_bytes=0, digest=f"{i} {config}")
        for i, p in enumerate(payloads)
    ]


def encode_all(folder, output, **options):
    """Returns (id, text) of the documents, the reasons of rejects, and the summed counts."""
    config = EncodeConfig(target_shard_bytes=1, **options)  # a file a unit
    units = make_units(folder, config)
    find_duplicates(units, config, output)
    documents, totals = [], {}
    for unit in reversed(units):  # the order must not matter
        result = encode_unit(unit.payload, config, output, unit.index)
        found = [
            read_back(parts)[:2] for s in result.shards for parts in read_documents(output / s.name)
        ]
        documents = found + documents
        totals = {key: totals.get(key, 0) + value for key, value in result.counts.items()}
    return [(doc_id, raw.decode()) for doc_id, raw in documents], totals


def expected(files, drop, on_id):
    """What encoding must give, in the plainest way."""
    texts, ids, documents = set(), {}, []
    for doc_id, text in (row for rows in files for row in rows):
        if drop and text in texts:
            continue
        texts.add(text)
        ids[doc_id] = ids.get(doc_id, 0) + 1
        if on_id == "reject" and ids[doc_id] > 1:
            continue
        if on_id == "suffix" and (ids[doc_id] > 1 or re.search(r"~dup\d+\Z", doc_id)):
            doc_id = f"{doc_id}~dup{ids[doc_id]}"
        documents.append((doc_id, text))
    return documents


rows = st.tuples(
    st.sampled_from(["a", "A", "b", "", "a~dup2", "a~dup1", "a~dup2~dup1", "é", "1"]),
    st.sampled_from(["", "x", "y", "z", "w"]),
)


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(st.lists(rows, min_size=1, max_size=9), min_size=1, max_size=4),
    drop=st.booleans(),
    on_id=st.sampled_from(["keep", "suffix", "reject"]),
    run=st.integers(1, 5),
    partition=st.integers(1, 8),
)
def test_any_corpus_any_sizes(files, drop, on_id, run, partition, tmp_path_factory):
    folder = tmp_path_factory.mktemp("duplicates")
    write(folder / "in", *files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RUN_DOCUMENTS", run)
        patch.setattr(module, "PARTITION_KEYS", partition)
        found, counts = encode_all(
            folder / "in", folder / "out", drop_duplicates=drop, on_duplicate_id=on_id
        )
    assert found == expected(files, drop, on_id)
    if on_id != "keep":
        assert len({doc_id for doc_id, _ in found}) == len(found)
    assert counts["records"] == sum(map(len, files))
    assert counts["documents"] + counts["filtered"] + counts["rejects"] == counts["records"]


def test_each_is_counted_and_named(tmp_path):
    write(tmp_path / "in", [("a", "x"), ("b", "x"), ("a", "y")], [("a", "z"), ("c", "y")])
    _, counts = encode_all(
        tmp_path / "in", tmp_path / "out", drop_duplicates=True, on_duplicate_id="reject"
    )
    assert (counts["filtered_duplicate"], counts["rejects"]) == (2, 2)
    found, counts = encode_all(tmp_path / "in", tmp_path / "out2", on_duplicate_id="suffix")
    assert counts["suffixed_ids"] == 2
    assert [doc_id for doc_id, _ in found] == ["a", "b", "a~dup2", "a~dup3", "c"]


def test_a_dropped_document_does_not_hold_its_id(tmp_path):
    write(tmp_path / "in", [("a", "x"), ("b", "x"), ("b", "y")])
    found, _ = encode_all(
        tmp_path / "in", tmp_path / "out", drop_duplicates=True, on_duplicate_id="reject"
    )
    assert found == [("a", "x"), ("b", "y")]


def test_filtered_documents_are_not_looked_at(tmp_path):
    write(tmp_path / "in", [("a", "long text"), ("a", "x"), ("b", "long text")])
    found, _ = encode_all(tmp_path / "in", tmp_path / "out", on_duplicate_id="reject", max_bytes=5)
    assert found == [("a", "x")]


def test_one_id_for_all_documents_costs_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RUN_DOCUMENTS", 10)
    monkeypatch.setattr(module, "PARTITION_KEYS", 10)
    write(tmp_path / "in", *([("same", f"{i} {j}") for j in range(100)] for i in range(3)))
    config = EncodeConfig(target_shard_bytes=1, on_duplicate_id="reject")
    units = make_units(tmp_path / "in", config)
    for unit in units:
        scan_unit(unit, config, tmp_path)
    assert [module.sort_unit(unit.index, "ids", config, tmp_path) for unit in units] == [10] * 3


def test_a_long_document_is_compared_as_a_whole(tmp_path):
    write(tmp_path / "in", [("a", "x" * 50), ("b", "x" * 49), ("c", "x" * 50)])
    found, _ = encode_all(
        tmp_path / "in", tmp_path / "out", drop_duplicates=True, max_document_bytes=7
    )
    assert [doc_id for doc_id, _ in found] == ["a", "b"]


def test_the_input_is_read_once_more_and_only_once(tmp_path, monkeypatch):
    write(tmp_path / "in", [("a", "x")], [("a", "y")])
    config = EncodeConfig(target_shard_bytes=1, on_duplicate_id="reject")
    units = make_units(tmp_path / "in", config)
    find_duplicates(units, config, tmp_path)
    remove_found(tmp_path)
    monkeypatch.setattr(module, "Admission", None)  # the digests are there
    find_duplicates(units, config, tmp_path)
    assert sorted(p.suffix for p in (tmp_path / "_duplicates").rglob("0*-000.*")) == [
        ".digests",
        ".digests",
        ".keys",
        ".keys",
    ]


def test_encoding_before_looking_is_refused(tmp_path):
    write(tmp_path / "in", [("a", "x")])
    config = EncodeConfig(drop_duplicates=True)
    (unit,) = make_units(tmp_path / "in", config)
    with pytest.raises(WorkError, match="duplicates were not looked for"):
        encode_unit(unit.payload, config, tmp_path / "out", 0)


def test_an_input_that_changed_after_the_look_is_noticed(tmp_path):
    write(tmp_path / "in", [("a", "x"), ("b", "y")])
    config = EncodeConfig(drop_duplicates=True)
    (unit,) = make_units(tmp_path / "in", config)
    find_duplicates([unit], config, tmp_path / "out")
    path = tmp_path / "in" / "000.jsonl.gz"
    path.write_bytes(bytes(path.stat().st_size))  # of the same size
    with pytest.raises(WorkError, match="0 documents were read, but 2"):
        encode_unit(unit.payload, config, tmp_path / "out", 0)
