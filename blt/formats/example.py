"""`tf.train.Example` on the wire, without TensorFlow or protobuf.

Two kinds of feature are known: lists of bytes, and lists of int64, which become numpy arrays. A
feature with a list of floats is passed over. The messages (`tensorflow/core/example/*.proto`):

    Example   { Features features = 1 }
    Features  { map<string, Feature> feature = 1 }      an entry: key = 1, value = 2
    Feature   { BytesList = 1 | FloatList = 2 | Int64List = 3 }
    *List     { repeated value = 1 }                    int64: packed, or one field for each

Keys are written sorted, so that equal features give equal bytes: those of
`Example.SerializeToString(deterministic=True)`.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Features = dict[str, list[bytes] | np.ndarray]

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = _LISTS = 1, 2, 3
_VARINT, _FIXED64, _LENGTH, _START_GROUP, _END_GROUP, _FIXED32 = 0, 1, 2, 3, 4, 5
_MAX_GROUPS = 100  # inside one another, as protobuf has it
_MAX_VARINT_BYTES = 10
_CHUNK = 1 << 20  # values (or bytes) converted at a time, which bounds the scratch memory


class ExampleError(ValueError):
    """The bytes are not an Example; says at what they fail."""


def encode_varints(values: np.ndarray) -> bytes:
    """Returns integers as protobuf varints, one after the other.

    Args:
      values: [num_values] of any integer dtype that int64 holds; negative ones take ten bytes.
    """
    return b"".join(
        _encode_chunk(values[start : start + _CHUNK]) for start in range(0, len(values), _CHUNK)
    )


def _encode_chunk(values: np.ndarray) -> bytes:
    if values.dtype.kind == "i":
        values = values.astype(np.int64).view(np.uint64)  # two's complement, as protobuf has it
    num_columns = max(1, -(-int(values.max()).bit_length() // 7))
    if num_columns == 1:
        return values.astype(np.uint8).tobytes()
    # Column k holds the k-th group of seven bits; a value uses the columns up to its highest bit.
    groups = np.empty((len(values), num_columns), np.uint8)
    used = np.empty((len(values), num_columns), bool)
    rest = values
    for column in range(num_columns):
        used[:, column] = (rest > 0) if column else True
        groups[:, column] = rest & 0x7F
        rest = rest >> 7
    groups[:, :-1] |= used[:, 1:].view(np.uint8) << 7  # the high bit: another group follows
    return groups[used].tobytes()


def decode_varints(data: bytes | memoryview) -> np.ndarray:
    """Returns the values of varints as [num_values] int64.

    Raises:
      ExampleError: the last one is cut, or one is longer than ten bytes.
    """
    raw = np.frombuffer(data, np.uint8)
    if len(raw) and raw[-1] & 0x80:
        raise ExampleError("a list of integers ends inside a value")
    pieces = []
    start = 0
    while start < len(raw):
        chunk = raw[start : start + _CHUNK]
        ends = np.flatnonzero(chunk < 0x80)
        if not len(ends):
            raise ExampleError(f"an integer of more than {_MAX_VARINT_BYTES} bytes")
        pieces.append(_decode_chunk(chunk[: ends[-1] + 1], ends))
        start += int(ends[-1]) + 1
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _decode_chunk(raw: np.ndarray, ends: np.ndarray) -> np.ndarray:
    if len(ends) == len(raw):
        return raw.astype(np.int64)
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > _MAX_VARINT_BYTES:
        raise ExampleError(f"an integer of more than {_MAX_VARINT_BYTES} bytes")
    values = (raw[starts] & 0x7F).astype(np.uint64)
    for group in range(1, longest):
        where = np.flatnonzero(lengths > group)
        values[where] |= (raw[starts[where] + group] & 0x7F).astype(np.uint64) << np.uint64(
            7 * group
        )
    return values.view(np.int64)


def encode_example(features: Mapping[str, Sequence[bytes] | np.ndarray]) -> bytes:
    """Returns the wire form of an Example.

    Args:
      features: by name, a sequence of bytes objects, or a [num_values] array of integers.
    """
    entries = []
    for name in sorted(features):
        values = features[name]
        if isinstance(values, np.ndarray):
            entries.append(encode_packed_entry(name.encode("utf-8"), encode_varints(values)))
        else:
            entries.append(encode_entry(name.encode("utf-8"), *values))
    return join_entries(*entries)


def encode_entry(name: bytes, *values: bytes) -> bytes:
    """Returns the entry of a feature that is a list of bytes."""
    if len(values) == 1:
        return bytes_entry_head(name, len(values[0])) + values[0]
    data = b"".join(_field_head(1, len(value)) + value for value in values)
    return _entry_head(name, _BYTES_LIST, len(data)) + data


def encode_packed_entry(name: bytes, varints: bytes) -> bytes:
    """Returns the entry of a feature that is a list of integers, from their varints."""
    return packed_entry_head(name, len(varints)) + varints


@functools.lru_cache(maxsize=1 << 14)
def bytes_entry_head(name: bytes, size: int) -> bytes:
    """Returns what comes before the value in the entry of a feature of one bytes value.

    Args:
      name: of the feature.
      size: of the value, in bytes.
    """
    value_head = _field_head(1, size)
    return _entry_head(name, _BYTES_LIST, len(value_head) + size) + value_head


@functools.lru_cache(maxsize=1 << 14)
def packed_entry_head(name: bytes, size: int) -> bytes:
    """Returns what comes before the varints, `size` bytes, in the entry of a feature of integers.

    The list is left out if it is empty.
    """
    value_head = _field_head(1, size) if size else b""
    return _entry_head(name, _INT64_LIST, len(value_head) + size) + value_head


def join_entries(*pieces: bytes) -> bytes:
    """Returns the Example of entries, which must be sorted by name, from all their pieces."""
    return b"".join((_example_head(sum(map(len, pieces))), *pieces))


def _entry_head(name: bytes, kind: int, size: int) -> bytes:
    # field 1 (field 1 (name), field 2 (field `kind` (values of `size` bytes)))
    kind_head = _field_head(kind, size)
    head = _field_head(1, len(name)) + name + _field_head(2, len(kind_head) + size) + kind_head
    return _field_head(1, len(head) + size) + head


def _field_head(number: int, size: int) -> bytes:
    """Returns what comes before the data of a length-delimited field."""
    varint = bytearray([number << 3 | _LENGTH])
    while size >= 0x80:
        varint.append(size & 0x7F | 0x80)
        size >>= 7
    varint.append(size)
    return bytes(varint)


@functools.lru_cache(maxsize=1 << 14)
def _example_head(size: int) -> bytes:
    return _field_head(1, size)


def parse_example(data: bytes) -> Features:
    """Returns the features of an Example: lists of bytes, and [num_values] int64 arrays.

    Fields may come in any order, integers packed or one by one, and unknown fields are skipped, as
    protobuf asks of its readers. A repeated key counts as its last value.

    Raises:
      ExampleError: the bytes are no such message.
    """
    features: Features = {}
    for number, value in _fields(memoryview(data)):
        if number == 1 and isinstance(value, memoryview):
            for inner, entry in _fields(value):
                if inner == 1 and isinstance(entry, memoryview):
                    _parse_entry(entry, features)
    return features


def _parse_entry(entry: memoryview, features: Features) -> None:
    name, feature = "", None
    for number, value in _fields(entry):
        if number == 1 and isinstance(value, memoryview):
            try:
                name = str(value, "utf-8")
            except UnicodeDecodeError as error:
                raise ExampleError("a feature's name is not UTF-8") from error
        elif number == 2 and isinstance(value, memoryview):
            feature = _parse_feature(value)
    features.pop(name, None)
    if feature is not None:
        features[name] = feature


def _parse_feature(feature: memoryview) -> list[bytes] | np.ndarray | None:
    kind_found = None
    items: list[bytes] = []
    pieces: list[np.ndarray] = []
    for kind, values in _fields(feature):
        if not isinstance(values, memoryview) or kind not in _LISTS:
            continue
        if kind != kind_found:  # the last kind counts; lists of it are one list
            kind_found = kind
            items.clear()
            pieces.clear()
        if kind == _BYTES_LIST:
            items += [bytes(v) for n, v in _fields(values) if n == 1 and isinstance(v, memoryview)]
        elif kind == _INT64_LIST:
            pieces.append(_parse_int64_list(values))
    if kind_found in (None, _FLOAT_LIST):
        return None
    if kind_found == _BYTES_LIST:
        return items
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _parse_int64_list(values: memoryview) -> np.ndarray:
    pieces: list[np.ndarray] = []
    singles: list[int] = []
    for number, value in _fields(values):
        if number != 1:
            continue
        if isinstance(value, int):
            singles.append(value)
            continue
        if singles:
            pieces.append(np.array(singles, np.uint64).view(np.int64))
            singles = []
        pieces.append(decode_varints(value))
    if singles:
        pieces.append(np.array(singles, np.uint64).view(np.int64))
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields a message's fields as (number, value): an int for a varint, else a view of bytes.

    Fixed-width values are skipped: no message here has one outside a list of floats.
    """
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ExampleError("a field has number 0")
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == _LENGTH:
            size, position = _varint(message, position)
        elif wire_type == _FIXED64:
            size = 8
        elif wire_type == _FIXED32:
            size = 4
        elif wire_type == _START_GROUP:
            position = _skip_group(message, position, number)
            continue
        else:
            raise ExampleError(f"a field has wire type {wire_type}")
        if size > end - position:
            raise ExampleError(f"a field declares {size} bytes where {end - position} remain")
        if wire_type == _LENGTH:
            yield number, message[position : position + size]
        position += size


def _skip_group(message: memoryview, position: int, number: int) -> int:
    """Returns the position after a group (the old kind of message), whose start was read."""
    open_groups = [number]
    while open_groups:
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        size = 0
        if number == 0:
            raise ExampleError("a field has number 0")
        if wire_type == _VARINT:
            _, position = _varint(message, position)
        elif wire_type == _LENGTH:
            size, position = _varint(message, position)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        elif wire_type == _START_GROUP and len(open_groups) < _MAX_GROUPS:
            open_groups.append(number)
        elif wire_type != _END_GROUP or open_groups.pop() != number:
            raise ExampleError("a group does not end as it began, or is one of too many")
        position += size
        if position > len(message):
            raise ExampleError("a message ends inside a group")
    return position


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns the unsigned 64-bit varint at `position`, and the position after it."""
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if position >= len(message):
            raise ExampleError("a message ends inside an integer")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ExampleError(f"an integer of more than {_MAX_VARINT_BYTES} bytes")
