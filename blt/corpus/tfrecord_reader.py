"""TFRecord inputs: a `tf.train.Example` per record, one of whose features is the text.

A feature with one value of bytes is a text or an id; lists and integers can be kept, and lists of
floats are passed over. A record whose data fail their checksum is a reject; where a length does,
nothing after it can be found, and the file is damaged.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from blt.corpus.blocks import BlockFile, entry_blocks, max_parsed_bytes, reject_long
from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import DamagedInputError
from blt.corpus.lines import SAMPLE_BYTES
from blt.corpus.partitions import partition_fields
from blt.corpus.plan import Entry
from blt.corpus.records import Record, Reject
from blt.corpus.rows import make_row_record
from blt.formats.example import ExampleError, parse_example
from blt.formats.tfrecord import FOOTER, HEADER, is_record_start, masked_crc32c
from blt.units import Progress


def read_tfrecord(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each Example; positions are offsets in the (decompressed) file."""
    source = entry["source"]
    limit = max_parsed_bytes(config)
    partitions = partition_fields(entry, config)
    file = BlockFile(entry_blocks(entry, config, progress))
    while True:
        position = file.tell()
        header = file.read(HEADER.size)
        if not header:
            return
        if not is_record_start(header):
            raise DamagedInputError(f"no record begins at byte {position}")
        length, _ = HEADER.unpack(header)
        if length > limit:
            sample = file.read(SAMPLE_BYTES)
            left = length + FOOTER.size - len(sample)
            if file.skip(left) < left:
                raise DamagedInputError("ends inside a record: it was cut short")
            yield reject_long(source, position, length, sample, config)
            continue
        data, crc = file.read(length), file.read(FOOTER.size)
        if len(crc) < FOOTER.size:
            raise DamagedInputError("ends inside a record: it was cut short")
        if masked_crc32c(data) != FOOTER.unpack(crc)[0]:
            yield Reject(source, position, "bad_record", "its data fail their checksum", data)
        else:
            yield _read_example(data, source, position, config, partitions)


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
