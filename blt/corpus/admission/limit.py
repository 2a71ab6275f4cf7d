"""`--limit`: the plan ends with the document that is the last to be wanted."""

from collections.abc import Sequence
from typing import Any

from blt.corpus.admission.admission import Admission
from blt.corpus.config import EncodeConfig
from blt.corpus.records import Document
from blt.dataset.units import Progress, no_progress


def limit_plan(
    payloads: Sequence[dict[str, Any]],
    limit: int,
    config: EncodeConfig,
    progress: Progress = no_progress,
) -> list[Any]:
    """Returns the payloads up to the one that holds document number `limit`.

    That one is cut after the file with the document, and has `max_documents`. Documents are those
    that pass all filters but for duplicates. Finding it takes reading the input up to there, in
    this process; nothing after it is ever read. `progress` is told of documents, not of bytes.

    Raises:
      WorkError: a file cannot be read.
    """
    left = limit
    limited = []
    for payload in payloads:
        admission = Admission({"max_documents": left}, config)
        before, files = left, []
        for entry in payload["files"]:
            files.append(entry)
            for record in admission.read(entry):
                if isinstance(record, Document):
                    left -= 1
                    progress(1)
            if left == 0:
                return [*limited, {"files": files, "max_documents": before}]
        limited.append(payload)
    return limited
