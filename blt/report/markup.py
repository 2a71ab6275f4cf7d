"""Pieces of HTML. Whatever comes from data goes through `escape`, which makes it text and safe."""

import html
import itertools
from collections.abc import Iterable, Sequence

from blt.inspection.documents import Document, Patch
from blt.inspection.visible import CONTINUATION, NEWLINE, visible_patches, visible_text

# Entropies (nats) at which the next stronger colour begins; ln 260 is 5.56.
HEAT_NATS = (0.25, 0.75, 1.5, 2.25, 3.0, 4.0)
MAX_ID_CHARACTERS = 100
MAX_VALUE_CHARACTERS = 300
_TOOLTIP_BYTES = 24


def escape(text: object, max_characters: int = MAX_VALUE_CHARACTERS) -> str:
    """Returns any value as safe text of one line, for element content and attributes."""
    return html.escape(visible_text(text, max_characters), quote=True)


def paragraph(text: str, css_class: str = "") -> str:
    """Returns a paragraph of markup."""
    return f'<p class="{css_class}">{text}</p>' if css_class else f"<p>{text}</p>"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    text_columns: int = 1,
) -> str:
    """Returns a table; the first `text_columns` columns are text, the others numbers."""

    def cell(tag: str, index: int, value: object) -> str:
        kind = "long" if index < text_columns else "number"
        scope = ' scope="col"' if tag == "th" else ""
        return f'<{tag}{scope} class="{kind}">{escape(value)}</{tag}>'

    def line(tag: str, values: Sequence[object]) -> str:
        return "<tr>" + "".join(cell(tag, i, value) for i, value in enumerate(values)) + "</tr>"

    label = f' aria-label="{escape(caption)}"' if caption else ""
    # The caption stands outside: it must not scroll away with a wide table.
    parts = [paragraph(escape(caption), "note")] if caption else []
    parts.append(f'<div class="scroll"><table{label}>')
    if header:
        parts.append(f"<thead>{line('th', header)}</thead>")
    parts += ["<tbody>", *(line("td", row) for row in rows), "</tbody></table></div>"]
    return "\n".join(parts)


def heat_level(nats: float) -> int:
    """Returns the colour of an entropy, 0 (none) to 6.

    >>> heat_level(0.1), heat_level(1.0), heat_level(5.5)
    (0, 2, 6)
    """
    return sum(nats >= limit for limit in HEAT_NATS)


def heat_legend() -> str:
    """Returns what the colours of entropies mean."""
    edges = [0.0, *HEAT_NATS]
    shown = [f"{low:g}–{high:g}" for low, high in itertools.pairwise(edges)]
    shown.append(f"≥ {edges[-1]:g}")
    spans = [f'<span class="heat-{level}">{text}</span>' for level, text in enumerate(shown)]
    return '<div class="legend">entropy in nats: ' + " ".join(spans) + "</div>"


def document(shown: Document) -> str:
    """Returns the beginning of a document: patches between bars, bytes coloured by entropy.

    Where entropies are not known every other patch is shaded instead.
    """
    parts = ['<div class="document" dir="ltr">']
    patches = list(shown.patches())
    pieces = visible_patches([patch.raw_bytes for patch in patches])
    for index, patch in enumerate(patches):
        size = len(patch.raw_bytes)
        tooltip = f"{size} byte{'s' if size > 1 else ''}"
        if patch.nats is not None:
            figures = " ".join(f"{nats:.2f}" for nats in patch.nats[:_TOOLTIP_BYTES])
            tooltip += f"; nats: {figures}" + (" …" if size > _TOOLTIP_BYTES else "")
        alternate = patch.nats is None and shown.patch_lengths is not None and index % 2
        css = ' class="alternate"' if alternate else ""
        parts.append(f'<i{css} title="{tooltip}">{_coloured(patch, pieces[index])}</i>')
    whole = sum(len(patch.raw_bytes) for patch in patches) >= shown.num_bytes
    parts.append("</div>" if whole else "<s> …</s></div>")
    return "".join(parts)


def _coloured(patch: Patch, pieces: Sequence[tuple[int, str]]) -> str:
    runs: list[tuple[int, str]] = []  # of one colour each
    for byte, text in pieces:
        level = 0 if patch.nats is None else heat_level(float(patch.nats[byte]))
        markup = html.escape(text)
        if patch.raw_bytes[byte] == ord("\n"):
            markup = f"<s>{NEWLINE}</s><br>"
        elif text == CONTINUATION and patch.raw_bytes[byte] != CONTINUATION.encode()[0]:
            markup = f"<s>{CONTINUATION}</s>"
        if runs and runs[-1][0] == level:
            runs[-1] = (level, runs[-1][1] + markup)
        else:
            runs.append((level, markup))
    return "".join(f'<u class="heat-{n}">{text}</u>' if n else text for n, text in runs)
