"""Patterns of `--include` and `--exclude`: which names they mean."""

import functools
import re
from collections.abc import Sequence


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Tells whether a relative path is meant by one of the patterns.

    `*` and `?` stand for anything but a slash, `**` for anything, `[ab]` and `[!ab]` for one of, or
    none of, these characters. A pattern without a slash is about the last part of the path.

    >>> matches_any("a/b.txt", ["*.txt"]), matches_any("a/b.txt", ["a/*"])
    (True, True)
    >>> matches_any("a/c/b.txt", ["a/*.txt"]), matches_any("a/c/b.txt", ["a/**/*.txt"])
    (False, True)
    """
    last = name.rpartition("/")[2]
    return any(
        _compile(pattern).fullmatch(name if "/" in pattern else last) is not None
        for pattern in patterns
    )


@functools.lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str]:
    pieces = re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", pattern, re.DOTALL)
    return re.compile("".join(map(_translate, pieces)), re.DOTALL)


def _translate(piece: str) -> str:
    if len(piece) > 2 and piece.startswith("["):
        negated = piece[1] == "!"
        inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", piece[1 + negated : -1])
        try:
            re.compile(f"[{inside}]")
        except re.error:  # such as a range that goes down, which means nothing
            return "(?!)"
        return f"(?!/)[{'^' * negated}{inside}]"
    simple = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return simple.get(piece, re.escape(piece))
