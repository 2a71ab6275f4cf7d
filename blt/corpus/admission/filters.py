"""Which records are left out by rule. Nothing else is, and each is counted by its reason."""

from blt.dataset.splits import seeded_hash

# The closed list of reasons; the manifest counts them as `filtered_<reason>`.
FILTERS = {
    "blank": "a blank line of JSONL or CSV, or what is too long of the gap between paragraphs",
    "unread_member": "a link, device or sparse file in an archive",
    "left_out_member": "left out by its name in an archive (hidden, marker, leftover)",
    "no_content": "a WARC record of a type without content to keep (request, revisit, …)",
    "not_sampled": "not chosen by --sample",
    "below_min_bytes": "shorter than --min-bytes",
    "above_max_bytes": "longer than --max-bytes",
    "damaged_file": "in a damaged file (--on-damaged-file drop)",
    "duplicate": "the same bytes as an earlier document (--drop-duplicates)",
}
FILTER_COUNTS = tuple(f"filtered_{reason}" for reason in FILTERS)
_RANGE = 2**64


def is_sampled(doc_id: str, share: float) -> bool:
    """Tells whether `--sample share` keeps a document: by a hash of its id alone.

    A larger share keeps all that a smaller one does. The hash is not that of the held-out split.
    """
    return seeded_hash(0, "sample", doc_id) < share * _RANGE
