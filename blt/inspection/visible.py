"""Bytes and strings from data, made safe to look at: nothing in them can act on the reader.

What a terminal or a browser would obey or hide (control characters, escape sequences, directions of
writing, characters of no width) is written out, as are bytes that are not UTF-8:

    \\xNN   a byte that is not UTF-8
    \\u{N}  a character that cannot be printed, such as U+202E, which turns writing around
    ⏎  ⇥   a newline and a tab
    ·      a further byte of the character before, which a patch boundary has cut
"""

import unicodedata
from collections.abc import Iterator, Sequence

NEWLINE = "⏎"
CONTINUATION = "·"
_TAB = "⇥"
_DOTTED_CIRCLE = "\u25cc"  # what Unicode puts under a combining mark that stands alone


def visible_characters(raw_bytes: bytes) -> Iterator[tuple[int, int, str]]:
    """Yields (start, end, text) for each character of `raw_bytes`, or byte that is part of none.

    `[start, end)` are its bytes; `text` is printable. A newline is `NEWLINE`, without a break.

    >>> list(visible_characters(b"a\\xc3\\xa9\\xff\\n"))
    [(0, 1, 'a'), (1, 3, 'é'), (3, 4, '\\\\xff'), (4, 5, '⏎')]
    """
    start = 0
    # Undecodable bytes come as the surrogates U+DC80 to U+DCFF, which no UTF-8 decodes to.
    for character in raw_bytes.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            yield start, start + 1, f"\\x{code - 0xDC00:02x}"
            start += 1
        else:
            end = start + (1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4)
            text = visible_character(character)
            if start == 0 and unicodedata.combining(character):
                text = _DOTTED_CIRCLE + text
            yield start, end, text
            start = end


def visible_patches(patches: Sequence[bytes]) -> list[list[tuple[int, str]]]:
    """Returns the pieces of each patch: (first byte in the patch, text).

    A character that a boundary cuts stands where its first byte is; each of its bytes in a later
    patch is a `CONTINUATION` there.

    >>> visible_patches([b"a\\xc3", b"\\xa9b"])
    [[(0, 'a'), (1, 'é')], [(0, '·'), (1, 'b')]]
    """
    places = [(patch, byte) for patch, data in enumerate(patches) for byte in range(len(data))]
    pieces: list[list[tuple[int, str]]] = [[] for _ in patches]
    for start, end, text in visible_characters(b"".join(patches)):
        patch, byte = places[start]
        pieces[patch].append((byte, text))
        for later, byte in places[start + 1 : end]:
            if later != patch:
                pieces[later].append((byte, CONTINUATION))
    return pieces


def visible_character(character: str) -> str:
    """Returns one character as it is if it can be printed, else written out."""
    if character == "\n":
        return NEWLINE
    if character == "\t":
        return _TAB
    if character.isprintable():
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 0x80 else f"\\u{{{ord(character):x}}}"


def visible_bytes(raw_bytes: bytes) -> str:
    """Returns bytes as one line of printable characters."""
    return "".join(text for _, _, text in visible_characters(raw_bytes))


def visible_text(text: object, max_characters: int = 0) -> str:
    """Returns a string from data (an id, a name, a value) as one line of printable characters.

    Args:
      text: anything; made a string.
      max_characters: longer ones are cut, with "…" at the end; 0 for no limit.
    """
    shown = "".join(map(visible_character, str(text)))
    if max_characters and len(shown) > max_characters:
        return shown[: max_characters - 1] + "…"
    return shown
