import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.dataset.storage import sha256_file
from blt.errors import WorkError
from blt.formats.byte_shard import (
    ByteRecord,
    ByteShardWriter,
    _encode_all,
    byte_shard_name,
    encode_byte_tokens,
    read_byte_shard,
    read_documents,
)
from blt.formats.example import encode_example, encode_varints
from blt.formats.tfrecord import TFRecordWriter
from blt.tokenizer import frame_tokens


def record(doc_id="d", raw=b"hi", part=0, num_parts=1, **more):
    tokens = frame_tokens(raw, add_bos=part == 0, add_eos=part == num_parts - 1)
    return ByteRecord(doc_id, tokens, part, num_parts, **more)


def write(path, records, **options):
    writer = ByteShardWriter(path, **options)
    for item in records:
        writer.write(item)
    return writer.close()


def same(left, right):
    assert left.tokens.tolist() == right.tokens.tolist()
    for name in ("doc_id", "part", "num_parts", "source", "meta"):
        assert getattr(left, name) == getattr(right, name)


def test_names_say_unit_roll_and_compression():
    assert byte_shard_name(12, 0) == "bytes-00012-000.tfrecord"
    assert byte_shard_name(123456, 7, "gzip") == "bytes-123456-007.tfrecord.gz"


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_records_come_back_and_are_counted(tmp_path, compression):
    records = [
        record("a/ü\n", bytes(range(256)), source="x.txt", meta=b'{"lang":"de"}'),
        record("", b""),
        record("long", b"abc", 0, 2),
        record("long", b"de", 1, 2),
    ]
    path = tmp_path / "temporary"
    info = write(path, records, name="bytes-00000-000.tfrecord", compression=compression)
    assert (info.name, info.documents, info.bytes, info.tokens) == (
        "bytes-00000-000.tfrecord",
        3,
        256 + 0 + 5,
        258 + 2 + 7,
    )
    assert info.sha256 == sha256_file(path)
    for ours, back in zip(records, read_byte_shard(path), strict=True):
        same(ours, back)
        assert back.tokens.dtype == np.uint16
    assert [[p.part for p in parts] for parts in read_documents(path)] == [[0], [0], [0, 1]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.binary()), max_size=5))
def test_any_id_and_any_bytes_survive(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("shard") / "s"
    write(path, [record(doc_id, raw) for doc_id, raw in documents])
    back = [(r.doc_id, r.tokens.tolist()) for r in read_byte_shard(path)]
    assert back == [(doc_id, [1, *(b + 4 for b in raw), 2]) for doc_id, raw in documents]


_RARE_BYTES = st.lists(st.tuples(st.integers(0, 3000), st.integers(120, 255)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(_RARE_BYTES, st.lists(st.integers(0, 3000), max_size=4))
def test_few_bytes_that_take_two_among_many_that_take_one(rare, cuts):
    """Rare ones, and those from 252 on, have paths of their own."""
    data = bytearray(b"plain text, " * 250)
    for place, value in rare:
        data[place % len(data)] = value
    places = [0, *sorted(cuts), len(data)]
    raws = [bytes(data[start:end]) for start, end in itertools.pairwise(places)]
    expected = [encode_varints(np.frombuffer(raw, np.uint8).astype(int) + 4) for raw in raws]
    assert [encode_byte_tokens(raw) for raw in raws] == expected
    assert list(_encode_all(raws)) == expected


@settings(max_examples=50, deadline=None)
@given(
    raws=st.lists(st.binary(max_size=300) | st.text(max_size=200).map(str.encode), min_size=1),
    doc_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    num_parts=st.integers(1, 300),
    meta=st.none() | st.binary(max_size=200),
)
def test_a_part_is_written_from_its_bytes_as_from_its_tokens(
    tmp_path_factory, raws, doc_id, num_parts, meta
):
    folder = tmp_path_factory.mktemp("shards")
    more = {"doc_id": doc_id, "num_parts": num_parts, "source": "a/b.txt", "meta": meta}
    parts = [(raw, {"part": part % num_parts, **more}) for part, raw in enumerate(raws)]
    by_tokens = write(folder / "tokens", [record(raw=raw, **options) for raw, options in parts])
    writer = ByteShardWriter(folder / "bytes", name="tokens")
    for raw, options in parts:
        writer.write_part(raw, **options)
    assert writer.close() == by_tokens
    assert (folder / "bytes").read_bytes() == (folder / "tokens").read_bytes()


@pytest.mark.parametrize("meta_bytes", [0, 2000])
def test_documents_without_bytes_are_not_held(tmp_path, meta_bytes):
    writer = ByteShardWriter(tmp_path / "x")
    tracemalloc.start()
    for number in range(20_000):
        writer.write_part(b"", doc_id=f"x#{number}", source="x", meta=bytes(meta_bytes) or None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_500_000
    assert writer.close().documents == sum(1 for _ in read_documents(tmp_path / "x")) == 20_000


def test_sizes_of_one_two_and_three_bytes(tmp_path):
    sizes = (0, 1, 100, 127, 128, 8191, 8192, 16383, 16384, 2_100_000)
    raws = [bytes(range(256)) * (size // 256 + 1) for size in sizes]
    raws = [raw[:size] for raw, size in zip(raws, sizes, strict=True)]
    by_tokens = write(tmp_path / "tokens", [record(raw=raw) for raw in raws])
    writer = ByteShardWriter(tmp_path / "bytes", name="tokens")
    for raw in raws:
        writer.write_part(raw, doc_id="d")
    assert writer.close() == by_tokens


@pytest.mark.parametrize(
    "records",
    [
        [record("a", b"x", 0, 2)],
        [record("a", b"x", 1, 2)],
        [record("a", b"x", 0, 2), record("b", b"y", 1, 2)],
        [record("a", b"x", 0, 2), record("a", b"y", 0, 2)],
    ],
)
def test_parts_out_of_order_are_refused(tmp_path, records):
    write(tmp_path / "s.tfrecord", records)
    with pytest.raises(WorkError, match=r"s\.tfrecord: .*part \d of 2"):
        list(read_documents(tmp_path / "s.tfrecord"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": None}, "no 'tokens' field"),
        ({"tokens": [b"x"]}, "tokens are not integers"),
        ({"tokens": np.array([260])}, "outside 0..259"),
        ({"tokens": np.array([-1])}, "outside 0..259"),
        ({"doc_id": [b"\xff"]}, "utf-8"),
        ({"doc_id": []}, "doc_id is not one value"),
        ({"doc_id": np.array([1])}, "doc_id is not one value"),
        ({"part": [b"x"]}, "part is not one integer"),
        ({"part": np.array([], np.int64)}, "part is not one integer"),
        ({"num_parts": np.array([0])}, "part 0 of 0 parts"),
        ({"part": np.array([-1])}, "part -1 of 1 parts"),
    ],
)
def test_records_of_another_kind_are_refused(tmp_path, change, message):
    features = {
        "doc_id": [b"d"],
        "tokens": np.array([1, 2]),
        "part": np.array([0]),
        "num_parts": np.array([1]),
        "source": [b""],
    }
    features = {k: v for k, v in {**features, **change}.items() if v is not None}
    writer = TFRecordWriter(tmp_path / "s.tfrecord")
    writer.write(encode_example(features))
    writer.close()
    with pytest.raises(WorkError, match=rf"s\.tfrecord: record 0 is not .*{message}"):
        list(read_byte_shard(tmp_path / "s.tfrecord"))


def test_tf_data_reads_a_shard(tmp_path):
    tf = pytest.importorskip("tensorflow")
    write(tmp_path / "s", [record("id", b"hi", source="src")])
    spec = {"tokens": tf.io.VarLenFeature(tf.int64), "doc_id": tf.io.FixedLenFeature([], tf.string)}
    (raw,) = tf.data.TFRecordDataset(str(tmp_path / "s"))
    example = tf.io.parse_single_example(raw, spec)
    assert example["doc_id"].numpy() == b"id"
    assert tf.sparse.to_dense(example["tokens"]).numpy().tolist() == [1, 108, 109, 2]
