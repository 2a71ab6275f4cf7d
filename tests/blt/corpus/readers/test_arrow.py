import gzip
import io
import tracemalloc

import pyarrow as pa
import pyarrow.feather
import pytest

from blt.corpus import EncodeConfig, build_plan, discover_inputs
from blt.corpus.readers.registry import read_records
from tests.blt.corpus.helpers import encode

ROWS = {"id": ["a", None, "c"], "text": ["one", "", "dréi"], "n": [1, 2, 3]}


def write_file(path, table, **options):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema, **options) as file:
        for batch in table.to_batches():
            file.write_batch(batch)
    return path


def stream_bytes(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def texts(result):
    return [(doc_id, raw) for doc_id, raw, _, _ in result.documents]


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_files_streams_and_feather_give_the_rows(tmp_path, compression):
    table = pa.concat_tables([pa.table(ROWS), pa.table(ROWS)])
    options = {"options": pa.ipc.IpcWriteOptions(compression=compression)}
    write_file(tmp_path / "x.arrow", table, **options)
    pyarrow.feather.write_feather(table, tmp_path / "x.feather", compression or "uncompressed")
    (tmp_path / "x.arrows").write_bytes(stream_bytes(table))
    (tmp_path / "x.arrows.gz").write_bytes(gzip.compress(stream_bytes(table)))
    (tmp_path / "unnamed").write_bytes((tmp_path / "x.arrow").read_bytes())
    for name in ("x.arrow", "x.feather", "x.arrows", "x.arrows.gz", "unnamed"):
        result = encode(tmp_path / f"out-{name}", tmp_path / name, keep_fields=("n",))
        assert texts(result) == [
            ("a", b"one"),
            (f"{name}#1", b""),
            ("c", "dréi".encode()),
            ("a", b"one"),
            (f"{name}#4", b""),
            ("c", "dréi".encode()),
        ]
        assert result.documents[2][3] == b'{"n": 3}'


def test_streams_in_a_row_are_one_input_and_what_else_follows_is_damage(tmp_path):
    stream = stream_bytes(pa.table(ROWS))
    (tmp_path / "two.arrows").write_bytes(stream + stream)
    assert len(encode(tmp_path / "two", tmp_path / "two.arrows").documents) == 6
    (tmp_path / "bad.arrows").write_bytes(stream + b"what is this?")
    result = encode(tmp_path / "bad", tmp_path / "bad.arrows")
    assert len(result.documents) == 3
    assert [(r["position"], r["reason"]) for r in result.rejects] == [(2, "damaged_input")]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view()]
)
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_every_type_of_text_is_read(tmp_path, kind, is_dictionary):
    array = pa.array(["a", None, "ü", ""]).cast(kind)
    if is_dictionary and kind != pa.string_view():
        array = array.dictionary_encode()
    result = encode(tmp_path / "out", write_file(tmp_path / "x.arrow", pa.table({"text": array})))
    assert [raw for _, raw, _, _ in result.documents] == [b"a", "ü".encode(), b""]
    assert [(r["position"], r["reason"]) for r in result.rejects] == [(1, "null_text")]


def test_text_that_is_not_utf8_keeps_its_bytes(tmp_path):
    array = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    )
    index = pa.array([0], pa.int32())
    columns = {"a": array, "b": pa.DictionaryArray.from_arrays(index, array)}
    for name, column in columns.items():
        path = write_file(tmp_path / f"{name}.arrow", pa.table({"text": column}))
        assert encode(tmp_path / name, path).documents[0][1] == b"\xff\xfe"


def test_fields_inside_objects_are_found(tmp_path):
    table = pa.table({"doc": [{"text": "in", "id": 7}], "other": [1]})
    path = write_file(tmp_path / "x.arrow", table)
    result = encode(tmp_path / "out", path, text_field="doc.text", id_field="doc.id")
    assert texts(result) == [("7", b"in")]


def test_files_that_cannot_be_used_are_named_by_one_reject(tmp_path):
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    cases = {
        "missing.arrow": (pa.table({"body": ["x"]}), "missing_column"),
        "type.arrow": (pa.table({"text": [1]}), "column_type"),
        "twice.arrow": (twice, "missing_column"),
    }
    for name, (table, reason) in cases.items():
        result = encode(tmp_path / f"out-{name}", write_file(tmp_path / name, table))
        assert [(r["source"], r["reason"]) for r in result.rejects] == [(name, reason)]
    whole = write_file(tmp_path / "x.arrow", pa.table(ROWS)).read_bytes()
    (tmp_path / "cut.arrow").write_bytes(whole[:-20])
    (tmp_path / "in.arrow.gz").write_bytes(gzip.compress(whole))
    (tmp_path / "none.arrow").write_bytes(b"")
    for name in ("cut.arrow", "in.arrow.gz", "none.arrow"):
        result = encode(tmp_path / f"out-{name}", tmp_path / name)
        assert [r["reason"] for r in result.rejects] == ["damaged_input"]


def test_a_file_that_is_cut_keeps_the_batches_before_the_cut(tmp_path):
    table = pa.table({"text": [f"text {number}" for number in range(6)]})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    whole, found = sink.getvalue(), []
    path = tmp_path / "x.arrow"
    for cut in range(10, len(whole), 60):
        path.write_bytes(whole[:cut])
        result = encode(tmp_path / f"out-{cut}", path)
        found.append(len(result.documents))
        assert [raw for _, raw in texts(result)] == [f"text {n}".encode() for n in range(found[-1])]
        assert [r["reason"] for r in result.rejects] == ["damaged_input"]
    assert sorted(found) == found
    assert set(found) == {0, 2, 4, 6}


@pytest.mark.parametrize("wrong", [(0, 5, 0x70000000), (0, -1, 11), (0, 50, 11)])
def test_an_offset_that_points_elsewhere_is_damage(tmp_path, wrong):
    def as_bytes(offsets):
        return b"".join(n.to_bytes(4, "little", signed=True) for n in offsets)

    table = pa.table({"text": ["first", "second"]})
    whole = write_file(tmp_path / "x.arrow", table).read_bytes()
    assert whole.count(as_bytes((0, 5, 11))) == 1
    (tmp_path / "y.arrow").write_bytes(whole.replace(as_bytes((0, 5, 11)), as_bytes(wrong)))
    result = encode(tmp_path / "out", tmp_path / "y.arrow")
    assert [r["reason"] for r in result.rejects] == ["damaged_input"]


@pytest.mark.parametrize("kind", ["dictionary", "view"])
def test_a_long_value_that_many_rows_share_is_not_held_for_each(tmp_path, kind):
    array = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), ["x" * (1 << 20)])
    if kind == "view":
        # Prefix, buffer and offset of each value are the same, so that they share the bytes.
        view = (1 << 20).to_bytes(4, "little") + b"xxxx" + bytes(8)
        buffers = [None, pa.py_buffer(view * 200), pa.py_buffer(b"x" * (1 << 20))]
        array = pa.Array.from_buffers(pa.binary_view(), 200, buffers)
    path = write_file(tmp_path / "x.arrow", pa.table({"text": array}))
    config = EncodeConfig()
    (payload,) = build_plan(discover_inputs([path]).files, config)
    tracemalloc.start()
    records = read_records(payload["files"][0], config, lambda n: None)
    num_bytes = sum(len(part) for record in records for part in record.parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_bytes == 200 << 20
    assert peak < 40 << 20


@pytest.mark.parametrize(
    "column",
    [
        pa.array(['"r"', '"r"', '"s"'], pa.json_()),
        pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(['"r"', '"s"'])),
    ],
)
def test_text_is_read_whatever_its_column_means_and_however_it_is_packed(tmp_path, column):
    write_file(tmp_path / "x.arrow", pa.table({"text": column}))
    result = encode(tmp_path / "out", tmp_path / "x.arrow")
    assert [raw for _, raw, _, _ in result.documents] == [b'"r"', b'"r"', b'"s"']


def test_the_first_version_of_feather_is_named(tmp_path):
    (tmp_path / "x.feather").write_bytes(b"FEA1" + bytes(100) + b"FEA1")
    (reject,) = encode(tmp_path / "out", tmp_path / "x.feather").rejects
    assert (reject["reason"], "version 1" in reject["detail"]) == ("damaged_input", True)
