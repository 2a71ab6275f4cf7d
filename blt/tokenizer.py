"""The byte vocabulary: ids 0 to 3 are special, and byte `b` is id `b + 4`.

    id     0    1    2    3    4 ... 259
    means  PAD  BOS  EOS  SEP  byte 0 ... byte 255

Any sequence of bytes is legal input, valid UTF-8 or not, and decoding gives it back.
"""

import numpy as np

PAD_ID = 0
BOS_ID = 1
EOS_ID = 2
SEP_ID = 3
BYTE_OFFSET = 4
NEWLINE_ID = ord("\n") + BYTE_OFFSET
VOCAB_SIZE = 256 + BYTE_OFFSET


def frame_tokens(raw_bytes: bytes, *, add_bos: bool = True, add_eos: bool = True) -> np.ndarray:
    """Returns `BOS bytes EOS` as ids.

    Args:
      raw_bytes: the document, or a part of it.
      add_bos: put BOS first (false for all parts of a document but its first).
      add_eos: put EOS last (false for all parts but the last).

    Returns:
      [num_tokens] uint16.

    >>> frame_tokens(b"A").tolist()
    [1, 69, 2]
    """
    tokens = np.empty(len(raw_bytes) + add_bos + add_eos, np.uint16)
    tokens[int(add_bos) : int(add_bos) + len(raw_bytes)] = np.frombuffer(raw_bytes, np.uint8)
    tokens += BYTE_OFFSET
    if add_bos:
        tokens[0] = BOS_ID
    if add_eos:
        tokens[-1] = EOS_ID
    return tokens


def tokens_to_bytes(tokens: np.ndarray) -> bytes:
    """Returns the bytes among `tokens` ([num_tokens] integers); special ids are left out."""
    tokens = np.asarray(tokens)
    return (tokens[tokens >= BYTE_OFFSET] - BYTE_OFFSET).astype(np.uint8).tobytes()


class ByteTokenizer:
    """Text to ids and back, as models offer it to their users.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.text_to_bytes("Aé")
    [1, 69, 199, 173]
    >>> tokenizer.bytes_to_text([1, 69, 199, 173, 2])
    'Aé'
    """

    vocab_size = VOCAB_SIZE
    pad_id, bos_id, eos_id, sep_id = PAD_ID, BOS_ID, EOS_ID, SEP_ID

    def text_to_bytes(self, text: str, add_bos: bool = True, add_eos: bool = False) -> list[int]:
        """Returns the ids of the UTF-8 bytes of `text`.

        Raises:
          UnicodeEncodeError: `text` holds an unpaired surrogate, which UTF-8 cannot hold.
        """
        return frame_tokens(text.encode("utf-8"), add_bos=add_bos, add_eos=add_eos).tolist()

    def bytes_to_text(self, ids: np.ndarray | list[int]) -> str:
        """Returns the text of `ids`; bytes that are not UTF-8 are shown as U+FFFD."""
        return tokens_to_bytes(np.asarray(ids)).decode("utf-8", "replace")
