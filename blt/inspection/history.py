"""The course of a training: JSON lines with step, kilobytes, bits_per_byte, as trainers write."""

import io
import json
from typing import Any

from blt.dataset.storage import Place, open_read
from blt.errors import UserError

HISTORY_SUFFIX = ".history.jsonl"  # beside an entropy model
RUN_HISTORY = "history.jsonl"  # in the folder of a BLT training run
MAX_HISTORY_RECORDS = 20_000


def read_history(path: Place) -> list[dict[str, Any]]:
    """Reads the course of a training; of a very long one, evenly spaced records.

    Raises:
      UserError: a line is not a record; names it.
    """
    records = []
    with io.TextIOWrapper(open_read(path), encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                float(record["kilobytes"]), float(record["bits_per_byte"])
            except (ValueError, TypeError, KeyError, RecursionError):
                if not line.endswith("\n"):  # the training was stopped while it wrote
                    break
                raise UserError(
                    f"{path}: line {number} is not a record of a training (JSON with kilobytes "
                    "and bits_per_byte expected). Train again, or remove the file."
                ) from None
            records.append(record)
            if len(records) > MAX_HISTORY_RECORDS:
                records = records[::2]
    return records
