"""What is found out about one document while its parts stream by."""

import lzma
import math
import zlib
from collections.abc import Iterable

import numpy as np

from blt.errors import WorkError
from blt.formats.byte_shard import ByteRecord
from blt.formats.scores import ScoresRow
from blt.patching.rules import count_byte_patches
from blt.tokenizer import BYTE_OFFSET, EOS_ID, tokens_to_bytes

# A record and its patch lengths; None where there are no boundaries.
Part = tuple[ByteRecord, np.ndarray | None]
Parts = Iterable[Part]

ZLIB_LEVEL = 6


class Tally:
    """A document that is being scored.

    Args:
      record: its first part.
      xz: also compress it with xz.
    """

    def __init__(self, record: ByteRecord, *, xz: bool) -> None:
        self._record = record
        self._zlib = zlib.compressobj(ZLIB_LEVEL)
        self._xz = lzma.LZMACompressor() if xz else None
        self._zlib_bytes = self._xz_bytes = 0
        self.num_bytes = self.scored_bytes = 0
        self._nats = self._eos_nats = 0.0
        self._num_patches: int | None = 0

    def read(self, record: ByteRecord, patch_lengths: np.ndarray | None) -> None:
        """Takes a part: its bytes are counted and compressed."""
        data = tokens_to_bytes(record.tokens)
        self.num_bytes += len(data)
        self._zlib_bytes += len(self._zlib.compress(data))
        if self._xz is not None:
            self._xz_bytes += len(self._xz.compress(data))
        if patch_lengths is None:
            self._num_patches = None
        elif self._num_patches is not None:
            self._num_patches += count_byte_patches(record.tokens, patch_lengths)

    def score(self, tokens: np.ndarray, nats: np.ndarray) -> None:
        """Takes the next scored tokens and their -ln p (float32; summed in float64)."""
        nats = nats.astype(np.float64)
        is_byte = tokens >= BYTE_OFFSET
        self.scored_bytes += int(np.count_nonzero(is_byte))
        self._nats += float(nats[is_byte].sum())
        self._eos_nats += float(nats[tokens == EOS_ID].sum())

    def finish(self) -> ScoresRow:
        """Returns the row; all parts must have been read and scored.

        Raises:
          WorkError: the model gave no finite numbers.
        """
        if not math.isfinite(self._nats + self._eos_nats):
            raise WorkError(
                f"document {self._record.doc_id!r}: the model gives it NaN or an infinity, which "
                "is no score. Use --precision float32, or another model."
            )
        zlib_bytes = self._zlib_bytes + len(self._zlib.flush())
        xz_bytes = None if self._xz is None else self._xz_bytes + len(self._xz.flush())
        return ScoresRow(
            doc_id=self._record.doc_id,
            num_bytes=self.num_bytes,
            scored_bytes=self.scored_bytes,
            nats=self._nats,
            eos_nats=self._eos_nats,
            num_patches=self._num_patches,
            zlib_bytes=zlib_bytes,
            xz_bytes=xz_bytes,
            source=self._record.source,
            meta=self._record.meta,
        )
