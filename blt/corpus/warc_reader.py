"""WARC inputs, and WET, which is WARC with text: a document per record that has content.

`conversion` (the text of WET files) and `resource` records give their block as it is; `response`
records the body of the HTTP response, after its transfer and content encodings (gzip, deflate and
zstd) are undone. Other records (`warcinfo`, `request`, `metadata`, `revisit`, …) are filtered.

Fields by name, for the id and to be kept: `id` (WARC-Record-ID without brackets), `url`
(WARC-Target-URI), `date`, `type`, and every header of the record by its own name.
"""

import zlib
from collections.abc import Iterator

from blt.corpus.blocks import BlockFile, entry_blocks, max_parsed_bytes, reject_long
from blt.corpus.config import EncodeConfig
from blt.corpus.decompress import DamagedInputError, decompress_bytes
from blt.corpus.lines import SAMPLE_BYTES
from blt.corpus.partitions import partition_fields
from blt.corpus.plan import Entry
from blt.corpus.records import Filtered, Record, Reject
from blt.corpus.rows import make_row_record
from blt.units import Progress

_MAX_HEADER_BYTES = 1 << 20
_MAX_ENCODINGS = 4
_BLOCK_TYPES = ("conversion", "resource")
_SHORT_NAMES = {"url": "warc-target-uri", "date": "warc-date", "type": "warc-type"}


class _BadRecordError(Exception):
    pass


def read_warc(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each WARC record; positions are offsets in the decompressed file."""
    source = entry["source"]
    limit = max_parsed_bytes(config)
    partitions = partition_fields(entry, config)
    file = BlockFile(entry_blocks(entry, config, progress))
    while (start := _next_line(file)) is not None:
        position, version = start
        if not version.startswith(b"WARC/"):
            raise DamagedInputError(f"no WARC record begins at byte {position}")
        headers = _read_headers(file)
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise DamagedInputError(f"the record at byte {position} has no length")
        num_bytes = int(length)
        kind = headers.get("warc-type", "").lower()
        is_kept = kind in _BLOCK_TYPES or kind == "response"
        if not is_kept or num_bytes > limit:
            sample = file.read(min(num_bytes, SAMPLE_BYTES))
            left = num_bytes - len(sample)
            if file.skip(left) < left:
                raise DamagedInputError("ends inside a record: it was cut short")
            if is_kept:
                yield reject_long(source, position, num_bytes, sample, config)
            else:
                yield Filtered(source, position, "no_content")
            continue
        block = file.read(num_bytes)
        if len(block) < num_bytes:
            raise DamagedInputError("ends inside a record: it was cut short")
        try:
            text = _payload(block, limit) if kind == "response" else block
        except _BadRecordError as error:
            yield Reject(source, position, "bad_record", str(error), block)
            continue
        row = _fields(headers, (config.id_field, *config.keep_fields))
        yield make_row_record(
            row,
            text,
            source=source,
            position=position,
            config=config,
            partitions=partitions,
        )


def _next_line(file: BlockFile) -> tuple[int, bytes] | None:
    """Returns the next line that is not blank, and where it begins; None at the end."""
    while True:
        position = file.tell()
        line = file.read_line(_MAX_HEADER_BYTES)
        if not line:
            return None
        if line.strip(b"\r\n"):
            return position, line


def _read_headers(file: BlockFile) -> dict[str, str]:
    """Returns the headers of a record by their names in lower case; the first of a name counts."""
    headers: dict[str, list[str]] = {}
    num_bytes = 0
    name = ""
    while (line := file.read_line(_MAX_HEADER_BYTES)).strip(b"\r\n"):
        num_bytes += len(line)
        if not line.endswith(b"\n") or num_bytes > _MAX_HEADER_BYTES:
            raise DamagedInputError("ends inside the head of a record, or it has no end")
        text = line.decode("utf-8", "backslashreplace")
        if text[0] in " \t" and name:  # goes on from the line before
            headers[name].append(text.strip())
            continue
        key, _, value = text.partition(":")
        name = key.strip().lower()
        if name in headers:
            name = ""
        else:
            headers[name] = [value.strip()]
    if not line:
        raise DamagedInputError("ends inside the head of a record: it was cut short")
    return {name: " ".join(pieces) for name, pieces in headers.items()}


def _fields(headers: dict[str, str], names: tuple[str, ...]) -> dict[str, str]:
    row = {}
    for name in names:
        value = headers.get(_SHORT_NAMES.get(name, name.lower()))
        if name == "id":
            value = headers.get("warc-record-id", "").strip("<>") or None
        if value is not None:
            row[name] = value
    return row


def _payload(block: bytes, limit: int) -> bytes:
    """Returns the body of an HTTP response."""
    if not block.startswith(b"HTTP/"):
        return block  # of another protocol
    ends = [(block.find(mark), len(mark)) for mark in (b"\r\n\r\n", b"\n\n")]
    found = [(at, size) for at, size in ends if at >= 0]
    if not found:
        raise _BadRecordError("the HTTP response has no end of its head")
    at, size = min(found)
    if at > _MAX_HEADER_BYTES:
        raise _BadRecordError(f"the head of the HTTP response has {at} bytes")
    headers = {}
    for line in block[:at].split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        headers.setdefault(name.strip().lower(), value.strip().lower())
    body = block[at + size :]
    if b"chunked" in headers.get(b"transfer-encoding", b""):
        body = _join_chunks(body)
    encodings = headers.get(b"content-encoding", b"").split(b",")
    if len(encodings) > _MAX_ENCODINGS:
        raise _BadRecordError(f"its body has {len(encodings)} encodings")
    for encoding in reversed(encodings):
        body = _decode(body, encoding.strip(), limit)
    return body


def _join_chunks(body: bytes) -> bytes:
    """Returns the content of a chunked body, or a body that is not (any more) chunked as it is.

    Raises:
      _BadRecordError: it begins with a whole chunk, but does not go on as it should.
    """
    pieces, at = [], 0
    while True:
        end = body.find(b"\r\n", at, at + 1024)
        digits = body[at:end].partition(b";")[0].strip()
        try:
            size = int(digits, 16) if end >= 0 and digits.isalnum() else -1
        except ValueError:
            size = -1
        if size < 0 or end + 2 + size > len(body):
            if pieces and body[at - 2 : at] == b"\r\n":
                raise _BadRecordError("its chunked body is cut short or altered")
            return body
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size


def _decode(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding in (b"", b"identity", b"none") or not body:
        return body
    kind = {b"gzip": "gzip", b"x-gzip": "gzip", b"zstd": "zstd"}.get(encoding)
    try:
        if kind is not None:
            decoded = decompress_bytes(body, kind, limit)
        elif encoding == b"deflate":
            # With or without zlib's head: both are sent.
            wbits = 15 if body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0 else -15
            decoder = zlib.decompressobj(wbits)
            decoded = decoder.decompress(body, limit + 1)
            if not decoder.eof and len(decoded) <= limit:
                raise _BadRecordError("its deflate data end too soon")
        else:
            raise _BadRecordError(f"Content-Encoding {ascii(encoding)[1:]} is not read")
    except (DamagedInputError, zlib.error) as error:
        raise _BadRecordError(f"its body is damaged: {error}") from error
    if len(decoded) > limit:
        raise _BadRecordError(f"its body is longer than {limit} bytes when decoded")
    return decoded
