"""What readers make of an input: documents, rejects, and records that are left out by rule."""

import dataclasses
from collections.abc import Iterable, Iterator

from blt.corpus.fields import NO_FIELDS, Fields
from blt.corpus.mends import Mender


@dataclasses.dataclass(slots=True)  # a frozen one takes three times as long to make
class Document:
    """A document on its way into a byte shard.

    Attributes:
      doc_id: valid Unicode.
      parts: its bytes, in pieces of at most `max_document_bytes`; read once.
      num_parts: how many pieces there are, at least 1.
      source: the input it is in.
      position: byte offset of its line in the decompressed input, or row number; 0 for a file.
      meta: JSON object of the fields that go along, or None.
      of_text_file: it is one, or a line or paragraph of one; told only if bytes will be changed.
      mender: knows, once the parts are read, whether they were UTF-8; None if they are.
      is_utf8: it is known already that they are.
      found: which of the named fields it has, as in `blt.corpus.fields.Fields`.
      counted: what is to be counted of it, such as `blt.corpus.plain.CHANGED_COUNTS`.
    """

    doc_id: str
    parts: Iterable[bytes]
    num_parts: int
    source: str
    position: int
    meta: bytes | None = None
    of_text_file: bool = False
    mender: Mender | None = None
    is_utf8: bool = False
    found: int = 0
    counted: tuple[str, ...] = ()


# Reasons that say that an input is altered or cut, or cannot be told from one that is.
_DAMAGE = ("damaged_input", "too_compressed")


@dataclasses.dataclass(frozen=True, slots=True)
class Reject:
    """A record, or several, that cannot become documents.

    Attributes:
      source: the input it is in.
      position: where it begins; None for a whole input.
      reason: a key of `blt.dataset.rejects.REASONS`.
      detail: what is wrong, in words.
      sample: the record, or its first bytes.
      ends_input: the input is given up here; nothing of it comes after.
      num_records: how many records it stands for, where the format tells; else 1.
      num_bytes: how many bytes of the (decompressed) content it stands for; None: of the sample.
      stored_bytes: the same in bytes as stored, where these are known.
    """

    source: str
    position: int | None
    reason: str
    detail: str
    sample: bytes | None = None
    ends_input: bool = False
    num_records: int = 1
    num_bytes: int | None = None
    stored_bytes: int | None = None

    @property
    def is_damage(self) -> bool:
        """Whether the input is damaged, as `--on-damaged-file` means it."""
        return self.reason in _DAMAGE


@dataclasses.dataclass(frozen=True, slots=True)
class Filtered:
    """A record that is left out by rule; `reason` is a key of `FILTERS`."""

    source: str
    position: int | None
    reason: str = "blank"


Record = Document | Reject | Filtered


def make_document(
    doc_id: str,
    raw: bytes,
    *,
    source: str,
    position: int,
    max_document_bytes: int,
    meta: bytes | None = None,
    fields: Fields = NO_FIELDS,
    mender: Mender | None = None,
    is_utf8: bool = False,
) -> Document:
    """Returns the document of `raw`, cut into parts if it is longer than `max_document_bytes`.

    Args:
      doc_id: valid Unicode.
      raw: its bytes.
      source, position, mender, is_utf8: as in `Document`.
      max_document_bytes: of a part.
      meta: a note of its reader, where it has no fields.
      fields: what it has beside the text.
    """
    parts: Iterable[bytes] = [raw]
    num_parts = 1
    if len(raw) > max_document_bytes:
        parts, num_parts = (
            _slices(raw, max_document_bytes),
            count_parts(len(raw), max_document_bytes),
        )
    return Document(
        doc_id,
        parts,
        num_parts,
        source,
        position,
        fields.meta if meta is None else meta,
        False,
        mender,
        is_utf8,
        fields.found,
        fields.changed,
    )


def count_parts(num_bytes: int, max_document_bytes: int) -> int:
    """Returns the number of parts of a document; an empty one has one part."""
    return max(1, -(-num_bytes // max_document_bytes))


def made_id(source: str, position: int) -> str:
    """Returns the id of a document that brings none: stable as long as its input is."""
    return f"{source}#{position}"


def cut_parts(raw: bytes, max_document_bytes: int) -> Iterable[bytes]:
    """Returns the parts of a document, to be read once."""
    return [raw] if len(raw) <= max_document_bytes else _slices(raw, max_document_bytes)


def _slices(raw: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]
