import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.corpus import (
    EncodeConfig,
    build_plan,
    discover_inputs,
    encode_unit,
    payload_bytes,
    payload_notes,
)
from blt.errors import UserError, WorkError
from tests.blt.corpus.helpers import encode


def plan(*inputs, **options):
    return build_plan(discover_inputs([str(i) for i in inputs]).files, EncodeConfig(**options))


def write_files(folder, **sizes):
    folder.mkdir(exist_ok=True)
    for name, size in sizes.items():
        (folder / name.replace("_", ".")).write_bytes(b"x\n" * (size // 2))
    return folder


def test_small_files_share_a_unit_and_large_ones_stand_alone(tmp_path):
    folder = write_files(tmp_path, a_txt=40, b_txt=40, c_txt=40, d_txt=300, e_txt=10)
    payloads = plan(folder, target_shard_bytes=100)
    assert [[f["source"] for f in p["files"]] for p in payloads] == [
        ["a.txt", "b.txt"],
        ["c.txt"],
        ["d.txt"],
        ["e.txt"],
    ]
    assert [payload_bytes(payload) for payload in payloads] == [80, 40, 300, 10]
    assert json.loads(json.dumps(payloads)) == payloads


def test_an_entry_says_how_to_read_the_file(tmp_path):
    path = write_files(tmp_path, a_txt=4) / "a.txt"
    ((entry,),) = [payload["files"] for payload in plan(path)]
    assert entry == {
        "path": str(path),
        "source": "a.txt",
        "size": 4,
        "mtime_ns": path.stat().st_mtime_ns,
        "format": "text",
        "compression": "plain",
        "num_bytes": 4,
    }


def test_large_files_of_lines_are_split_at_bytes(tmp_path):
    folder = write_files(tmp_path, a_jsonl=250, b_txt=250)

    def ranges(**options):
        payloads = plan(folder, target_shard_bytes=100, **options)
        return [f.get("range") for payload in payloads for f in payload["files"]]

    thirds = [[0, 83], [83, 166], [166, 250]]
    assert ranges() == [*thirds, None]
    assert ranges(doc_per="line") == thirds * 2


def test_large_parquet_files_are_split_at_row_groups(tmp_path):
    rows = {"text": [f"row {i} " * 50 for i in range(100)]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=10, compression="none")
    payloads = plan(tmp_path / "a.parquet", target_shard_bytes=3000, format="parquet")
    ranges = [payload["files"][0]["range"] for payload in payloads]
    assert len(ranges) > 3
    assert (ranges[0][0], ranges[-1][1]) == (0, 10)
    assert [end for _, end in ranges[:-1]] == [start for start, _ in ranges[1:]]
    result = encode(tmp_path / "out", tmp_path / "a.parquet", target_shard_bytes=3000)
    assert [doc_id for doc_id, _, _, _ in result.documents] == [
        f"a.parquet#{row}" for row in range(100)
    ]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("x", b'{"text": "a"}\n', "jsonl"),
        ("x", b'\xef\xbb\xbf\n  {"text": "a"}', "jsonl"),
        ("x.json", b'{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ("x.c", b"{\n  int x;\n}\n", "text"),
        ("x", b"[1]\n", "text"),
        ("x", b"", "empty"),
        ("x", b"\xff\xfe", "text"),
        ("x", b"PAR1....", "parquet"),
        ("x.PARQUET", b"", "parquet"),
        ("x.md", b'{"text": "a"}\n', "text"),
        ("x.ndjson", b"not json", "jsonl"),
        ("x.jsonl.gz", b"not gzip", "jsonl"),
        ("x.gz", b"not gzip", "text"),
    ],
)
def test_formats_are_told_by_suffix_then_by_content(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    (payload,) = plan(tmp_path / name)
    assert payload["files"][0]["format"] == expected


def test_compressed_data_without_the_suffix_is_noted(tmp_path):
    import gzip

    (tmp_path / "x.txt").write_bytes(gzip.compress(b"hello"))
    payloads = plan(tmp_path / "x.txt")
    assert payload_notes(payloads) == [
        f"{tmp_path / 'x.txt'}: gzip data without the suffix; read decompressed."
    ]
    assert [raw for _, raw, _, _ in encode(tmp_path / "o", tmp_path / "x.txt").documents] == [
        b"hello"
    ]


def test_a_file_that_changed_since_the_plan_stops_the_unit(tmp_path):
    path = write_files(tmp_path, a_txt=40) / "a.txt"
    (payload,) = plan(path)
    path.write_bytes(b"shorter")
    with pytest.raises(WorkError, match=r"a\.txt: has 7 bytes, but had 40"):
        encode_unit(payload, EncodeConfig(), tmp_path / "out", 0)
    path.unlink()
    with pytest.raises(WorkError, match=r"a\.txt: cannot be read \(No such file"):
        encode_unit(payload, EncodeConfig(), tmp_path / "out", 0)
    assert not list((tmp_path / "out").glob("**/*.*"))


def test_a_file_that_vanished_before_the_plan_is_named(tmp_path):
    path = write_files(tmp_path, a_txt=40) / "a.txt"
    found = discover_inputs([path])
    path.unlink()
    with pytest.raises(UserError, match=r"--input .*a\.txt: cannot be read"):
        build_plan(found.files, EncodeConfig())


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from([b'{"text": "a"}', b"", b"broken", b'{"text": "long %s"}' % (b"x" * 40)]),
        max_size=12,
    ),
    ended=st.booleans(),
    cuts=st.lists(st.integers(1, 400), max_size=5, unique=True),
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.txt"])
def test_any_ranges_give_the_records_of_the_whole(name, lines, ended, cuts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranges")
    data = b"\n".join(lines) + b"\n" * ended
    (folder / name).write_bytes(data)
    config = EncodeConfig(doc_per="line")
    (payload,) = plan(folder / name)
    (entry,) = payload["files"]
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    ranges = [list(pair) for pair in itertools.pairwise(bounds)]
    pieces = {"files": [{**entry, "range": r, "num_bytes": r[1] - r[0]} for r in ranges]}
    whole = encode_unit(payload, config, folder, 0)
    split = encode_unit(pieces, config, folder, 1)
    assert split.counts == whole.counts
    assert [shard.sha256 for shard in split.shards] == [shard.sha256 for shard in whole.shards]


def test_a_plan_of_far_too_many_units_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("blt.corpus.planning.plan._MAX_PIECES", 10)
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" * 10)
    assert len(plan(tmp_path, target_shard_bytes=3)) == 10
    with pytest.raises(UserError, match=r"--target-shard-bytes 1: .*a\.jsonl into 30 .*at least 3"):
        plan(tmp_path, target_shard_bytes=1)
