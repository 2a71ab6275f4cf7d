"""How much of an input was lost: in records, files, members of archives and stored bytes.

A stage counts each in its totals as `lost_<what>` of `input_<what>`. A reject that stands for many
records, such as a file that was given up, counts as what it stands for: its records where the
format tells them, else its file and its bytes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from blt.cli.console import count

DEFAULT_MAX_LOST_FRACTION = 0.01
KINDS = ("records", "files", "members", "bytes")


@dataclasses.dataclass(frozen=True)
class Share:
    """How much of one kind was lost.

    Attributes:
      kind: one of `KINDS`.
      lost, total: of that kind.
    """

    kind: str
    lost: int
    total: int

    @property
    def fraction(self) -> float:
        return self.lost / self.total if self.total else 0.0

    def exceeds(self, limit: float) -> bool:
        return self.lost > limit * self.total

    def __str__(self) -> str:
        return f"{_percent(self.fraction)} of {self.kind} ({self.lost:,} of {self.total:,})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What a stage finds when all its units are done.

    Attributes:
      totals: counts that no unit can tell by itself; they replace those of the same name.
      lost_inputs: the inputs that lost most, worst first: `source`, `reason` (why it was given up,
        or None), `records` and `bytes`.
      invalid_utf8_inputs: those with most documents that are not UTF-8, most first: `source`,
        `documents`, `invalid_utf8` of these, and the id of the `first`.
    """

    totals: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lost_inputs: Sequence[Mapping[str, Any]] = ()
    invalid_utf8_inputs: Sequence[Mapping[str, Any]] = ()


def lost_shares(totals: Mapping[str, int]) -> list[Share]:
    """Returns the shares that a stage's totals tell, in the order of `KINDS`.

    A stage that counts no loss of records loses its rejects.
    """
    counts = {"input_records": totals.get("records", 0), "lost_records": totals.get("rejects", 0)}
    counts.update(totals)
    return [
        Share(kind, counts[f"lost_{kind}"], counts[f"input_{kind}"])
        for kind in KINDS
        if counts.get(f"input_{kind}")
    ]


def shares_to_json(totals: Mapping[str, int]) -> dict[str, float]:
    """Returns the lost fraction of each kind, rounded to six decimals."""
    return {share.kind: round(share.fraction, 6) for share in lost_shares(totals)}


def describe_loss(totals: Mapping[str, int]) -> str:
    """Words the shares: "94.3 % of records (5,000 of 5,300), 50 % of files (1 of 2), …"."""
    return ", ".join(str(share) for share in lost_shares(totals))


def describe_lost_input(row: Mapping[str, Any]) -> str:
    """Words what one input lost, from a row of the manifest's `lost.inputs`."""
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{ascii(row['source'])[1:-1]} ({count(row['records'], 'record')}{reason})"


def describe_invalid_input(row: Mapping[str, Any]) -> str:
    """Words what of one input is not UTF-8, from a row of the manifest's `invalid_utf8.inputs`."""
    documents = count(row["documents"], "document")
    first = "" if row["first"] == row["source"] else f"; the first is {ascii(row['first'])[1:-1]}"
    return f"{ascii(row['source'])[1:-1]} ({row['invalid_utf8']:,} of {documents}{first})"


def _percent(fraction: float) -> str:
    if 0 < fraction < 0.0001:
        return "less than 0.01 %"
    return f"{100 * fraction:.3g} %"
