"""The best and the worst documents, with their patches and the entropies of their bytes."""

import dataclasses
from collections.abc import Iterable, Sequence

from blt.dataset.several import Datasets, as_datasets
from blt.dataset.storage import Place
from blt.errors import UserError
from blt.formats.boundaries import read_boundaries_metadata
from blt.inspection.documents import Document, find_documents, first_documents
from blt.inspection.measures import MIN_RANKED_BYTES, Score, ScoreMeasures
from blt.report.collect import Artefacts
from blt.report.markup import MAX_ID_CHARACTERS, document, escape, heat_legend, paragraph

BEGINNING_BYTES = 600
_FIRST_DOCUMENTS = 4


def render_examples(found: Artefacts) -> str:
    """Returns the section with documents: best and worst, else the first ones."""
    for scores in found.scores:
        if scores.best:
            return _ranked(found, scores)
    for measured in found.patches:
        data = found.byte_shards_of(measured.dataset.manifest)
        if data is not None:
            return _first(found, as_datasets(measured.dataset.manifest), data)
    return ""


def _ranked(found: Artefacts, scores: ScoreMeasures) -> str:
    manifest = scores.dataset.manifest
    data, patches = found.byte_shards_of(manifest), found.boundaries_of(manifest)
    shown: dict[tuple[str, int], Document] = {}
    if data is not None and patches is not None:
        wanted = [(score.doc_id, score.num_bytes) for score in (*scores.best, *scores.worst)]
        shown = find_documents(data, patches, wanted, num_bytes=BEGINNING_BYTES)
    keys = list(shown)
    documents = _with_entropies(found, patches, [shown[key] for key in keys])
    shown = dict(zip(keys, documents, strict=True))
    parts = ['<section id="documents">', "<h2>The best and the worst documents</h2>"]
    parts.append(
        paragraph(
            f"By bits per byte of the {escape(scores.label)}, among documents of "
            f"{MIN_RANKED_BYTES} bytes or more; the first {BEGINNING_BYTES} bytes of each."
        )
    )
    parts.append(_explanation(documents))
    if not shown:
        parts.append(
            paragraph(
                "Their texts are not shown: the byte shards and boundaries they were made from "
                "were not found. Give those folders to the report too.",
                "note",
            )
        )
    for heading, ranked in (("Best", scores.best), ("Worst", scores.worst)):
        for number, score in enumerate(ranked, 1):
            parts.append(f"<h3>{heading} {number}: {escape(score.doc_id, MAX_ID_CHARACTERS)}</h3>")
            parts.append(paragraph(_figures(score, scores.label), "note"))
            if (score.doc_id, score.num_bytes) in shown:
                parts.append(document(shown[score.doc_id, score.num_bytes]))
    parts.append("</section>")
    return "\n".join(parts)


def _figures(score: Score, label: str) -> str:
    figures = [
        f"{score.num_bytes:,} bytes",
        f"{escape(label)} {score.bits_per_byte:.3f} bits per byte",
    ]
    figures += [f"{n} {bits:.3f}" for n, bits in score.baselines.items() if bits is not None]
    return "; ".join(figures)


def _first(found: Artefacts, patches: Datasets, data: Datasets) -> str:
    documents = list(
        first_documents(data, patches, count=_FIRST_DOCUMENTS, num_bytes=BEGINNING_BYTES)
    )
    documents = _with_entropies(found, patches, documents)
    parts = ['<section id="documents">', "<h2>The first documents</h2>", _explanation(documents)]
    for shown in documents:
        parts.append(f"<h3>{escape(shown.doc_id, MAX_ID_CHARACTERS)}</h3>")
        parts.append(paragraph(f"{shown.num_bytes:,} bytes", "note"))
        parts.append(document(shown))
    parts.append("</section>")
    return "\n".join(parts)


def _explanation(documents: Sequence[Document]) -> str:
    if not documents:
        return ""
    notes = (
        "A bar begins each patch. ⏎ is a newline, ⇥ a tab, · a further byte of a character that a "
        "boundary cuts; \\xNN is a byte that is not UTF-8, \\u{N} a character that cannot be shown."
    )
    if all(shown.entropies is not None for shown in documents):
        return heat_legend() + paragraph(
            f"{notes} The colour of a byte is the entropy model's uncertainty about it before it "
            "is read; hold the pointer over a patch for the figures.",
            "note",
        )
    return paragraph(
        f"{notes} The entropies were not kept with the boundaries and the entropy model that made "
        "them is not at hand, so every other patch is shaded instead.",
        "note",
    )


def _with_entropies(
    found: Artefacts, patches: Datasets | None, documents: list[Document]
) -> list[Document]:
    """Adds entropies where they were not kept, if the model that made the boundaries is at hand."""
    missing = [shown for shown in documents if shown.entropies is None]
    if not missing or patches is None:
        return documents
    path = _find_model(found.model_paths, patches)
    if path is None:
        return documents
    from blt.engine import LineEngine, get_entropy_engine

    engine = get_entropy_engine(path)
    if patches.config.get("reset_on_newline"):
        engine = LineEngine(engine)
    # Entropies depend on what came before alone, so the beginnings are enough.
    computed = engine.run((index, shown.tokens) for index, shown in enumerate(missing))
    known = [
        dataclasses.replace(shown, entropies=result.entropies)
        for shown, result in zip(missing, computed, strict=True)
    ]
    kept = iter(known)
    return [next(kept) if shown.entropies is None else shown for shown in documents]


def _find_model(paths: Iterable[Place], patches: Datasets) -> Place | None:
    """Returns the model file whose fingerprint these boundaries name."""
    if not patches.shards:
        return None
    wanted = read_boundaries_metadata(patches.shard_path(patches.shards[0])).get("entropy_model")
    if wanted is None:
        return None
    from blt.engine import get_entropy_engine, import_engine_backend

    for path in paths:
        try:
            import_engine_backend(path)
            if get_entropy_engine(path).fingerprint == wanted:
                return path
        except UserError:  # a model of another kind
            continue
    return None
