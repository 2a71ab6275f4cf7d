"""How inspection puts things: sizes, values, and documents with their patches, safe to print."""

from collections.abc import Iterable, Mapping
from typing import Any

from blt.cli.command import Summary
from blt.inspection.documents import Document
from blt.inspection.visible import visible_patches, visible_text

BAR = "|"
MAX_VALUE_CHARACTERS = 200
SHORT_HEX = 12


def value_words(value: Any) -> str:
    """Returns a config value in words, printable, on one line."""
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(visible_text(item) for item in value[:20]) + ", …" * (len(value) > 20)
    if isinstance(value, int):
        return f"{value:,}"
    return visible_text(value, MAX_VALUE_CHARACTERS)


def table_lines(pairs: Iterable[tuple[str, Any]], indent: str = "  ") -> list[str]:
    """Returns "name   value" lines, the values under one another."""
    rows = [(visible_text(name), value_words(value)) for name, value in pairs]
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{indent}{name:<{width}}  {value}".rstrip() for name, value in rows]


def document_lines(shown: Document, note: str = "") -> list[str]:
    """Returns a document's beginning: its patches between bars, line by line as its text is.

    A bar of the document's own is written `\\|`.
    """
    head = f"  {visible_text(shown.doc_id, MAX_VALUE_CHARACTERS)} ({shown.num_bytes:,} bytes"
    if shown.num_parts > 1:
        head += f" in part 0 of {shown.num_parts}"
    lines = [f"{head}{note})"]
    patches = [patch.raw_bytes for patch in shown.patches()]
    if not patches:
        return [*lines, "    (empty)"]
    current = BAR if shown.patch_lengths is not None else ""
    for raw_bytes, pieces in zip(patches, visible_patches(patches), strict=True):
        for byte, text in pieces:
            current += "\\|" if text == BAR else text
            if raw_bytes[byte] == ord("\n"):
                lines.append(f"    {current}")
                current = ""
        current += BAR if shown.patch_lengths is not None else ""
    if sum(map(len, patches)) < shown.num_bytes:
        current += "…"
    return [*lines, f"    {current}"] if current else lines


def document_data(shown: Document) -> dict[str, Any]:
    """Returns the same as data."""
    patches = [patch.raw_bytes for patch in shown.patches()]
    texts = ["".join(text for _, text in pieces) for pieces in visible_patches(patches)]
    data = {"doc_id": shown.doc_id, "bytes": shown.num_bytes, "text": "".join(texts)}
    if shown.patch_lengths is not None:
        data["patches"] = texts
        data["patch_bytes"] = [len(raw_bytes) for raw_bytes in patches]
    return data


def join(first: Summary, *others: Summary) -> Summary:
    """Returns several descriptions as one."""
    data, lines = dict(first.data), list(first.lines)
    for other in others:
        data.update(other.data)
        lines += ["", *other.lines] if other.lines else []
    return Summary(data, lines)


def counts_words(counts: Mapping[str, int]) -> str:
    """Returns "404 documents, 12 rejects"; zeros are left out."""
    return ", ".join(
        f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items() if value
    )
