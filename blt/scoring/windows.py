"""Windows over a document of any length, so that every token is scored once.

    tokens     BOS  .  .  .  .  .  .  .  .  .  .  .  .  . EOS
    window 0   [c   s  s  s  s  s  s  s]
    window 1            [c   c  c  c  c  s  s  s  s]
    window 2                        [c   c  c  c  c  s  s   s]      c context, s scored

A window starts where a patch starts and ends where one ends, so that its patches are those of the
document. It holds at least `min_context` tokens before the first that it scores, or, where patches
are so short that these would take more than half of its patches, half of its patches. Only where a
patch is too long for that is it cut, by the window's start or end.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from blt.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowShape:
    """The size of windows.

    Attributes:
      seq_len: most tokens.
      max_patches: most patches.
      min_context: tokens of context, of those that the document has.
    """

    seq_len: int
    max_patches: int
    min_context: int

    def __post_init__(self) -> None:
        if not 1 <= self.min_context < self.seq_len:
            raise UserError(
                f"--min-context {self.min_context}: must be at least 1 and below the window, "
                f"which is {self.seq_len} tokens."
            )
        if self.max_patches < 3:
            raise UserError(f"max_patches {self.max_patches}: windows need 3 patches at least.")


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
      tokens: [num_tokens] uint16.
      patch_lengths: [num_patches] int32, those of the document, cut to the window.
      first_scored: the first of its tokens that no earlier window scored; at least 1.
      is_last: no window of this document follows.
    """

    tokens: np.ndarray
    patch_lengths: np.ndarray
    first_scored: int
    is_last: bool


def make_windows(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], shape: WindowShape
) -> Iterator[Window]:
    """Yields the windows of one document.

    Args:
      parts: (tokens, patch_lengths) of its parts, in order. Parts are read as they are needed, and
        at most one of them and a window are held. Where they are cut does not show, but that the
        first token of each opens a patch.
      shape: of the windows.
    """
    source = iter(parts)
    tokens, lengths = next(source)
    ends = np.cumsum(lengths)  # counted from the first token held
    upcoming = next(source, None)
    scored = 1  # tokens scored or given (BOS), counted likewise
    is_last = False
    while not is_last:
        start = _window_start(ends, scored, shape)
        while upcoming is not None and len(tokens) - scored <= shape.seq_len:
            kept = int(np.searchsorted(ends, start, side="right"))  # the patch that holds `start`
            base = int(ends[kept - 1]) if kept else 0
            tokens = np.concatenate([tokens[base:], upcoming[0]])
            more = int(ends[-1]) - base + np.cumsum(upcoming[1])
            ends = np.concatenate([ends[kept:] - base, more])
            scored, start = scored - base, start - base
            upcoming = next(source, None)
        end = _window_end(ends, start, shape)
        if end <= scored:  # a patch that does not fit beside its context: both are cut
            start = max(start, scored - shape.min_context)
            end = _window_end(ends, start, shape)
            if end <= scored:
                end = min(start + shape.seq_len, len(tokens))
        is_last = end == len(tokens) and upcoming is None
        inside = slice(*np.searchsorted(ends, [start + 1, end]))  # ends between the window's own
        yield Window(
            tokens=tokens[start:end],
            patch_lengths=np.diff(ends[inside], prepend=start, append=end).astype(np.int32),
            first_scored=scored - start,
            is_last=is_last,
        )
        scored = end


def _window_start(ends: np.ndarray, scored: int, shape: WindowShape) -> int:
    """Returns the start of the patch that begins min_context or more tokens before `scored`."""
    enough = int(np.searchsorted(ends, scored - shape.min_context, side="right"))
    here = int(np.searchsorted(ends, scored, side="right"))  # the patch that holds `scored`
    first = max(enough, here - shape.max_patches // 2)
    return int(ends[first - 1]) if first > 0 else 0


def _window_end(ends: np.ndarray, start: int, shape: WindowShape) -> int:
    """Returns the end of the last patch that fits; `start` if none does."""
    first = int(np.searchsorted(ends, start, side="right"))
    by_tokens = int(np.searchsorted(ends, start + shape.seq_len, side="right"))
    last = min(by_tokens, first + shape.max_patches)
    return int(ends[last - 1]) if last > first else start
