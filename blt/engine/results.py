"""What an engine is to those who use one, and what it tells about a document."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class DocumentEntropies:
    """What the engine finds out about a document, or about a part of a long one.

    Attributes:
      key: what it came with.
      entropies: [num_tokens] float32, nats. Entry i is the model's uncertainty about token i, given
        all tokens of the document before it; 0 for the first token of a document.
      token_nats: [num_tokens] float32, -ln p(token i); 0 for the first token of a document.
    """

    key: Any
    entropies: np.ndarray
    token_nats: np.ndarray


class Engine(Protocol):
    """What finds the entropies of documents: a neural model's engine, or another's.

    Attributes:
      fingerprint: of the model, hexadecimal.
      context: what a prediction looks at, for those who state scores: `context` in words, and its
        sizes by name.
      precision: the number format of its layers: "float32" or "bfloat16".
    """

    fingerprint: str
    context: dict[str, Any]
    precision: str

    def run(
        self, parts: Iterable[tuple], counters: collections.Counter | None = None
    ) -> Iterator[DocumentEntropies]:
        """Yields the result of each document, in the order they came.

        Args:
          parts: (key, tokens) for each document, tokens [num_tokens] integers; or, for a document
            that comes in parts, (key, tokens, is_continuation), where the parts of a document
            follow one another and is_continuation is true for all but the first, which is not
            empty.
          counters: what the run costs is added to it, as it goes: `tokens` put through the model,
            `padding` (places that held no token), `device_microseconds` (summed over threads).
        """
