import gzip

import numpy as np
import pytest

from blt.formats.example import encode_example
from blt.formats.tfrecord import FOOTER, HEADER, TFRecordWriter, masked_crc32c
from tests.blt.corpus.helpers import encode


def record(data):
    header = len(data).to_bytes(8, "little")
    crcs = FOOTER.pack(masked_crc32c(header)), FOOTER.pack(masked_crc32c(data))
    return header + crcs[0] + data + crcs[1]


def encode_records(tmp_path, *records, name="x.tfrecord", **options):
    (tmp_path / name).write_bytes(b"".join(records))
    return encode(tmp_path / f"out-{name}", tmp_path / name, **options)


def example(**features):
    return record(encode_example(features))


def test_the_features_become_text_id_and_meta(tmp_path):
    path = tmp_path / "x.tfrecord"
    writer = TFRecordWriter(path)
    features = {"text": [b"\xff\x00"], "key": [b"k1"], "n": np.array([7]), "tags": [b"a", b"b"]}
    writer.write(encode_example(features))
    writer.write(encode_example({"text": [b""], "n": np.array([1, 2])}))
    writer.close()
    options = {"id_field": "key", "keep_fields": ("n", "tags")}
    result = encode(tmp_path / "out", path, **options)
    size = path.read_bytes().index(record(encode_example({"text": [b""], "n": np.array([1, 2])})))
    assert result.documents == [
        ("k1", b"\xff\x00", "x.tfrecord", b'{"n": 7, "tags": ["a", "b"]}'),
        (f"x.tfrecord#{size}", b"", "x.tfrecord", b'{"n": [1, 2]}'),
    ]
    for name, data in (("unnamed", path.read_bytes()), ("y", gzip.compress(path.read_bytes()))):
        (tmp_path / name).write_bytes(data)
        again = encode(tmp_path / f"out-{name}", tmp_path / name, **options)
        assert [raw for _, raw, _, _ in again.documents] == [b"\xff\x00", b""]


def test_tensorflow_writes_what_is_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    feature = {
        "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"caf\xe9"])),
        "score": tf.train.Feature(float_list=tf.train.FloatList(value=[1.5])),
        "n": tf.train.Feature(int64_list=tf.train.Int64List(value=[-3])),
    }
    message = tf.train.Example(features=tf.train.Features(feature=feature))
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        writer.write(message.SerializeToString())
    result = encode(tmp_path / "out", tmp_path / "x.tfrecord", keep_fields=("n", "score"))
    assert result.documents == [("x.tfrecord#0", b"caf\xe9", "x.tfrecord", b'{"n": -3}')]


def test_each_bad_record_has_its_reason_and_the_next_is_read(tmp_path):
    altered = bytearray(example(text=[b"altered"]))
    altered[-8] ^= 1
    records = [
        example(text=[b"good"]),
        bytes(altered),
        record(b"\xff\xff no example"),
        example(body=[b"x"]),
        example(text=np.array([1])),
        example(text=[]),
        example(text=[b"a", b"b"]),
        example(text=[b"a"], id=[b"\xff"]),
        example(text=[b"last"]),
    ]
    result = encode_records(tmp_path, *records)
    assert [raw for _, raw, _, _ in result.documents] == [b"good", b"last"]
    offsets = [sum(map(len, records[:index])) for index in range(len(records))]
    assert [(r["position"], r["reason"]) for r in result.rejects] == list(
        zip(
            offsets[1:-1],
            [
                "bad_record",
                "bad_record",
                "missing_text",
                "text_not_string",
                "null_text",
                "text_not_string",
                "invalid_id",
            ],
            strict=True,
        )
    )


@pytest.mark.parametrize("cut", [1, 11, 12, 20, -1])
def test_a_cut_is_damage_after_the_whole_records(tmp_path, cut):
    one, two = example(text=[b"one"]), example(text=[b"two"])
    result = encode_records(tmp_path, one, two[:cut])
    assert [raw for _, raw, _, _ in result.documents] == [b"one"]
    assert [(r["position"], r["reason"]) for r in result.rejects] == [(0, "damaged_input")]


def test_a_record_over_the_limit_is_passed_over(tmp_path, monkeypatch):
    from blt.corpus.files import blocks

    monkeypatch.setattr(blocks, "_PARSED_BYTES_FLOOR", 1000)
    options = {"max_document_bytes": 100}
    big = example(text=[b"x" * 3000])
    result = encode_records(tmp_path, big, example(text=[b"next"]), **options)
    assert [raw for _, raw, _, _ in result.documents] == [b"next"]
    assert [r["reason"] for r in result.rejects] == ["too_long"]
    cut = encode_records(tmp_path, big[:2000], name="cut.tfrecord", **options)
    assert [r["reason"] for r in cut.rejects] == ["damaged_input"]


def test_a_length_that_looks_like_gzip_is_a_length(tmp_path):
    length = int.from_bytes(b"\x1f\x8b\x08\0", "little")
    overhead = len(encode_example({"text": [b"x" * length]})) - length
    data = example(text=[b"x" * (length - overhead)])
    assert HEADER.unpack(data[: HEADER.size])[0] == length
    result = encode_records(tmp_path, data)
    assert [len(raw) for _, raw, _, _ in result.documents] == [length - overhead]


def test_the_reject_of_a_record_that_is_too_long_has_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("blt.corpus.files.blocks._PARSED_BYTES_FLOOR", 1)
    long = example(text=[b"x" * 999])
    result = encode_records(tmp_path, long, example(text=[b"y"]), max_document_bytes=9)
    assert [raw for _, raw, _, _ in result.documents] == [b"y"]
    (reject,) = result.rejects
    assert (reject["reason"], reject["sample"]) == ("too_long", long[12:212])
