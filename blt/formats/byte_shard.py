"""Byte shards: documents as token ids, `bytes-00012-000.tfrecord` for unit 12, its first roll.

One record is one `tf.train.Example`, a document or a part of one:

    doc_id    bytes  1 value    UTF-8, as it came; not unique unless the corpus's ids are
    tokens    int64  num_tokens ids 0..259; BOS first in part 0, EOS last in the last part
    part      int64  1 value    counted from 0
    num_parts int64  1 value
    source    bytes  1 value    the input it came from, UTF-8
    meta      bytes  1 value    JSON object of passed-through columns; absent if there are none

The parts of a document are consecutive records of one shard, and their tokens, one after the other,
are `BOS bytes EOS`. A shard never ends inside a document.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blt.dataset.storage import PlaceLike
from blt.dataset.units import ShardInfo
from blt.errors import WorkError
from blt.formats.example import (
    ExampleError,
    Features,
    bytes_entry_head,
    encode_entry,
    encode_example,
    encode_packed_entry,
    encode_varints,
    join_entries,
    packed_entry_head,
    parse_example,
)
from blt.formats.tfrecord import TFRecordWriter, read_tfrecords
from blt.tokenizer import BOS_ID, BYTE_OFFSET, EOS_ID, VOCAB_SIZE


@dataclasses.dataclass(frozen=True, slots=True)
class ByteRecord:
    """A document, or one part of a long one.

    Attributes:
      doc_id: the document's id; valid Unicode, else any string.
      tokens: [num_tokens] uint16, ids 0..259.
      part: which part of the document this is, from 0.
      num_parts: how many parts the document has.
      source: the input it came from.
      meta: JSON object of passed-through columns (UTF-8), or None.
    """

    doc_id: str
    tokens: np.ndarray
    part: int = 0
    num_parts: int = 1
    source: str = ""
    meta: bytes | None = None


def byte_shard_name(unit: int, roll: int, compression: str | None = None) -> str:
    """Returns the name of a shard.

    >>> byte_shard_name(12, 0)
    'bytes-00012-000.tfrecord'
    """
    return f"bytes-{unit:05d}-{roll:03d}.tfrecord" + (".gz" if compression == "gzip" else "")


class ByteShardWriter:
    """Writes one byte shard; to be used inside `blt.dataset.storage.atomic_path`.

    Args:
      path: the file to make.
      name: the shard's name in its `ShardInfo`; None for the name in `path`.
      compression: None or "gzip".
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        compression: str | None = None,
    ) -> None:
        self._name = name or Path(path).name
        self._writer = TFRecordWriter(path, compression=compression)
        self._parts: list[_Part] = []  # not yet written
        self._held_bytes = 0
        self.num_documents = self.num_bytes = self.num_tokens = 0

    def write(self, record: ByteRecord) -> None:
        """Appends one record; the parts of a document must come in order."""
        features = {
            "doc_id": [record.doc_id.encode("utf-8")],
            "tokens": record.tokens,
            "part": np.array([record.part]),
            "num_parts": np.array([record.num_parts]),
            "source": [record.source.encode("utf-8")],
        }
        if record.meta is not None:
            features["meta"] = [record.meta]
        self._write_parts()
        self._writer.write(encode_example(features))
        self.num_documents += record.part == 0
        self.num_tokens += len(record.tokens)
        self.num_bytes += int(np.count_nonzero(record.tokens >= BYTE_OFFSET))

    def write_part(
        self,
        raw: bytes,
        *,
        doc_id: str,
        part: int = 0,
        num_parts: int = 1,
        source: str = "",
        meta: bytes | None = None,
    ) -> None:
        """Appends the record of a document's part from its bytes: `write`, several times faster.

        BOS comes before the first part, EOS after the last; the rest is as in `ByteRecord`.
        """
        num_bytes = len(raw)
        bos = eos = b""
        if part == 0:
            bos = _BOS
            self.num_documents += 1
        if part == num_parts - 1:
            eos = _EOS
        place = _encode_place(part, num_parts, source)
        self._parts.append((raw, doc_id, meta, place, bos, eos))
        self.num_tokens += len(bos) + num_bytes + len(eos)
        self.num_bytes += num_bytes
        self._held_bytes += num_bytes + len(doc_id) + _PART_BYTES
        if meta is not None:
            self._held_bytes += len(meta)
        if self._held_bytes >= _CHUNK_BYTES:
            self._write_parts()

    def _write_parts(self) -> None:
        parts, self._parts, self._held_bytes = self._parts, [], 0
        for part, tokens in zip(parts, _encode_all([part[0] for part in parts]), strict=True):
            self._writer.write(_encode_part(part, tokens))

    def close(self) -> ShardInfo:
        """Ends the file and returns what it holds, and its sha256."""
        self._write_parts()
        return ShardInfo(
            name=self._name,
            documents=self.num_documents,
            bytes=self.num_bytes,
            tokens=self.num_tokens,
            sha256=self._writer.close(),
        )


# A part of a document that is to be written: its bytes, id, meta, place, BOS and EOS. A tuple, as
# one is made for each document.
_Part = tuple[bytes, str, bytes | None, bytes, bytes, bytes]


def _encode_part(part: _Part, tokens: bytes) -> bytes:
    """Returns the Example of a part, given the varints of its bytes."""
    _, doc_id, meta, place, bos, eos = part
    doc_id_bytes = doc_id.encode("utf-8")
    doc_id_head = bytes_entry_head(b"doc_id", len(doc_id_bytes))
    tokens_head = packed_entry_head(b"tokens", len(bos) + len(tokens) + len(eos))
    # The entries of an Example are sorted by name.
    if meta is None:
        return join_entries(doc_id_head, doc_id_bytes, place, tokens_head, bos, tokens, eos)
    meta_head = bytes_entry_head(b"meta", len(meta))
    return join_entries(
        doc_id_head, doc_id_bytes, meta_head, meta, place, tokens_head, bos, tokens, eos
    )


# Bytes whose ids become varints at a time: enough of them for numpy, few enough for the cache.
_CHUNK_BYTES = 1 << 16
_MAX_CHUNK_BYTES = 4 * _CHUNK_BYTES
_PART_BYTES = 16  # counted for every part, so that empty ones are not held without end
_BOS, _EOS = bytes([BOS_ID]), bytes([EOS_ID])
_RARE = 64  # varints of two bytes are few if at most one in so many bytes has one
_FIRST_OF_TWO_BYTES = 128 - BYTE_OFFSET  # from this byte on an id's varint has two bytes
_FIRST_OF_256 = 256 - BYTE_OFFSET  # from this byte on the second of them is 2, not 1


def _encode_all(raws: list[bytes]) -> Iterator[bytes]:
    """Yields what `encode_byte_tokens` gives for each, found for all at once."""
    joined = b"".join(raws)
    if len(raws) == 1 or len(joined) > _MAX_CHUNK_BYTES:
        yield from map(encode_byte_tokens, raws)
        return
    tokens, longer = _encode_chunk(np.frombuffer(joined, np.uint8))
    ends = np.cumsum([len(raw) for raw in raws])
    ends += np.searchsorted(longer, ends)
    start = 0
    for end in ends.tolist():
        yield tokens[start:end]
        start = end


def encode_byte_tokens(raw: bytes) -> bytes:
    """Returns the ids of bytes as protobuf varints."""
    values = np.frombuffer(raw, np.uint8)
    starts = range(0, len(raw), _CHUNK_BYTES)
    return b"".join(_encode_chunk(values[start : start + _CHUNK_BYTES])[0] for start in starts)


def _encode_chunk(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Returns the ids of bytes as varints, and the indices of those that take two bytes."""
    longer = np.flatnonzero(values >= _FIRST_OF_TWO_BYTES)
    if len(longer) * _RARE > len(values) or values[longer].max(initial=0) >= _FIRST_OF_256:
        return _encode_mixed(values), longer
    ids = values + np.uint8(BYTE_OFFSET)
    ids[longer] |= 0x80
    # The second byte goes in behind each of the few that have one.
    firsts = ids.tobytes()
    pieces, start = [], 0
    for end in (longer + 1).tolist():
        pieces.append(firsts[start:end])
        start = end
    pieces.append(firsts[start:])
    return b"\1".join(pieces), longer


def _encode_mixed(values: np.ndarray) -> bytes:
    # Both bytes of each varint as one little-endian integer, where a second byte of 0 is none.
    varints = values.astype("<u2")
    varints += BYTE_OFFSET
    varints += (varints & 0x80) << 1
    if values.max() >= _FIRST_OF_256:
        varints[values >= _FIRST_OF_256] += 0x180
    return varints.tobytes().translate(None, b"\0")  # no first byte is 0


@functools.lru_cache(maxsize=1024)
def _encode_place(part: int, num_parts: int, source: str) -> bytes:
    """The entries that most records of a file share: num_parts, part and source."""
    return (
        encode_packed_entry(b"num_parts", encode_varints(np.array([num_parts])))
        + encode_packed_entry(b"part", encode_varints(np.array([part])))
        + encode_entry(b"source", source.encode("utf-8"))
    )


def read_byte_shard(path: PlaceLike) -> Iterator[ByteRecord]:
    """Yields the records of a byte shard, one at a time.

    Raises:
      WorkError: the file is cut short, altered, or not a byte shard; names file and record.
    """
    for index, data in enumerate(read_tfrecords(path)):
        try:
            record = _record(parse_example(data))
        except (ExampleError, UnicodeDecodeError, KeyError) as error:
            what = f"no {error} field" if isinstance(error, KeyError) else str(error)
            raise WorkError(
                f"{path}: record {index} is not a byte-shard record ({what}). "
                "Give a shard that `blt encode` wrote."
            ) from error
        yield record


def _record(features: Features) -> ByteRecord:
    tokens = features["tokens"]
    if not isinstance(tokens, np.ndarray):
        raise ExampleError("tokens are not integers")
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= VOCAB_SIZE):
        raise ExampleError(f"a token id is outside 0..{VOCAB_SIZE - 1}")
    part, num_parts = _one_integer(features, "part"), _one_integer(features, "num_parts")
    if not 0 <= part < num_parts:
        raise ExampleError(f"part {part} of {num_parts} parts")
    return ByteRecord(
        doc_id=str(_one_bytes(features, "doc_id"), "utf-8"),
        tokens=tokens.astype(np.uint16),
        part=part,
        num_parts=num_parts,
        source=str(_one_bytes(features, "source"), "utf-8"),
        meta=_one_bytes(features, "meta") if "meta" in features else None,
    )


def _one_bytes(features: Features, name: str) -> bytes:
    values = features[name]
    if isinstance(values, np.ndarray) or len(values) != 1:
        raise ExampleError(f"{name} is not one value of bytes")
    return values[0]


def _one_integer(features: Features, name: str) -> int:
    values = features[name]
    if not isinstance(values, np.ndarray) or len(values) != 1:
        raise ExampleError(f"{name} is not one integer")
    return int(values[0])


def read_documents(path: PlaceLike) -> Iterator[list[ByteRecord]]:
    """Yields the documents of a byte shard, each as the list of its parts.

    Raises:
      WorkError: as `read_byte_shard`, and when the parts of a document are not whole and in order.
    """
    parts: list[ByteRecord] = []
    for index, record in enumerate(read_byte_shard(path)):
        first = parts[0] if parts else record
        expected = (first.doc_id, len(parts), first.num_parts)
        if (record.doc_id, record.part, record.num_parts) != expected:
            raise WorkError(
                f"{path}: record {index} is part {record.part} of {record.num_parts} of document "
                f"{record.doc_id!r:.80}, but part {len(parts)} of {first.num_parts} of "
                f"{first.doc_id!r:.80} must come here. Run `blt encode` again."
            )
        parts.append(record)
        if len(parts) >= record.num_parts:
            yield parts
            parts = []
    if parts:
        raise WorkError(
            f"{path}: ends after part {len(parts) - 1} of {parts[0].num_parts} of document "
            f"{parts[0].doc_id!r:.80}. Run `blt encode` again."
        )
