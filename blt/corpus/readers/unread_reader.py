"""Files of a format that is not read: one reject that says what they are."""

from collections.abc import Iterator

from blt.corpus.entry import Entry
from blt.corpus.files.decompress import HEAD_BYTES, read_blocks
from blt.corpus.files.detect import ZLIB_KIND, describe_unread, is_zlib, unread_kind
from blt.corpus.records import Reject


def read_unread(entry: Entry) -> Iterator[Reject]:
    """Yields the one reject of a file, or a member of an archive, of the format `UNREAD`."""
    block = next(read_blocks(entry["path"], entry["compression"]), b"")
    head = block[:HEAD_BYTES]
    # A member's name is its source; a file's source may have got a number.
    kind = unread_kind(entry["source"], head) or unread_kind(entry["path"], head)
    if kind is None and is_zlib(block):
        kind = ZLIB_KIND
    detail = describe_unread(kind or "file of an unknown kind")
    yield Reject(entry["source"], None, "unread_format", detail, head, ends_input=True)
