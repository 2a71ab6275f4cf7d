"""What `--strip-bom`, `--newlines lf` and `--utf8` make of a document's bytes, block by block.

The result does not depend on where the blocks are cut: a character, a CRLF or a byte order mark may
lie across them.
"""

import codecs

BOM = b"\xef\xbb\xbf"


class Mender:
    """Mends one document, and tells whether it was UTF-8 before.

    Args:
      strip_bom: leave out a byte order mark at the start.
      lf: make LF of every CRLF; a CR alone stays.
      ended_by_lf: an LF that is not part of the document followed it: with `lf` a last CR goes.
      replace: put U+FFFD for what is not UTF-8, as many as Python's decoder does (one for each
        sequence that is cut or cannot be).

    Attributes:
      is_utf8: false once something was not UTF-8; final once `mend` was called with `final`.
    """

    def __init__(
        self,
        *,
        strip_bom: bool = False,
        lf: bool = False,
        ended_by_lf: bool = False,
        replace: bool = False,
    ) -> None:
        self._strip_bom, self._lf, self._ended_by_lf = strip_bom, lf, ended_by_lf
        self._held = b""  # what may be the start of a mark or of a CRLF
        self._checker = codecs.getincrementaldecoder("utf-8")("strict")
        self._replacer = codecs.getincrementaldecoder("utf-8")("replace") if replace else None
        self.is_utf8 = True

    def mend(self, block: bytes, *, final: bool = False) -> bytes:
        """Returns what the next block adds; the last call is `final`, its block may be empty."""
        if self._strip_bom:
            block, self._held = self._held + block, b""
            if not final and len(block) < len(BOM) and BOM.startswith(block):
                self._held = block
                return b""
            block = block.removeprefix(BOM)
            self._strip_bom = False
        if self._lf:
            block, self._held = self._held + block, b""
            if not final and block.endswith(b"\r"):
                block, self._held = block[:-1], b"\r"
            block = block.replace(b"\r\n", b"\n")
            if final and self._ended_by_lf:
                block = block.removesuffix(b"\r")
        if self.is_utf8:
            try:
                self._checker.decode(block, final)
            except UnicodeDecodeError:
                self.is_utf8 = False
        if self._replacer is not None:
            block = self._replacer.decode(block, final).encode("utf-8")
        return block


def is_utf8(raw: bytes) -> bool:
    """Tells whether `raw` is UTF-8."""
    if raw.isascii():
        return True
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _not_utf8() -> Mender:
    mender = Mender()
    mender.is_utf8 = False
    return mender


NOT_UTF8 = _not_utf8()  # that of a document that is known not to have been UTF-8
