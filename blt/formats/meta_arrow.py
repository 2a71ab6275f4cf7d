"""Arrow files for Meta's BLT trainer: `bytes-00012-000.shard_00.arrow` for that byte shard.

Arrow's IPC file format, not compressed, a row for each document:

    sample_id  string         the document's id
    text       string         the document; always valid UTF-8
    entropies  list<float16>  nats, one for each of `BOS bytes EOS`: the bytes of `text`, plus two

Entry i of `entropies` is about token i + 1, as that trainer counts: what the model expects after
having read token i. So it is entry i + 1 of our boundaries. The last one is about what follows EOS;
nothing does, no patch depends on it, and it is 0.

Beside each file, `<name>.complete`, empty, says that it is whole.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from blt.dataset.manifest import FORMAT_VERSION

COMPLETE_SUFFIX = ".complete"
MAX_ROW_TOKENS = 2**31 - 1  # Arrow's lists and strings have offsets of 32 bits
_BATCH_TOKENS = 1 << 20
_COLUMNS = [
    pa.field("sample_id", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
    pa.field("entropies", pa.list_(pa.float16()), nullable=False),
]


def meta_arrow_name(byte_shard_name: str) -> str:
    """Returns the name of the Arrow file of a byte shard.

    >>> meta_arrow_name("bytes-00012-000.tfrecord.gz")
    'bytes-00012-000.shard_00.arrow'
    """
    return f"{byte_shard_name.partition('.')[0]}.shard_00.arrow"


def shift_entropies(entropies: np.ndarray) -> np.ndarray:
    """Turns entropies about each token into those about the token after each.

    Args:
      entropies: [num_tokens] nats, of a whole document; entry t is about token t.

    Returns:
      [num_tokens] float16; entry i is about token i + 1, and the last is 0.
    """
    return np.append(entropies[1:], np.zeros(1, entropies.dtype)).astype(np.float16)


class MetaArrowWriter:
    """Writes one Arrow file; to be used inside `blt.dataset.storage.atomic_path`.

    It holds a megabyte of text, or one document if that is longer.

    Args:
      path: the file to make.
      metadata: strings, for the schema.
    """

    def __init__(self, path: Path, *, metadata: Mapping[str, str]) -> None:
        described = {"format_version": str(FORMAT_VERSION), "kind": "meta_arrow", **metadata}
        self._schema = pa.schema(_COLUMNS, metadata=described)
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self._rows: list[tuple[str, str, np.ndarray]] = []
        self._tokens = 0

    def write(self, sample_id: str, text: str, entropies: np.ndarray) -> None:
        """Appends a row; `entropies` [num_tokens] as `shift_entropies` gives them."""
        if self._tokens + len(entropies) > _BATCH_TOKENS:
            self._flush()
        self._rows.append((sample_id, text, entropies))
        self._tokens += len(entropies)

    def _flush(self) -> None:
        if not self._rows:
            return
        sample_ids, texts, entropies = zip(*self._rows, strict=True)
        offsets = np.cumsum([0, *map(len, entropies)], dtype=np.int32)
        flat = pa.array(np.concatenate(entropies), pa.float16())
        arrays = [
            pa.array(sample_ids, pa.string()),
            pa.array(texts, pa.string()),
            pa.ListArray.from_arrays(pa.array(offsets), flat),
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows, self._tokens = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._file.close()
