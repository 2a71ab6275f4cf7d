"""How figures of patches are put, wherever people read them."""

from collections.abc import Mapping
from typing import Any

from blt.patching.rules import INSIDE_CHARACTERS


def inside_characters_words(totals: Mapping[str, int], config: Mapping[str, Any]) -> str | None:
    """Words how many patches begin inside a UTF-8 character, what that means and what changes it.

    Args:
      totals: of boundaries, with `patches`; None is returned where they do not tell.
      config: of the boundaries.
    """
    number = totals.get(INSIDE_CHARACTERS)
    if number is None:
        return None
    words = f"{number:,} begin{'s' * (number == 1)} inside a UTF-8 character"
    if not number:
        return words
    return f"{words} ({_percent(number / max(1, totals['patches']))}): {_meaning(config)}"


def share_inside_words(share: float, config: Mapping[str, Any]) -> str:
    """Words the same of a share of the patches, in [0, 1]."""
    words = f"{_percent(share)} of patches begin inside a UTF-8 character"
    return f"{words}: {_meaning(config)}" if share else words


def _meaning(config: Mapping[str, Any]) -> str:
    meaning = "such characters are split between patches"
    if config.get("snap_utf8"):
        return f"{meaning}, by --max-patch-length, which cuts what --snap-utf8 has moved"
    return f"{meaning}; --snap-utf8 moves these boundaries to the characters' first bytes"


def _percent(share: float) -> str:
    return "less than 0.01 %" if 0 < share < 0.0001 else f"{100 * share:.3g} %"
