"""What holds for `tf.train.Example`, TFRecord files and byte shards of any bytes."""

import functools
import random
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from blt.errors import WorkError
from blt.formats.byte_shard import (
    ByteShardWriter,
    encode_byte_tokens,
    read_byte_shard,
    read_documents,
)
from blt.formats.example import (
    ExampleError,
    decode_varints,
    encode_example,
    encode_varints,
    parse_example,
)
from blt.formats.tfrecord import read_tfrecords
from tests.fuzz.alter import altered, frame, random_edits, split_frames

KINDS = ("example", "records", "shard", "values")
_VALUES = np.array([0, 1, 127, 128, 259, (1 << 63) - 1, -1, -(1 << 63)], np.int64)


@functools.cache
def sample(kind: str) -> bytes:
    """Returns whole bytes of a kind, to be altered."""
    features = {"a": [b"x", b""], "b": _VALUES, "c": np.array([], np.int64), "é": []}
    if kind == "example":
        example = tf.train.Example.FromString(encode_example(features))
        example.features.feature["f"].float_list.value.extend([1.5, -2.0])
        return example.SerializeToString(deterministic=True)
    if kind == "records":
        return frame(encode_example(features)) + frame(b"") + frame(b"x" * 300)
    if kind == "values":
        return _VALUES.tobytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        writer = ByteShardWriter(path)
        writer.write_part(b"whole\xff", doc_id="a", source="s", meta=b'{"k": 1}')
        for part in range(3):
            writer.write_part(b"part", doc_id="b", part=part, num_parts=3, source="s")
        writer.close()
        return path.read_bytes()


def alter(kind: str, data: bytes, rng: random.Random) -> bytes:
    """Returns the bytes altered; those of files also below their checksums."""
    if kind in ("records", "shard") and rng.random() < 0.6:
        records = split_frames(data) or [b""]
        index = rng.randrange(len(records))
        records[index] = altered(records[index], random_edits(rng))
        return b"".join(map(frame, records))
    return altered(data, random_edits(rng))


def check(kind: str, data: bytes, path: Path) -> str:
    """Checks the laws for bytes of a kind, at `path` where they are a file; returns the outcome."""
    return {
        "example": lambda: check_example(data),
        "values": lambda: check_values(data),
        "records": lambda: check_records(data, path),
        "shard": lambda: check_shard(data, path),
    }[kind]()


def check_example(data: bytes) -> str:
    """Any bytes parse or are refused; what TensorFlow takes gives what TensorFlow gives."""
    try:
        found = parse_example(data)
    except ExampleError as error:
        found, outcome = None, str(error)
    else:
        outcome = ",".join(sorted({type(value).__name__ for value in found.values()}))
        assert _plain(parse_example(encode_example(found))) == _plain(found)
    try:
        features = tf.train.Example.FromString(data).features
    except DecodeError:
        return f"{outcome}, refused by TensorFlow"
    assert found is not None, f"TensorFlow reads it, but: {outcome}"
    # An entry with an unknown field is kept by protobuf in C++, which TensorFlow's kernels use, and
    # by us; protobuf in Python takes all of it for unknown.
    if any(field.field_number == 1 for field in UnknownFieldSet(features)):
        return f"{outcome}, with unknown fields"
    expected = {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in features.feature.items()
        if feature.WhichOneof("kind") in ("bytes_list", "int64_list")
    }
    assert _plain(found) == expected
    return outcome


def check_values(data: bytes) -> str:
    """Integers and bytes come back from their encodings; any bytes are varints or refused."""
    values = np.frombuffer(data[: len(data) // 8 * 8], np.int64)
    assert decode_varints(encode_varints(values)).tolist() == values.tolist()
    tokens = decode_varints(encode_byte_tokens(data)) - 4
    assert tokens.astype(np.uint8).tobytes() == data
    try:
        found = decode_varints(data)
    except ExampleError as error:
        return str(error)
    assert len(found) == sum(byte < 0x80 for byte in data)
    return "varints"


def check_records(data: bytes, path: Path) -> str:
    """A file gives its records up to its damage, which names it."""
    path.write_bytes(data)
    records = []
    try:
        for record in read_tfrecords(path):
            records.append(record)
    except WorkError as error:
        assert str(path) in str(error)
        is_gzip = data.startswith(b"\x1f\x8b")
        assert is_gzip or data.startswith(b"".join(map(frame, records)))
        return " ".join(word for word in str(error).split() if word.isalpha())
    if not data.startswith(b"\x1f\x8b"):
        assert b"".join(map(frame, records)) == data
    return "whole"


def check_shard(data: bytes, path: Path) -> str:
    """A shard gives whole documents or an error that names it."""
    path.write_bytes(data)
    outcome = "whole"
    try:
        for parts in read_documents(path):
            assert [part.part for part in parts] == list(range(parts[0].num_parts))
    except WorkError as error:
        assert str(path) in str(error)
        str(error).encode()
        outcome = " ".join(word for word in str(error).split() if word.isalpha())
    try:
        for record in read_byte_shard(path):
            assert record.tokens.dtype == np.uint16
    except WorkError:
        assert outcome != "whole"
    return outcome


def _plain(features: dict) -> dict[str, list]:
    return {
        name: values.tolist() if isinstance(values, np.ndarray) else values
        for name, values in features.items()
    }
