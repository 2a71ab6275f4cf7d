"""WARC inputs, and WET, which is WARC with text: a document per record that has content.

`conversion` (the text of WET files) and `resource` records give their block as it is; `response`
records the body of the HTTP response, after its transfer and content encodings (gzip, deflate and
zstd) are undone. Other records (`warcinfo`, `request`, `metadata`, `revisit`, …) are filtered.

Fields by name, for the id and to be kept: `id` (WARC-Record-ID without brackets), `url`
(WARC-Target-URI), `date`, `type`, and every header of the record by its own name.
"""

import re
import zlib
from collections.abc import Iterator

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.blocks import (
    BlockFile,
    entry_blocks,
    max_parsed_bytes,
    reject_long,
    reject_member,
)
from blt.corpus.files.decompress import PLAIN, DamagedInputError, decompress_bytes
from blt.corpus.readers.lines import SAMPLE_BYTES
from blt.corpus.readers.partitions import partition_fields
from blt.corpus.readers.rows import make_row_record
from blt.corpus.records import Document, Filtered, Record, Reject
from blt.dataset.units import Progress, no_progress

_MAX_HEADER_BYTES = 1 << 20
_MAX_ENCODINGS = 4
_HEAD = re.compile(rb"WARC/[0-9]\.[0-9]{1,2}\r?\n[A-Za-z]")
_VERSION_AT_END = re.compile(rb"WARC/[0-9]\.[0-9]{1,2}\r?\n\Z")
_HEAD_BYTES = 16  # at most, of what that matches
_END = b"\r\n\r\n"
_NEVER = re.compile(rb"(?!)")
_TOO_LONG = "its length is {}, and the input ends before"
# What records with a wrong length were read of is read again: at most about so often, so that time
# stays linear in the file whatever it holds.
_MAX_READINGS = 8
_FREE_BYTES = 64 << 20
_MAX_REOPENED = 8
_BLOCK_TYPES = ("conversion", "resource")
_SHORT_NAMES = {"url": "warc-target-uri", "date": "warc-date", "type": "warc-type"}

# Documents whose Content-Encoding is none that there is, taken as they stand.
UNKNOWN_CODING = "unknown_content_encoding"
# Of HTTP (the IANA's register), and others that are in use.
_UNREAD_NAMES = (
    b"aes128gcm br brotli bzip2 compress dcb dcz exi lzma pack200-gzip x-bzip2 x-compress xz"
)
_UNREAD_CODINGS = frozenset(_UNREAD_NAMES.split())
_READ_CODINGS = frozenset((b"", b"identity", b"none", b"gzip", b"x-gzip", b"zstd", b"deflate"))
_KNOWN_CODINGS = _READ_CODINGS | _UNREAD_CODINGS


class _BadRecordError(Exception):
    """The content of a record cannot be read; where it ends is known."""


class _LostRecordError(Exception):
    """Where a record ends cannot be told; the next one has to be looked for."""


class _CutRecordError(_LostRecordError):
    """The input ends before the record does."""


def read_warc(entry: Entry, config: EncodeConfig, progress: Progress) -> Iterator[Record]:
    """Yields a record for each WARC record; positions are offsets in the decompressed file.

    A record without a head, a length or an end that fits is one reject that says how many bytes
    were passed over up to the next record.
    """
    return _Warc(entry, config, progress).records()


def _is_record(content: bytes) -> bool:
    return content.startswith(b"WARC/")


class _Warc:
    def __init__(self, entry: Entry, config: EncodeConfig, progress: Progress) -> None:
        self._entry, self._config = entry, config
        self._source, self._limit = entry["source"], max_parsed_bytes(config)
        self._partitions = partition_fields(entry, config)
        self._file = self._open(progress)
        self._num_records = self._num_boundaries = self._num_reopened = 0
        self._num_reread = 0  # bytes that were given back

    def _open(self, progress: Progress = no_progress, start: int = 0) -> BlockFile:
        blocks = entry_blocks(
            self._entry, self._config, progress, start=start, is_record=_is_record
        )
        return BlockFile(blocks)

    def records(self) -> Iterator[Record]:
        file = self._file
        while True:
            position, version = _next_line(file)
            if not version:
                boundary = file.cross()
                if boundary is None:
                    return
                self._num_boundaries += 1
                if boundary.error is not None:
                    yield reject_member(boundary, self._source, file.tell())
                continue
            self._num_records += 1
            file.mark()
            try:
                if not version.startswith(b"WARC/"):
                    file.unread(version)
                    raise _LostRecordError(f"no WARC record begins at byte {position}")
                record = self._read_record(position)
            except _LostRecordError as error:
                yield self._lost(position, error, is_head=version.startswith(b"WARC/"))
                file = self._file
            else:
                file.forget()
                yield record

    def _read_record(self, position: int) -> Record:
        """Returns the record whose first line was read.

        Raises:
          _LostRecordError: it has no end, or none that its length tells.
        """
        file, source = self._file, self._source
        headers, line_end = _read_headers(file)
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise _LostRecordError(f"the record has no length, but {length[:40]!a}")
        num_bytes = int(length)
        kind = headers.get("warc-type", "").lower()
        is_kept = kind in _BLOCK_TYPES or kind == "response"
        if num_bytes > self._limit:
            sample = self._pass_long(num_bytes, line_end)
            if not is_kept:
                return Filtered(source, position, "no_content")
            return reject_long(source, position, num_bytes, sample, self._config)
        block = file.read(num_bytes)
        if len(block) < num_bytes:
            raise _CutRecordError(_TOO_LONG.format(num_bytes))
        self._check_end(num_bytes, line_end)
        if not kind:
            return self._reject("it has no WARC-Type", position, block)
        if not is_kept:
            return Filtered(source, position, "no_content")
        counted: list[str] = []
        try:
            text = _payload(block, self._limit, counted) if kind == "response" else block
        except _BadRecordError as error:
            return self._reject(str(error), position, block)
        row = _fields(headers, (self._config.id_field, *self._config.keep_fields))
        record = make_row_record(
            row,
            text,
            source=source,
            position=position,
            config=self._config,
            partitions=self._partitions,
        )
        if counted and isinstance(record, Document):
            record.counted += tuple(counted)
        return record

    def _reject(self, detail: str, position: int, block: bytes) -> Reject:
        num_bytes = self._file.tell() - position
        return Reject(self._source, position, "bad_record", detail, block, num_bytes=num_bytes)

    def _check_end(self, num_bytes: int, line_end: bytes) -> None:
        """Checks that two line ends, and then a record or nothing, come after a block."""
        file = self._file
        end = file.read(2)
        if end == b"\r\n":
            end += file.read(2)
        if end != _END and end != 2 * line_end:
            if file.at_end() and _END.startswith(end):
                raise _CutRecordError(f"ends at the end of a record of {num_bytes} bytes")
            raise _LostRecordError(f"no two line ends come after its {num_bytes} bytes")
        next_byte = file.peek(1)
        if not next_byte and file.is_damaged_before():
            raise _LostRecordError("its data are damaged")
        after = file.peek(8).lstrip(b"\r\n")[:5] if next_byte else b""
        is_inside = not b"WARC/".startswith(after) and not file.at_member()
        if is_inside and self._are_members():
            raise _LostRecordError(f"more comes after its {num_bytes} bytes")

    def _are_members(self) -> bool:
        """Tells whether each record is a compressed member of its own, as far as is seen."""
        return self._num_boundaries >= max(2, self._num_records)

    def _pass_long(self, num_bytes: int, line_end: bytes) -> bytes:
        """Reads over a block that is too long to be held, and returns its first bytes.

        If it has no end there, reading goes back to the first record that seems to be in it.
        """
        file = self._file
        file.forget()
        start = file.tell()
        size = self._entry["size"]
        if self._entry["compression"] == PLAIN and start + num_bytes > size:
            raise _CutRecordError(_TOO_LONG.format(num_bytes))
        sample = file.read(SAMPLE_BYTES)
        left = num_bytes - len(sample)
        found = None
        tail = sample
        while left and (data := file.read(min(left, 1 << 20))):
            left -= len(data)
            if found is None and (match := _HEAD.search(tail + data)):
                found = file.tell() - len(data) - len(tail) + match.start()
            tail = (tail + data)[-_HEAD_BYTES:]
        try:
            if left:
                raise _CutRecordError(_TOO_LONG.format(num_bytes))
            self._check_end(num_bytes, line_end)
        except _LostRecordError:
            file.tail = tail
            if found is not None and self._num_reopened < _MAX_REOPENED:
                self._num_reopened += 1
                self._go_to(found)
            raise
        return sample

    def _go_to(self, position: int) -> None:
        """Opens the input again at a byte of its content."""
        is_plain = self._entry["compression"] == PLAIN
        self._file = self._open(start=position if is_plain else 0)
        if is_plain:
            self._file.set_offset(position)
            return
        while self._file.tell() < position:
            if not self._file.skip(position - self._file.tell()) and not self._file.cross():
                return

    def _lost(self, position: int, error: _LostRecordError, is_head: bool) -> Reject:
        """Goes on to the next record, and returns the reject of what lies between.

        Raises:
          DamagedInputError: the input ends before there is one, and it was cut or is no WARC.
        """
        file = self._file
        if is_head and self._num_reread < _MAX_READINGS * file.tell() + _FREE_BYTES:
            self._num_reread += file.give_back()
        # Where each record is a member of its own, text that looks like a record's head is text.
        is_found = file.find(_NEVER if self._are_members() else _HEAD, _HEAD_BYTES)
        num_bytes = file.tell() - position
        boundary = file.cross()
        if boundary is not None:
            self._num_boundaries += 1
        if boundary is not None and boundary.error is not None:
            return reject_member(boundary, self._source, position)
        is_cut = isinstance(error, _CutRecordError) and not file.tail.endswith(_END)
        if not is_found and (is_cut or not is_head):
            raise DamagedInputError(f"{error}: {num_bytes} bytes are left out", num_bytes=num_bytes)
        return Reject(
            self._source,
            position,
            "bad_record" if is_head else "damaged_input",
            f"{error}; {num_bytes} bytes passed over",
            num_bytes=num_bytes,
        )


def _next_line(file: BlockFile) -> tuple[int, bytes]:
    """Returns the next line that is not blank, and where it begins; nothing at the end."""
    while True:
        position = file.tell()
        line = file.read_line(_MAX_HEADER_BYTES)
        if not line or line.strip(b"\r\n"):
            return position, line


def _read_headers(file: BlockFile) -> tuple[dict[str, str], bytes]:
    """Returns the headers of a record by their names in lower case, and how its lines end.

    The first header of a name counts.

    Raises:
      _LostRecordError: the head has no end.
    """
    headers: dict[str, list[str]] = {}
    num_bytes = 0
    name = ""
    while (line := file.read_line(_MAX_HEADER_BYTES)).strip(b"\r\n"):
        num_bytes += len(line)
        if num_bytes > _MAX_HEADER_BYTES:
            raise _LostRecordError(f"its head is longer than {_MAX_HEADER_BYTES} bytes")
        if not line.endswith(b"\n"):
            raise _CutRecordError("ends inside the head of a record")
        if b"WARC/" in line and _VERSION_AT_END.search(line):
            raise _LostRecordError("the head of another record begins in its head")
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
    if not line.endswith(b"\n"):
        raise _CutRecordError("ends inside the head of a record")
    line_end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
    return {name: " ".join(pieces) for name, pieces in headers.items()}, line_end


def _fields(headers: dict[str, str], names: tuple[str, ...]) -> dict[str, str]:
    row = {}
    for name in names:
        value = headers.get(_SHORT_NAMES.get(name, name.lower()))
        if name == "id":
            value = headers.get("warc-record-id", "").strip("<>") or None
        if value is not None:
            row[name] = value
    return row


def _payload(block: bytes, limit: int, counted: list[str]) -> bytes:
    """Returns the body of an HTTP response; adds to `counted` what it is counted as."""
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
    for encoding in map(bytes.strip, reversed(encodings)):
        body = _decode(body, encoding, limit)
        if encoding not in _KNOWN_CODINGS and UNKNOWN_CODING not in counted:
            counted.append(UNKNOWN_CODING)
    return body


def _join_chunks(body: bytes) -> bytes:
    """Returns the content of a chunked body, or a body that is not (any more) chunked as it is.

    Raises:
      _BadRecordError: it begins with a chunk, but ends inside it or does not go on as it should.
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
            is_cut = size > 0 if at == 0 else body[at - 2 : at] == b"\r\n"
            if is_cut:
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
        elif encoding in _UNREAD_CODINGS:
            raise _BadRecordError(f"Content-Encoding {ascii(encoding)[1:]} is not read")
        else:
            return body  # no coding that there is: servers put charsets and types there
    except (DamagedInputError, zlib.error) as error:
        raise _BadRecordError(f"its body is damaged: {error}") from error
    if len(decoded) > limit:
        raise _BadRecordError(f"its body is longer than {limit} bytes when decoded")
    return decoded
