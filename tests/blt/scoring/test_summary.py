"""The figures of a corpus and of its groups, from shards that are made here."""

import json
import math
import tracemalloc

import numpy as np
import pytest

from blt.dataset.groups import describe_bounds
from blt.errors import WorkError
from blt.formats.scores import ScoresRow, ScoresWriter
from blt.scoring import summary as summaries
from blt.scoring.percentiles import BIN_BITS, Percentiles
from blt.scoring.summary import summarize_scores


def write_scores(path, rows):
    """Writes a shard of (source, meta, number of bytes, nats)."""
    writer = ScoresWriter(path, metadata={})
    for number, (source, meta, num_bytes, nats) in enumerate(rows):
        writer.write(
            ScoresRow(
                doc_id=str(number),
                num_bytes=num_bytes,
                scored_bytes=num_bytes,
                nats=nats,
                eos_nats=0.1,
                num_patches=num_bytes // 3,
                zlib_bytes=num_bytes // 2,
                source=source,
                meta=meta if meta is None else json.dumps(meta).encode(),
            )
        )
    writer.close()
    return path


def documents_by_value(group):
    return {value: figures["documents"] for value, figures in group["values"].items()}


def test_groups_of_a_kept_field_called_source_are_the_users(tmp_path):
    metas = ({"source": "web"}, {"source": ["x"]}, {"source": None}, None)
    path = write_scores(tmp_path / "s.parquet", [("a.jsonl", meta, 4, 1.0) for meta in metas])
    names = ["source", "input_source"]
    by = summarize_scores([path], by=names, input_name="input_source")["by"]
    assert documents_by_value(by["input_source"]) == {"a.jsonl": 4}
    assert documents_by_value(by["source"]) == {"web": 1, '["x"]': 1, "": 2}
    assert [by[name]["with_field"] for name in names] == [2, 4]


def test_groups_beyond_the_bounds_are_one_and_no_document_is_lost(tmp_path):
    sizes = {"a": 10, "b": 30, "c": 20, "d": 99, "e": 40}
    rows = [("in", {"host": host}, size, 2.0 * size) for host, size in sizes.items()]
    path = write_scores(tmp_path / "s.parquet", [*rows, *rows])
    # The first four are followed, and the two with the most bytes are shown.
    summary = summarize_scores([path], by=["host"], max_groups=2, max_followed=4)
    hosts = summary["by"]["host"]
    assert documents_by_value(hosts) == {"d": 2, "b": 2}
    assert list(hosts["values"]) == ["d", "b"]
    assert hosts["left_out"] is None
    assert (hosts["other"]["documents"], hosts["other"]["bytes"]) == (6, 140)
    assert hosts["other"]["bits_per_byte"] == pytest.approx(2 / math.log(2))
    assert hosts["other"]["mean_patch_bytes"] == 140 / (2 * (3 + 6 + 13))
    (line,) = describe_bounds(summary)
    assert line.startswith(
        "by host: 2 groups shown, the others (more than are followed) are summed"
    )
    assert line.endswith("as other: 6 documents, 140 B")
    # Where all could be followed, the number of those that are not shown is known.
    hosts = summarize_scores([path], by=["host"], max_groups=2, max_followed=5)["by"]["host"]
    assert (hosts["left_out"], hosts["other"]["documents"]) == (3, 6)
    hosts = summarize_scores([path], by=["host"])["by"]["host"]
    assert (hosts["left_out"], hosts["other"], len(hosts["values"])) == (0, None, 5)
    assert describe_bounds({"by": {"host": hosts}}) == []


def test_long_names_are_cut_and_go_on_to_differ(tmp_path):
    names = ["x" * 10_000 + "1", "x" * 10_000 + "2", "x" * 200]
    rows = [("in", {"url": name}, 5, 1.0) for name in names]
    url = summarize_scores([write_scores(tmp_path / "s.parquet", rows)], by=["url"])["by"]["url"]
    assert [len(name) for name in url["values"]] == [200] * 3
    assert sum("…" in name for name in url["values"]) == url["cut_names"] == 2
    assert describe_bounds({"by": {"url": url}}) == [
        "by url: 2 names longer than 200 characters, cut"
    ]


@pytest.mark.parametrize("cuts", [(0, 1, 700), (350, 351), (699,)])
def test_the_summary_does_not_depend_on_where_shards_end(tmp_path, cuts, monkeypatch):
    monkeypatch.setattr(summaries, "_BLOCK_DOCUMENTS", 64)
    rng = np.random.default_rng(0)
    rows = [
        (f"in-{i % 3}", {"host": f"h{rng.integers(400)}"}, int(size), float(rng.random() * size))
        for i, size in enumerate(rng.integers(0, 3000, 700))
    ]
    options = {"by": ["host", "source"], "max_groups": 20, "max_followed": 50}
    whole = summarize_scores([write_scores(tmp_path / "whole", rows)], **options)
    pieces = np.split(np.arange(700), cuts)
    paths = [
        write_scores(tmp_path / str(number), [rows[row] for row in piece])
        for number, piece in enumerate(pieces)
    ]
    assert summarize_scores(paths, **options) == whole


def test_memory_does_not_grow_with_the_documents(tmp_path):
    def peak(paths):
        tracemalloc.start()
        summarize_scores(paths, by=["url", "source"], max_groups=10, max_followed=100)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    rows = [(f"in-{i}", {"url": f"https://{i}/" + "x" * 50}, 10, 9.0) for i in range(20_000)]
    path = write_scores(tmp_path / "s.parquet", rows)
    peak([path])  # imports
    # Documents cost eight bytes each, until there are a million.
    assert peak([path] * 3) < 1.2 * peak([path]) + 8 * 3 * len(rows)


def test_meta_is_read_only_for_groups_that_need_it(tmp_path):
    path = write_scores(tmp_path / "s.parquet", [("in", None, 5, 1.0)])
    writer = ScoresWriter(path, metadata={})
    writer.write(ScoresRow("a", 5, 5, 1.0, 0.0, None, 5, meta=b"{broken", source="in"))
    writer.close()
    assert documents_by_value(summarize_scores([path], by=["source"])["by"]["source"]) == {"in": 1}
    with pytest.raises(WorkError, match=r"s\.parquet: meta is not JSON"):
        summarize_scores([path], by=["lang"])


def test_percentiles_of_very_many_documents_are_within_half_a_bin():
    figures = np.random.default_rng(1).gamma(4, 0.6, 5000)
    exact, rough = Percentiles(), Percentiles(exact_figures=1000)
    for piece in np.split(figures, 10):
        exact.add(piece)
        rough.add(piece)
    assert exact.of(5, 50, 99) == pytest.approx(np.percentile(figures, (5, 50, 99)), rel=1e-12)
    assert (exact.error_bits, rough.error_bits) == (0.0, BIN_BITS / 2)
    ordered = np.sort(figures)
    for percent, found in zip((1, 50, 99), rough.of(1, 50, 99), strict=True):
        assert abs(found - ordered[round(percent / 100 * 4999)]) <= rough.error_bits + 1e-9
    rough.add(np.array([1e9]))  # more than there are bins for
    assert rough.of(100) == [pytest.approx(256, abs=0.01)]
