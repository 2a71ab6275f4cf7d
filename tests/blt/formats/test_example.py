import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.formats.example import (
    ExampleError,
    decode_varints,
    encode_example,
    encode_varints,
    parse_example,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
FEATURES = st.dictionaries(
    st.text(max_size=5),
    st.one_of(
        st.lists(st.binary(max_size=10), max_size=4),
        st.lists(INT64, max_size=6).map(lambda values: np.array(values, np.int64)),
    ),
    max_size=5,
)


def same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert isinstance(right[name], np.ndarray) == isinstance(value, np.ndarray)
        assert list(right[name]) == list(value)


def test_varints_are_those_of_protobuf():
    values = np.array([0, 1, 127, 128, 259, 300, 16384, -1, 2**63 - 1, -(2**63)])
    wire = "00 01 7f 8001 8302 ac02 808001 ffffffffffffffffff01 ffffffffffffffff7f"
    wire += " 80808080808080808001"
    assert encode_varints(values) == bytes.fromhex(wire)
    assert decode_varints(bytes.fromhex(wire)).tolist() == values.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64])
def test_every_integer_dtype_gives_the_same_bytes(dtype):
    assert encode_varints(np.array([3, 200, 44], dtype)) == b"\x03\xc8\x01\x2c"


def test_arrays_longer_than_a_chunk_survive():
    values = (np.arange(2_500_000) % 260).astype(np.uint16)
    assert np.array_equal(decode_varints(encode_varints(values)), values)


@given(st.lists(INT64, max_size=50))
def test_varints_survive_a_round_trip(values):
    array = np.array(values, np.int64)
    assert np.array_equal(decode_varints(encode_varints(array)), array)


@pytest.mark.parametrize(
    "wire", [b"\x80", b"\x01\xff", b"\x80" * 10 + b"\x00", b"\x81" * 2_000_000]
)
def test_cut_or_overlong_varints_are_refused(wire):
    with pytest.raises(ExampleError, match="integer"):
        decode_varints(wire)


def test_overlong_varints_longer_than_a_chunk_are_refused():
    with pytest.raises(ExampleError, match="more than 10 bytes"):
        decode_varints(b"\x81" * 2_000_000 + b"\x00")


def test_keys_are_sorted_on_the_wire():
    features = {"b": [b"x"], "a": np.array([1, 300])}
    wire = "0a1a 0a0c 0a0161 1207 1a05 0a03 01ac02 0a0a 0a0162 1205 0a03 0a01 78"
    assert encode_example(features) == bytes.fromhex(wire)


@given(FEATURES)
def test_features_survive_a_round_trip(features):
    same(features, parse_example(encode_example(features)))


def test_unpacked_integers_and_unknown_fields_are_understood():
    # Int64List { 1: 5, 1: -1, 1: [6, 7] packed, 1: 8 }, after an unknown field of each wire type.
    integers = bytes.fromhex("0805 08ffffffffffffffffff01 0a020607 0808")
    feature = bytes.fromhex("7805 79") + bytes(8) + bytes.fromhex("7a0161 7d") + bytes(4)
    feature += b"\x1a" + bytes([len(integers)]) + integers
    entry = b"\x12" + bytes([len(feature)]) + feature + b"\x0a\x01n"  # the value before its key
    features = b"\x0a" + bytes([len(entry)]) + entry
    example = b"\x0a" + bytes([len(features)]) + features
    assert parse_example(example)["n"].tolist() == [5, -1, 6, 7, 8]


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("0a", "ends inside an integer"),
        ("0a05 00", "declares 5 bytes where 1 remain"),
        ("0c", "wire type 4"),
        ("0e", "wire type 6"),
        ("0b 0801", "ends inside an integer"),
        ("0b 14", "does not end as it began"),
        ("0b 0a05 0c", "ends inside a group"),
        ("0b" * 101, "one of too many"),
        ("0200", "number 0"),
        ("ffffffffffffffffffffff01", "more than 10 bytes"),
        ("0a08 0a06 0a01ff 12010a", "not UTF-8"),
    ],
)
def test_garbage_is_refused_with_a_reason(wire, message):
    with pytest.raises(ExampleError, match=message):
        parse_example(bytes.fromhex(wire))


@pytest.mark.parametrize(
    "group",
    ["7b 7c", "0b 0c", "13 0805 0d00000000 1b 0a020b0b 1c 14"],
    ids=["empty", "of a known number", "with fields and a group"],
)
def test_groups_are_passed_over_as_tensorflow_does(group):
    tf = pytest.importorskip("tensorflow")
    group = bytes.fromhex(group)
    wire = group + encode_example({"a": [b"x"]}) + group
    assert "a" in tf.train.Example.FromString(wire).features.feature
    same({"a": [b"x"]}, parse_example(wire))


@pytest.mark.parametrize(
    "later",
    ["0a01 62 1204 12020a00", "0a01 62 1200", "0a01 62"],
    ids=["floats", "empty", "without a value"],
)
def test_a_key_that_comes_again_counts_as_its_last_value_whatever_it_is(later):
    tf = pytest.importorskip("tensorflow")
    later = bytes.fromhex(later)
    inner = encode_example({"a": [b"x"], "b": np.array([1])})[2:]
    inner += b"\x0a" + bytes([len(later)]) + later
    wire = b"\x0a" + bytes([len(inner)]) + inner
    theirs = tf.train.Example.FromString(wire).features.feature["b"]
    assert not theirs.int64_list.value
    same({"a": [b"x"]}, parse_example(wire))


def test_the_last_kind_of_a_feature_counts_floats_too():
    tf = pytest.importorskip("tensorflow")
    feature = bytes.fromhex("0a03 0a0178 1202 0a00")  # BytesList { "x" }, FloatList {}
    entry = bytes.fromhex("0a0162 12") + bytes([len(feature)]) + feature
    wire = bytes([0x0A, len(entry) + 2, 0x0A, len(entry)]) + entry
    theirs = tf.train.Example.FromString(wire).features.feature["b"]
    assert theirs.WhichOneof("kind") == "float_list"
    assert parse_example(wire) == {}


@settings(max_examples=300)
@given(st.binary(max_size=60), FEATURES, st.integers(0, 200), st.integers(0, 255))
def test_any_bytes_parse_or_raise_example_error(garbage, features, position, byte):
    altered = bytearray(encode_example(features))
    if position < len(altered):
        altered[position] = byte
    for data in (garbage, bytes(altered)):
        with contextlib.suppress(ExampleError):
            parse_example(data)


@settings(deadline=None)
@given(FEATURES)
def test_tensorflow_agrees_in_both_directions(features):
    tf = pytest.importorskip("tensorflow")
    theirs = tf.train.Example()
    for name, value in features.items():
        feature = theirs.features.feature[name]
        if isinstance(value, np.ndarray):
            feature.int64_list.value.extend(value.tolist())
            feature.int64_list.SetInParent()
        else:
            feature.bytes_list.value.extend(value)
            feature.bytes_list.SetInParent()
    ours = encode_example(features)
    if len(features) == 1 and "" not in features:  # upb orders keys by a rule of its own
        assert ours == theirs.SerializeToString(deterministic=True)
    assert tf.train.Example.FromString(ours).features == theirs.features
    same(features, parse_example(theirs.SerializeToString()))
