import base64
import datetime
import json
import subprocess
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.corpus import EncodeConfig, build_plan, discover_inputs
from blt.corpus.files import blocks, decompress
from blt.corpus.planning.plan import plan_entry
from blt.corpus.readers import parquet_reader
from blt.corpus.readers.registry import read_records
from blt.corpus.records import Document, Reject
from blt.dataset.units import no_progress
from blt.errors import WorkError
from tests.blt.corpus.helpers import encode


def encode_jsonl(tmp_path, data, **options):
    (tmp_path / "x.jsonl").write_bytes(data)
    return encode(tmp_path / "out", tmp_path / "x.jsonl", **options)


def encode_table(tmp_path, table, **options):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    return encode(tmp_path / "out", tmp_path / "x.parquet", **options)


def reasons(result):
    return [(reject["position"], reject["reason"]) for reject in result.rejects]


def test_every_kind_of_bad_line_has_its_reason_and_offset(tmp_path):
    lines = [
        b'{"text": "good"}',
        b"{",
        b"[1]",
        b"{}",
        b'{"text": null}',
        b'{"text": 7}',
        b'{"text": "\\ud800"}',
        b'{"text": "a", "id": "\\udfff"}',
        b'{"text": "\xff", "id": "\xff"}',
        b'{"text": "\xff \\ud800"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"text": "a", "id": ' + b"9" * 5000 + b"}",
        b'{"text": "last"}',
    ]
    result = encode_jsonl(tmp_path, b"\n".join(lines))
    offsets = [sum(len(line) + 1 for line in lines[:index]) for index in range(len(lines))]
    assert [doc_id for doc_id, _, _, _ in result.documents] == [
        "x.jsonl#0",
        "9" * 5000,
        f"x.jsonl#{offsets[-1]}",
    ]
    assert reasons(result) == list(
        zip(
            offsets[1:-2],
            [
                "invalid_json",
                "not_an_object",
                "missing_text",
                "null_text",
                "text_not_string",
                "lone_surrogate",
                "invalid_id",
                "invalid_id",
                "lone_surrogate",
                "too_deep",
            ],
            strict=True,
        )
    )
    assert result.rejects[0]["sample"] == b"{"
    assert len(result.rejects[-1]["sample"]) == 200


def test_a_rejected_object_says_which_fields_it_has(tmp_path):
    result = encode_jsonl(tmp_path, b'{"id": 1, "body": "x"}\n')
    assert result.rejects[0]["detail"] == "no field 'text'; it has 'id', 'body'"


def test_blank_lines_are_filtered_and_counted(tmp_path):
    result = encode_jsonl(tmp_path, b'\xef\xbb\xbf\r\n \t\n\n{"text": "a"}\r\n')
    assert result.counts["filtered"] == 3
    assert [raw for _, raw, _, _ in result.documents] == [b"a"]


def test_fields_may_be_nested_or_have_dots_in_their_names(tmp_path):
    data = b'{"doc": {"text": "in", "id": 7}}\n{"doc.text": "whole", "doc": {"text": "in"}}\n'
    result = encode_jsonl(tmp_path, data, text_field="doc.text", id_field="doc.id")
    assert [(i, raw) for i, raw, _, _ in result.documents] == [
        ("7", b"in"),
        ("x.jsonl#33", b"whole"),
    ]
    table = {"doc": [{"text": "in", "id": 7}], "meta": [{"a": {"b": 1}}]}
    result = encode_table(
        tmp_path, table, text_field="doc.text", id_field="doc.id", keep_fields=["meta.a"]
    )
    assert result.documents == [("7", b"in", "x.parquet", b'{"meta.a": {"b": 1}}')]


def test_kept_fields_become_sorted_json(tmp_path):
    data = '{"text": "a", "z": 1, "lang": "dé", "n": null}\n{"text": "b"}\n'.encode()
    result = encode_jsonl(tmp_path, data, keep_fields=("z", "lang", "n"))
    assert [meta for _, _, _, meta in result.documents] == [
        '{"lang": "dé", "n": null, "z": 1}'.encode(),
        None,
    ]


def test_parquet_values_that_json_lacks_become_strings(tmp_path):
    table = {
        "text": ["a"],
        "id": [datetime.date(2020, 1, 2)],
        "raw": [b"\xff"],
        "name": pa.array([b"caf\xc3\xa9"]).cast(pa.string()),
    }
    result = encode_table(tmp_path, table, keep_fields=("raw", "name"))
    ((doc_id, _, _, meta),) = result.documents
    assert doc_id == "2020-01-02"
    assert json.loads(meta) == {"raw": "\\xff", "name": "café"}


def test_parquet_ids_that_are_not_utf8_are_rejected(tmp_path):
    result = encode_table(tmp_path, {"text": ["a", "b"], "id": [b"\xff", b"ok"]})
    assert [doc_id for doc_id, _, _, _ in result.documents] == ["ok"]
    assert reasons(result) == [(0, "invalid_id")]


def test_parquet_text_that_is_not_utf8_keeps_its_bytes(tmp_path):
    array = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    )
    assert encode_table(tmp_path, {"text": array}).documents[0][1] == b"\xff\xfe"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_every_type_of_text_is_read(tmp_path, kind, is_dictionary):
    array = pa.array(["a", None, "ü", ""]).cast(kind)
    array = array.dictionary_encode() if is_dictionary else array
    result = encode_table(tmp_path, {"text": array})
    assert [raw for _, raw, _, _ in result.documents] == [b"a", "ü".encode(), b""]
    assert reasons(result) == [(1, "null_text")]


def test_an_altered_page_of_parquet_is_noticed(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"text": [f"row number {i}" for i in range(1000)]})
    pq.write_table(
        table,
        path,
        row_group_size=100,
        compression="none",
        write_page_checksum=True,
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"row number 555")] ^= 1
    path.write_bytes(data)
    result = encode(tmp_path / "out", path)
    assert [i for i, *_ in result.documents] == [
        f"x.parquet#{i}" for i in range(1000) if not 500 <= i < 600
    ]
    assert reasons(result) == [(500, "damaged_input")]
    assert (result.counts["lost_records"], result.counts["input_records"]) == (100, 1000)
    assert result.counts["damaged_files"] == 1


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_no_altered_byte_of_a_parquet_file_loses_rows_in_silence(use_dictionary, tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"text": ["one", "two", "one"], "id": ["a", "b", "c"]})
    pq.write_table(table, path, compression="none", use_dictionary=use_dictionary)
    data = path.read_bytes()
    for position in range(len(b"PAR1"), len(data) - 8):
        for value in {0, 0xFF, data[position] ^ 1, data[position] ^ 0x40} - {data[position]}:
            path.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            (payload,) = build_plan(discover_inputs([path]).files, EncodeConfig())
            records = list(read_records(payload["files"][0], EncodeConfig(), lambda n: None))
            rejects = [record for record in records if isinstance(record, Reject)]
            found = sum(reject.num_records for reject in rejects) + len(records) - len(rejects)
            assert found == 3 or any(reject.is_damage for reject in rejects), (position, value)


def test_an_index_of_a_dictionary_that_points_nowhere_is_damage(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"text": ["a", "b"], "tag": pa.array(["x", "x"]).dictionary_encode()}),
        path,
        compression="none",
    )
    data = bytearray(path.read_bytes())
    indices = data.rindex(b"\x02\x00\x00\x00\x04\x01") + 6  # a run of two, of index 0, 0 or 1 bit
    assert data[indices : indices + 3] == b"\x01\x04\x00"
    data[indices + 2] = 1
    path.write_bytes(data)
    result = encode(tmp_path / "out", path, keep_fields=("tag",))
    assert [reject["reason"] for reject in result.rejects] == ["damaged_input"]


# Found by altering bytes: asked for a column's sizes, pyarrow ends the process.
_ENDS_THE_PROCESS = """
UEFSMRUAFRYVFiwVAhUAFQYVBhw2ACgBYRgBYRERAAAAAgAAAAIBAQAAAGEVBBksNQAYBnNjaGVtYRUCABUMJAIYBHRleHQl
AEwcAAAAFgIZHBkcJgAcFQwZJQYAGRgEdGV4dBUAFgIWUBZQJgg8NgAoAWEYAWEREQAZHBUAFQAVAgA8FgIZBhkmAAIAAAAW
UBYCJggWUAAoIHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24gMjUuMC4xGRwcAAAAlAAAAFBBUjE="""


def test_damaged_metadata_of_a_column_do_not_end_the_process(tmp_path):
    (tmp_path / "x.parquet").write_bytes(base64.b64decode(_ENDS_THE_PROCESS))
    script = (
        "import sys; from pathlib import Path; from tests.blt.corpus.helpers import encode; "
        "r = encode(Path(sys.argv[1]), sys.argv[2], target_shard_bytes=50); "
        "print(len(r.documents), [x['reason'] for x in r.rejects])"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "out"), str(tmp_path / "x.parquet")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("0 ['damaged_input']", "1 []")


def test_a_bad_file_does_not_stop_the_files_beside_it(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "c"):
        pq.write_table(pa.table({"text": ["x"]}), tmp_path / "in" / f"{name}.parquet")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "in" / "b.parquet")
    (tmp_path / "in" / "d.parquet.gz").write_bytes(b"whatever")
    result = encode(tmp_path / "out", tmp_path / "in")
    assert [source for _, _, source, _ in result.documents] == ["a.parquet", "c.parquet"]
    assert [(r["source"], r["reason"], r["detail"]) for r in result.rejects] == [
        ("b.parquet", "missing_column", "no column 'text'; it has 'body'"),
        (
            "d.parquet.gz",
            "damaged_input",
            "a Parquet file inside gzip cannot be read; decompress it first",
        ),
    ]


def test_a_json_line_over_the_limit_is_rejected_with_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_PARSED_BYTES_FLOOR", 1000)
    data = b'{"text": "a"}\n' + b"x" * 3_000_000 + b'\n{"text": "b"}\n'
    result = encode_jsonl(tmp_path, data, max_document_bytes=100)
    assert len(result.documents) == 2
    assert reasons(result) == [(14, "too_long")]
    assert result.rejects[0]["sample"] == b"x" * 200
    assert result.rejects[0]["detail"] == (
        "the record has 3000000 bytes, and 1000 can be parsed; --max-document-bytes raises the "
        "limit"
    )


def test_a_text_file_that_grows_while_it_is_read_stops_the_unit(tmp_path, monkeypatch):
    def growing(path, compression, **options):
        yield b"x" * 1001

    monkeypatch.setattr(blocks, "read_blocks", growing)
    (tmp_path / "x.txt").write_bytes(b"x" * 1000)
    with pytest.raises(WorkError, match=r"x\.txt: changed while it was read"):
        encode(tmp_path / "out", tmp_path / "x.txt", max_document_bytes=100)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_rows_that_share_a_text_are_no_bomb(tmp_path, suffix):
    """However small the file is for its rows, as what is held stays small."""
    texts = pa.array(["x" * 495]).dictionary_encode()
    indices = pa.array([0] * 200_000, pa.int8())
    table = pa.table({"text": pa.DictionaryArray.from_arrays(indices, texts.dictionary)})
    path = tmp_path / f"x.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path, compression="zstd")
        assert path.stat().st_size < 99_000_000 // 5000
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(path, table.schema, options=options) as writer:
            writer.write_table(table)
    (payload,) = build_plan(discover_inputs([path]).files, EncodeConfig())
    tracemalloc.start()
    records = read_records(payload["files"][0], EncodeConfig(), lambda n: None)
    assert sum(isinstance(record, Document) for record in records) == 200_000
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_a_row_group_that_says_that_it_is_too_large_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_reader, "_FREE_GROUP_BYTES", 1 << 20)
    monkeypatch.setattr(decompress, "FREE_OUTPUT_BYTES", 1 << 20)
    path = tmp_path / "x.parquet"
    table = pa.table({"text": ["a", "b" * (1 << 22), "c"]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=1)
    result = encode(tmp_path / "out", path)
    assert [raw for _, raw, _, _ in result.documents] == [b"a", b"c"]
    assert reasons(result) == [(1, "too_compressed")]


def test_a_byte_order_mark_where_files_were_joined_is_passed_over(tmp_path):
    joined = b'\xef\xbb\xbf{"id": "a", "text": "A"}\n' * 2
    result = encode_jsonl(tmp_path, joined)
    assert [raw for _, raw, _, _ in result.documents] == [b"A", b"A"]


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array([1, 1000], pa.timestamp("ns")), [".000000001", ".000001"]),
        (pa.array([2**62, 0], pa.timestamp("us")), [f"{2**62} us", "1970-01-01 00:00:00"]),
        (pa.array([1, 2], pa.timestamp("ms", tz="Mars/X")), ["00:00:00.001+00:00", ".002+00:00"]),
        (pa.array([2**31 - 1, 3], pa.int32()).cast(pa.date32()), [f"{2**31 - 1} days", "-01-04"]),
        (pa.array([1, 1000], pa.time64("ns")), ["00:00:00.000000001", "00:00:00.000001"]),
        (pa.array([1, 1000], pa.duration("ns")), ["1 ns", "0:00:00.000001"]),
    ],
)
def test_times_that_python_does_not_have_are_no_damage(tmp_path, values, ids):
    result = encode_table(tmp_path, {"text": ["a", "b"], "id": values}, keep_fields=("id",))
    assert not result.rejects
    for (doc_id, _, _, meta), wanted in zip(result.documents, ids, strict=True):
        assert doc_id == json.loads(meta)["id"]
        assert doc_id.endswith(wanted)


def test_times_inside_fields_are_the_same_with_pandas_and_without(tmp_path):
    """Was: cut to microseconds, 00:00:00, where pandas is installed."""
    times = pa.array([[1, None], [1000]], pa.list_(pa.time64("ns")))
    result = encode_table(tmp_path, {"text": ["a", "b"], "x": times}, keep_fields=("x",))
    assert [json.loads(meta)["x"] for _, _, _, meta in result.documents] == [
        ["00:00:00.000000001", None],
        ["00:00:00.000001"],
    ]


def test_kept_fields_may_hold_text_that_is_not_utf8_at_any_depth(tmp_path):
    inner = pa.array([b"ok", b"\xff", b"z"]).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), inner)
    structs = pa.StructArray.from_arrays([lists, pa.array([1, 2])], names=["a", "b"])
    table = {"text": ["A", "B"], "x": structs}
    result = encode_table(tmp_path, table, keep_fields=("x",))
    assert [json.loads(meta)["x"] for _, _, _, meta in result.documents] == [
        {"a": ["ok"], "b": 1},
        {"a": ["\\xff", "z"], "b": 2},
    ]


def test_text_is_read_whatever_its_column_means_and_however_it_is_packed(tmp_path):
    fixed = pa.array([b"abc", b"\xff\xff\xff"], pa.binary(3))
    result = encode_table(tmp_path, {"text": fixed})
    assert [raw for _, raw, _, _ in result.documents] == [b"abc", b"\xff\xff\xff"]


def test_a_file_that_changes_while_it_is_read_fails_its_unit(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 3)
    config = EncodeConfig()
    entry = plan_entry(discover_inputs([str(path)]).files[0], config)
    records = read_records(entry, config, no_progress)
    next(records)
    path.write_bytes(b'{"text": "b"}\n')
    with pytest.raises(WorkError, match=r"x\.jsonl: changed while it was read"):
        list(records)
