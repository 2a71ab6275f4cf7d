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

from blt.errors import WorkError
from blt.formats.example import (
    ExampleError,
    Features,
    encode_entry,
    encode_example,
    encode_packed_entry,
    encode_varints,
    join_entries,
    parse_example,
)
from blt.formats.tfrecord import TFRecordWriter, read_tfrecords
from blt.tokenizer import BOS_ID, BYTE_OFFSET, EOS_ID, VOCAB_SIZE
from blt.units import ShardInfo


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
    """Writes one byte shard; to be used inside `blt.storage.atomic_path`.

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
        is_first, is_last = part == 0, part == num_parts - 1
        tokens = encode_byte_tokens(raw)
        if is_first:
            tokens = _BOS + tokens
        if is_last:
            tokens += _EOS
        entries = [encode_entry(b"doc_id", doc_id.encode("utf-8"))]  # sorted by name
        if meta is not None:
            entries.append(encode_entry(b"meta", meta))
        entries.append(_encode_place(part, num_parts, source))
        entries.append(encode_packed_entry(b"tokens", tokens))
        self._writer.write(join_entries(entries))
        self.num_documents += is_first
        self.num_tokens += len(raw) + is_first + is_last
        self.num_bytes += len(raw)

    def close(self) -> ShardInfo:
        """Ends the file and returns what it holds, and its sha256."""
        return ShardInfo(
            name=self._name,
            documents=self.num_documents,
            bytes=self.num_bytes,
            tokens=self.num_tokens,
            sha256=self._writer.close(),
        )


# The varint of a byte's id is one byte or two, the second of which is then not zero.
_VARINTS = np.array(
    [int.from_bytes(encode_varints(np.array([b + BYTE_OFFSET])), "little") for b in range(256)],
    np.dtype("<u2"),
)
_LOW_BYTES = bytes(int(varint) & 0xFF for varint in _VARINTS)
_BOS, _EOS = bytes([BOS_ID]), bytes([EOS_ID])


def encode_byte_tokens(raw: bytes) -> bytes:
    """Returns the ids of bytes as protobuf varints."""
    low = raw.translate(_LOW_BYTES)
    if low.isascii():  # no id needs a second byte
        return low
    # No byte of a varint here is zero, so zeros are second bytes that are not there.
    return _VARINTS.take(np.frombuffer(raw, np.uint8)).tobytes().translate(None, b"\0")


@functools.lru_cache(maxsize=1024)
def _encode_place(part: int, num_parts: int, source: str) -> bytes:
    """The entries that most records of a file share: num_parts, part and source."""
    return (
        encode_packed_entry(b"num_parts", encode_varints(np.array([num_parts])))
        + encode_packed_entry(b"part", encode_varints(np.array([part])))
        + encode_entry(b"source", source.encode("utf-8"))
    )


def read_byte_shard(path: str | os.PathLike[str]) -> Iterator[ByteRecord]:
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


def read_documents(path: str | os.PathLike[str]) -> Iterator[list[ByteRecord]]:
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
