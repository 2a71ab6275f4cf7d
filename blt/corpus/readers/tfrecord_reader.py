"""TFRecord inputs: a `tf.train.Example` per record, one of whose features is the text.

A feature with one value of bytes is a text or an id; lists and integers can be kept, and lists of
floats are passed over. A record whose data fail their checksum is a reject; where a length does,
the next record is where one and its checksum agree.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.blocks import (
    BlockFile,
    entry_blocks,
    max_parsed_bytes,
    reject_long,
    reject_member,
)
from blt.corpus.files.decompress import DamagedInputError
from blt.corpus.readers.lines import SAMPLE_BYTES
from blt.corpus.readers.partitions import partition_fields
from blt.corpus.readers.rows import make_row_record
from blt.corpus.records import Record, Reject
from blt.dataset.units import Progress
from blt.formats.example import ExampleError, parse_example
from blt.formats.tfrecord import FOOTER, HEADER, HEADER_LIKE, is_record_start, masked_crc32c

# What records were read of in vain is read again: at most about so often, so that time stays linear
# in the file whatever it holds.
_MAX_READINGS = 8
_FREE_BYTES = 64 << 20


class _LostRecordError(Exception):
    """Where a record ends cannot be told; the next one has to be looked for."""

    def __init__(self, detail: str, reason: str = "bad_record", *, is_cut: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.is_cut = reason, is_cut


def read_tfrecord(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each Example; positions are offsets in the (decompressed) file."""
    source = entry["source"]
    partitions = partition_fields(entry, config)
    file = BlockFile(entry_blocks(entry, config, progress, is_record=is_record_start))
    num_reread = 0
    while True:
        position = file.tell()
        if not file.peek(1):
            boundary = file.cross()
            if boundary is None:
                return
            if boundary.error is not None:
                yield reject_member(boundary, source, position)
            continue
        head = b""
        try:
            head = file.read(HEADER.size)
            yield _read_record(file, head, source, position, config, partitions)
        except _LostRecordError as error:
            if num_reread < _MAX_READINGS * file.tell() + _FREE_BYTES:
                num_reread += file.give_back()
            else:
                file.forget()
            if not is_record_start(head):
                file.unread(head[1:])
            yield _lost(file, error, source, position)


def _read_record(
    file: BlockFile,
    head: bytes,
    source: str,
    position: int,
    config: EncodeConfig,
    partitions: dict[str, Any],
) -> Record:
    """Returns the record whose first bytes were read.

    Raises:
      _LostRecordError: its length is none, or no record comes after it.
    """
    if not is_record_start(head):
        is_cut = file.at_end() and len(head) < HEADER.size
        detail = f"no record begins at byte {position}"
        raise _LostRecordError(detail, "damaged_input", is_cut=is_cut)
    length, _ = HEADER.unpack(head)
    if length > max_parsed_bytes(config):
        sample = file.read(SAMPLE_BYTES)
        left = length + FOOTER.size - len(sample)
        if file.skip(left) < left:
            raise _LostRecordError("ends inside a record: it was cut short", is_cut=True)
        return reject_long(source, position, length, sample, config)
    file.mark()
    data, crc = file.read(length), file.read(FOOTER.size)
    if len(crc) < FOOTER.size:
        raise _LostRecordError("ends inside a record: it was cut short", is_cut=True)
    if masked_crc32c(data) == FOOTER.unpack(crc)[0]:
        file.forget()
        return _read_example(data, source, position, config, partitions)
    after = file.peek_all(HEADER.size)
    if after and not is_record_start(after):  # bytes are missing, or too many
        raise _LostRecordError("its data fail their checksum, and no record comes after them")
    file.forget()
    return Reject(source, position, "bad_record", "its data fail their checksum", data)


def _lost(file: BlockFile, error: _LostRecordError, source: str, position: int) -> Reject:
    """Goes on to the next record, and returns the reject of what lies between.

    Raises:
      DamagedInputError: there is none.
    """
    is_found = file.find(HEADER_LIKE, HEADER.size, is_record_start)
    num_bytes = file.tell() - position
    boundary = file.cross()
    if boundary is not None and boundary.error is not None:
        return reject_member(boundary, source, position)
    if not is_found and (error.is_cut or error.reason == "damaged_input"):
        raise DamagedInputError(f"{error}: {num_bytes} bytes are left out", num_bytes=num_bytes)
    return Reject(
        source,
        position,
        error.reason,
        f"{error}; {num_bytes} bytes passed over",
        num_bytes=num_bytes,
    )


def _read_example(
    data: bytes, source: str, position: int, config: EncodeConfig, partitions: dict[str, Any]
) -> Record:
    try:
        features = parse_example(data)
    except ExampleError as error:
        return Reject(source, position, "bad_record", f"no tf.train.Example: {error}", data)
    name = config.text_field
    text = features.get(name)
    if text is None:
        names = ", ".join(ascii(key[:40]) for key in list(features)[:10]) or "none"
        detail = f"no feature {name!r} of bytes; it has {names}"
        return Reject(source, position, "missing_text", detail, data)
    if isinstance(text, np.ndarray):
        return Reject(source, position, "text_not_string", f"feature {name!r} has integers", data)
    if len(text) != 1:
        reason = "text_not_string" if text else "null_text"
        return Reject(source, position, reason, f"feature {name!r} has {len(text)} values", data)
    wanted = (config.id_field, *config.keep_fields)
    row = {key: _value(features[key]) for key in wanted if key in features}
    return make_row_record(
        row,
        text[0],
        source=source,
        position=position,
        config=config,
        partitions=partitions,
    )


def _value(feature: list[bytes] | np.ndarray) -> Any:
    values = feature.tolist() if isinstance(feature, np.ndarray) else feature
    return values[0] if len(values) == 1 else values or None
