"""The report: one HTML file that needs nothing else, made from what the stages left.

Sections appear for what was found. The same input gives the same bytes: there is no date in it.
"""

import re
from collections.abc import Sequence
from typing import Any

from blt.cli.console import count, format_bytes
from blt.dataset.manifest import describe_kind
from blt.dataset.storage import Place, atomic_path
from blt.dataset.trained_split import trained_share, which_documents
from blt.inspection.measures import MAX_POINTS, ScoreMeasures
from blt.patching.words import inside_characters_words
from blt.report.charts import draw_distributions, draw_losses, draw_patch_lengths, draw_sizes
from blt.report.collect import Artefacts, same_documents
from blt.report.examples import render_examples
from blt.report.made import render_made
from blt.report.markup import MAX_ID_CHARACTERS, escape, paragraph, table
from blt.report.style import STYLE

_IDENTIFIER = re.compile(r'(\bid="|href="#|url\(#)')
_OTHERS = ("zlib", "xz")
_SPLITS = {
    "valid": "the held-out split",
    "train": "the split for training",
    "all": "all documents",
}
_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
"""


def render_page(found: Artefacts) -> str:
    """Returns the whole page."""
    title = "Byte Latent Transformer: report"
    corpora = found.corpora()
    parts = [f"<h1>{title}</h1>"]
    if len(corpora) > 1:
        links = (
            f'<li><a href="#corpus{number}">{escape(corpus.name)}</a></li>'
            for number, corpus in enumerate(corpora, 1)
        )
        note = f"{len(corpora)} corpora, each by itself; figures of one say nothing of another."
        parts.append(paragraph(note, "note") + f"<ul>{''.join(links)}</ul>")
    for number, corpus in enumerate(corpora, 1):
        body = _render_corpus(corpus)
        if len(corpora) > 1:
            body = _IDENTIFIER.sub(rf"\g<1>c{number}-", body)
            heading = f'<h1 id="corpus{number}">{escape(corpus.name)}</h1>'
            body = f'<section class="corpus">\n{heading}\n{body}\n</section>'
        parts.append(body)
    body = "\n".join(parts)
    return _HEAD.format(title=title, style=STYLE) + f"<main>\n{body}\n</main>\n</body>\n</html>\n"


def _render_corpus(found: Artefacts) -> str:
    sections = [
        f"<header>{_headline(found)}</header>",
        _losses(found),
        _patch_lengths(found),
        _distributions(found),
        *(_compressors_ahead(scores, found) for scores in found.scores[:1]),
        render_examples(found),
        render_made(found),
    ]
    return "\n".join(part for part in sections if part)


def section(identifier: str, heading: str, *parts: str) -> str:
    """Returns a section of the page."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{identifier}">\n<h2>{escape(heading)}</h2>\n{body}\n</section>'


def figure(svg: str, caption: str) -> str:
    """Returns a chart with its caption, which is markup."""
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def headline_figures(found: Artefacts) -> list[dict[str, Any]]:
    """Returns the figures of each corpus, as data; what is not known is left out."""
    return [{"corpus": corpus.name or None, **_figures_of(corpus)} for corpus in found.corpora()]


def _figures_of(found: Artefacts) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind in ("byte_shards", "boundaries", "scores"):
        datasets = found.of_kind(kind)
        if datasets:
            # Byte shards are several where they were used together; of others, one tells of all.
            told = datasets if kind == "byte_shards" else datasets[:1]
            for name in ("documents", "bytes"):
                figures[name] = sum(d.manifest.totals.get(name, 0) for d in told)
            break
    for measured in found.patches[:1]:
        totals = measured.dataset.manifest.totals
        if totals.get("patches"):
            figures["mean_patch_bytes"] = totals["bytes"] / totals["patches"]
    figures["bits_per_byte"] = {}
    for group in same_documents(found.scores)[:1]:
        figures["bits_per_byte"] = _bits_of(group)
    figures["scores"] = [_figures_of_scores(scores) for scores in found.scores]
    return figures


def _bits_of(group: Sequence[ScoreMeasures]) -> dict[str, float]:
    """Returns the bits per byte of models, and of compressors, over the same documents."""
    bits = {scores.label: scores.summary.get("bits_per_byte") for scores in group}
    for name in _OTHERS:
        bits[name] = group[0].summary.get(f"{name}_bits_per_byte")
    return {name: value for name, value in bits.items() if value is not None}


def _figures_of_scores(scores: ScoreMeasures) -> dict[str, Any]:
    """Returns the figures of one dataset of scores, with the documents that they are of."""
    summary = scores.summary
    names = ("split", "documents", "bytes", "trained_on", "bits_per_byte")
    compressors = {
        f"{name}_bits_per_byte": summary.get(f"{name}_bits_per_byte") for name in _OTHERS
    }
    return {"model": scores.label, **{name: summary.get(name) for name in names}, **compressors}


def _headline(found: Artefacts) -> str:
    figures = _figures_of(found)
    cards = []
    if "documents" in figures:
        cards.append((f"{figures['documents']:,}", "documents"))
        cards.append((format_bytes(figures["bytes"]), "of text"))
    if "mean_patch_bytes" in figures:
        cards.append((f"{figures['mean_patch_bytes']:.2f}", "bytes in a patch, on average"))
    bits = figures["bits_per_byte"]
    for scores in found.scores[:1]:
        if scores.label in bits:
            words = f"bits per byte, {scores.label}, {which_documents(scores.summary)}"
            cards.append((f"{bits[scores.label]:.3f}", words))
    items = [f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for value, name in cards]
    parts = [f'<ul class="figures">{"".join(items)}</ul>'] if items else []
    parts += [_comparison(group) for group in same_documents(found.scores) if _bits_of(group)]
    kinds = dict.fromkeys(describe_kind(d.manifest.kind) for d in found.datasets)
    if kinds:
        made_of = f'Made from {escape(", ".join(kinds))}; <a href="#made">how they were made</a>.'
        parts.append(paragraph(made_of, "note"))
    return "\n".join(parts)


def _comparison(group: Sequence[ScoreMeasures]) -> str:
    """Returns the table of models and compressors over the same documents."""
    bits, summaries = _bits_of(group), {scores.label: scores.summary for scores in group}
    rows = []
    for name, value in sorted(bits.items(), key=lambda item: item[1]):
        summary = summaries.get(name)
        against = f"{value - bits['zlib']:+.3f}" if "zlib" in bits and name != "zlib" else ""
        trained_on = "" if summary is None else _share_words(trained_share(summary))
        of = group[0].summary if summary is None else summary
        size = "" if of.get("bytes") is None else format_bytes(of["bytes"])
        rows.append(
            (name, f"{value:.3f}", against, f"{of.get('documents', 0):,}", size, trained_on)
        )
    split = group[0].summary.get("split")
    return table(
        ("", "bits per byte", "against zlib", "documents", "text", "of it trained on"),
        rows,
        caption=f"Bits per byte of {_SPLITS.get(split, 'documents')}: all bits over all bytes. "
        "Compressors get each document alone.",
    )


def _share_words(share: float | None) -> str:
    return "not known" if share is None else f"{share:.0%}"


def _losses(found: Artefacts) -> str:
    charts = []
    zlib = None
    for scores in found.scores[:1]:
        zlib = scores.summary.get("zlib_bits_per_byte")
    for index, history in enumerate(found.histories):
        if not history.records:
            continue
        last = history.records[-1]
        steps = last.get("step")
        held_out = [
            record["held_out_bits_per_byte"]
            for record in history.records
            if "held_out_bits_per_byte" in record
        ]
        caption = f"<b>{escape(history.title)}</b>: "
        caption += f"{count(steps, 'step')}, " if isinstance(steps, int) else ""
        caption += f"{format_bytes(last['kilobytes'] * 1000)} of text seen; training ended at "
        caption += f"{last['bits_per_byte']:.3f} bits per byte"
        caption += f", held out {held_out[-1]:.3f}." if held_out else "."
        svg = draw_losses(f"loss{index}", history.title, history.records, zlib)
        charts.append(figure(svg, caption))
    if not charts:
        return ""
    note = paragraph(
        "Held-out text is never trained on; while training goes on, only a part of it is looked "
        "at, so these figures differ a little from the scores.",
        "note",
    )
    return section("losses", "Training", f'<div class="charts">{"".join(charts)}</div>', note)


def _patch_lengths(found: Artefacts) -> str:
    charts = []
    for index, measured in enumerate(found.patches):
        manifest = measured.dataset.manifest
        num_patches = int(measured.lengths.sum())
        if not num_patches:
            continue
        rule = manifest.config.get("rule", "")
        caption = f"{num_patches:,} patches of <code>{escape(measured.dataset.name)}</code>"
        caption += f", rule {escape(rule)}" if rule else ""
        caption += f"; the longest has {measured.longest:,} bytes. BOS is not counted, EOS is."
        if (inside := inside_characters_words(manifest.totals, manifest.config)) is not None:
            caption += f" Of all, {escape(inside)}."
        if measured.is_sampled:
            caption += f" From {measured.num_rows:,} documents, a part of the dataset."
        charts.append(figure(draw_patch_lengths(f"patches{index}", measured.lengths), caption))
    if not charts:
        return ""
    return section("patches", "Patch lengths", f'<div class="charts">{"".join(charts)}</div>')


def _distributions(found: Artefacts) -> str:
    groups = same_documents([scores for scores in found.scores if scores.num_scored])
    measured = groups[0] if groups else []
    if not measured:
        return ""
    first = measured[0]
    histograms = {scores.label: scores.histograms[scores.label] for scores in measured[:3]}
    if "zlib" in first.histograms:
        histograms["zlib"] = first.histograms["zlib"]
    shown = {name: first.points[name] for name in (first.label, "zlib") if name in first.points}
    sampled = "".join(
        f" Of the {escape(scores.label)}'s scores, {scores.num_rows:,} rows were read, not all."
        for scores in measured
        if scores.is_sampled
    )
    over = f"{first.num_scored:,} {which_documents(first.summary)}"
    count = min(first.num_scored, MAX_POINTS)
    some = "Every" if count == first.num_scored else f"A random sample of {count:,}: every"
    charts = [
        figure(
            draw_distributions("distribution", histograms),
            f"How many bits a byte takes, over {over}.{sampled}",
        ),
        figure(
            draw_sizes("sizes", shown),
            f"{some} document is a point for each method; zlib is ahead where its points are the "
            "lower ones.",
        ),
    ]
    return section("scores", "Bits per byte", f'<div class="charts">{"".join(charts)}</div>')


def context_bytes(score_spec: dict[str, Any]) -> int | None:
    """Returns how far back a model sees, from how it was scored; None if that is not known.

    A BLT sees its window alone; each layer of an entropy model sees a window of the layer below.
    """
    window = score_spec.get("window")
    if not isinstance(window, int):
        return None
    return 1 + score_spec.get("num_layers", 1) * (window - 1)


def _compressors_ahead(scores: ScoreMeasures, found: Artefacts) -> str:
    if not scores.ahead:
        return ""
    parts = []
    for name, number in scores.ahead.items():
        size = scores.ahead_bytes[name]
        if not number:
            near = scores.nearest[name]
            parts.append(
                paragraph(
                    f"<b>{name}</b> is ahead of the {escape(scores.label)} at none of "
                    f"{scores.num_scored:,} documents. It comes nearest at "
                    f"<code>{escape(near.doc_id, MAX_ID_CHARACTERS)}</code> "
                    f"({near.num_bytes:,} bytes): {near.baselines[name]:.3f} against "
                    f"{near.bits_per_byte:.3f} bits per byte."
                )
            )
            continue
        others = scores.num_scored - number
        words = (
            f"<b>{name}</b> needs fewer bits than the {escape(scores.label)} for {number:,} of "
            f"{scores.num_scored:,} documents ({number / scores.num_scored:.1%}): "
            f"{size / number:,.0f} bytes long on average"
        )
        if others:
            words += f", where the others have {(scores.bytes - size) / others:,.0f}"
        parts.append(paragraph(f"{words}."))
    if any(scores.ahead.values()):
        parts.append(paragraph(_what_each_sees(scores, found)))
    for name, largest in list(scores.largest_ahead.items())[:1]:
        others = [other for other in scores.largest_ahead if other != name]
        rows = [
            (
                score.doc_id,
                f"{score.num_bytes:,}",
                f"{score.bits_per_byte:.3f}",
                *(_figure(score.baselines[compressor]) for compressor in (name, *others)),
            )
            for score in largest
        ]
        if rows:
            header = ("document", "bytes", scores.label, name, *others)
            caption = f"The largest documents at which {name} is ahead, in bits per byte"
            parts.append(table(header, rows, caption=caption))
    return section("ahead", "Where compressors are still ahead", *parts)


def _what_each_sees(scores: ScoreMeasures, found: Artefacts) -> str:
    """Says what is known of what the model and zlib go by; not why one of them is ahead."""
    reach = context_bytes(scores.score_spec)
    sees = f"sees {reach:,} bytes" if reach else "sees a window of bytes"
    words = f"Where it scores a byte, the {escape(scores.label)} {sees} at most, zlib 32 KB"
    for history in found.histories:
        fingerprints = scores.dataset.manifest.fingerprints.values()
        if history.fingerprint in fingerprints and history.records:
            seen = format_bytes(history.records[-1]["kilobytes"] * 1000)
            words += f"; the model was trained on {seen} of text"
    return f"{words}."


def _figure(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.3f}"


def write_page(found: Artefacts, output: Place) -> int:
    """Writes the page to `output`, atomically; returns its size in bytes."""
    data = render_page(found).encode("utf-8")
    with atomic_path(output) as temporary:
        temporary.write_bytes(data)
    return len(data)
