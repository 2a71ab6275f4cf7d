"""How the artefacts were made: versions, lineage, fingerprints, configs."""

from blt.dataset.manifest import describe_kind
from blt.dataset.several import each_parent
from blt.inspection.artefacts import Dataset, flatten
from blt.report.collect import Artefacts
from blt.report.markup import escape, table

SHORT_HEX = 12
_MAX_LISTED = 20  # values of one key of a config, such as the inputs


def render_made(found: Artefacts) -> str:
    """Returns the section with each dataset's origin and config."""
    if not found.datasets and not found.thresholds:
        return ""
    names = {dataset.manifest.sha256: dataset.name for dataset in found.datasets}
    parts = ['<section id="made">', "<h2>How it was made</h2>"]
    rows = [_lineage(dataset, names) for dataset in found.datasets]
    header = ("dataset", "what", "manifest", "made from", "models", "blt")
    parts.append(
        table(
            header,
            rows,
            caption=f"Lineage: the first {SHORT_HEX} digits of each sha256",
            text_columns=len(header),
        )
    )
    for dataset in found.datasets:
        manifest = dataset.manifest
        rows = [(key, _words(value)) for key, value in flatten(manifest.config)]
        rows += [(key, f"{value:,}") for key, value in manifest.totals.items()]
        rows.append(("shards", f"{len(manifest.shards):,}"))
        parts.append(f"<h3>{escape(dataset.name)}: {escape(describe_kind(manifest.kind))}</h3>")
        parts.append(table((), rows, text_columns=2))
    for path, text in found.thresholds.items():
        lines = [escape(line) for line in text.splitlines()]
        parts.append(f"<h3>{escape(path.name)}</h3>")
        parts.append(f'<div class="document">{"<br>".join(lines)}</div>')
    parts.append("</section>")
    return "\n".join(parts)


def _lineage(dataset: Dataset, names: dict[str, str]) -> tuple[str, ...]:
    manifest = dataset.manifest
    parents = [
        f"{names.get(sha256, describe_kind(kind))} {sha256[:SHORT_HEX]}"
        for kind, sha256 in each_parent(manifest.parents)
    ]
    models = [
        f"{role.replace('_', ' ')} {value[:SHORT_HEX]}"
        for role, value in manifest.fingerprints.items()
    ]
    return (
        dataset.name,
        describe_kind(manifest.kind),
        manifest.sha256[:SHORT_HEX],
        ", ".join(parents),
        ", ".join(models),
        dataset.blt_version,
    )


def _words(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:_MAX_LISTED]))
        left_out = len(value) - _MAX_LISTED
        return f"{shown}, … and {left_out:,} more" if left_out > 0 else shown
    return str(value)
