"""What of a raw corpus is not in its byte shards, as the manifest tells: for `blt decode`."""

import pyarrow as pa

from blt.cli.console import count
from blt.corpus.admission.filters import FILTERS
from blt.corpus.planning.sources import SOURCES_NAME
from blt.corpus.summary import reject_file_lines
from blt.dataset.manifest import Manifest
from blt.dataset.rejects import count_rejects
from blt.dataset.stage import REJECTS_NAME
from blt.errors import WorkError
from blt.formats.parquet import open_parquet

_MAX_NAMED = 5


def not_decoded_lines(manifest: Manifest) -> list[str]:
    """Returns a line for each thing of the corpus that byte shards do not give back.

    Raises:
      WorkError: a table beside the shards cannot be read; names it.
    """
    totals, config = manifest.totals, manifest.config
    lines = []
    if totals.get("rejects"):
        reasons = count_rejects(manifest.folder / REJECTS_NAME)
        words = ", ".join(f"{num:,} {reason}" for reason, num in reasons.most_common())
        lines.append(f"left out, since they were rejected: {words}")
        lines += reject_file_lines(manifest)
    filtered = {what: totals.get(f"filtered_{reason}", 0) for reason, what in FILTERS.items()}
    lines += [f"left out by rule: {num:,} {what}" for what, num in filtered.items() if num]
    num_empty, names = _files_without_documents(manifest)
    if num_empty:
        more = ", …" * (num_empty > len(names))
        lines.append(
            f"{count(num_empty, 'input file')} without a document, not written: "
            f"{', '.join(names)}{more}"
        )
    if config.get("limit") is not None:
        lines.append(f"encoded with --limit {config['limit']:,}; what came after is left out")
    if flags := _flags_that_change_bytes(manifest):
        lines.append(f"encoded with {flags}, so bytes may be others than those that were read")
    return lines


def _files_without_documents(manifest: Manifest) -> tuple[int, list[str]]:
    """Returns how many input files gave no document, and the names of the first of them."""
    path, number, names = manifest.folder / SOURCES_NAME, 0, []
    if not path.is_file():
        return 0, []
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(columns=["source", "documents"]):
                for row in batch.to_pylist():
                    number += not row["documents"]
                    if not row["documents"] and len(names) < _MAX_NAMED:
                        names.append(ascii(row["source"])[1:-1])
    except (pa.ArrowException, OSError) as error:
        raise WorkError(f"{path}: cannot be read ({error}). Encode again.") from error
    return number, names


def _flags_that_change_bytes(manifest: Manifest) -> str:
    config = manifest.config
    changed = manifest.totals.get("invalid_utf8") and config.get("utf8") == "replace"
    flags = {
        "--utf8 replace": bool(changed),
        "--strip-bom": bool(config.get("strip_bom")),
        "--newlines lf": config.get("newlines") == "lf",
    }
    return " and ".join(flag for flag, is_given in flags.items() if is_given)
