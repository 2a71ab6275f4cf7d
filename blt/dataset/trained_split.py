"""Which documents a model was trained on, as the files beside it say; and in words, of scores."""

import dataclasses
from typing import Any

from blt.cli.console import count
from blt.dataset.manifest import MANIFEST_NAME, read_manifest
from blt.dataset.several import is_made_from
from blt.dataset.splits import is_held_out
from blt.dataset.storage import Place, place_errors, read_json
from blt.errors import UserError


@dataclasses.dataclass(frozen=True)
class TrainedSplit:
    """The held-out documents of a training: those that `is_held_out` finds.

    Attributes:
      fraction: of the documents.
      seed: of the hash that chooses them.
      byte_shards: sha256 of the manifest of the byte shards that it was trained on, of several
        joined as `blt.dataset.several` does; None if nothing tells.
    """

    fraction: float
    seed: int
    byte_shards: str | None = None

    def was_on(self, byte_shards: str) -> bool:
        """Tells whether the training was on the byte shards with this manifest, among others."""
        return is_made_from(self.byte_shards, byte_shards)

    def holds(self, doc_id: str) -> bool:
        """Tells whether a document of these byte shards was trained on."""
        return not is_held_out(doc_id, fraction=self.fraction, seed=self.seed)

    def covers(self, *, fraction: float, seed: int) -> bool:
        """Tells whether all documents that these hold out were held out from the training, too."""
        return seed == self.seed and fraction <= self.fraction


def read_trained_split(model: Place, note: Place, fingerprint: str) -> TrainedSplit | None:
    """Returns the split that a model was trained with; None if nothing beside it tells.

    Args:
      model: its file. The manifest of a training run beside it tells, or else
      note: the note about it.
      fingerprint: of the model; what is about another one does not count.

    Raises:
      UserError: the place cannot be asked.
    """
    for beside in (model.parent / MANIFEST_NAME, note):
        with place_errors(beside):  # that a store does not answer does not tell of no run
            beside.is_file()
    try:
        manifest = read_manifest(model.parent, "blt_run")
        if manifest.fingerprints.get("blt") == fingerprint:
            return _read(manifest.config, manifest.parents)
    except UserError:
        pass  # no run
    try:
        value = read_json(note)
        if value["summary"]["fingerprint"] == fingerprint:
            return _read(value["identity"]["config"], value["identity"]["parents"])
    except (UserError, KeyError, TypeError):
        pass  # no note, or another's file
    return None


def _read(config: dict[str, Any], parents: dict[str, Any]) -> TrainedSplit | None:
    fraction = config.get("valid_fraction")
    seed = config.get("split_seed", config.get("seed"))
    if not isinstance(fraction, int | float) or not isinstance(seed, int):
        return None
    return TrainedSplit(float(fraction), seed, parents.get("byte_shards"))


def trained_share(summary: dict[str, Any]) -> float | None:
    """Returns the share of the bytes scored that the model was trained on; None if nothing tells.

    Args:
      summary: as `_summary.json` of scores has it.
    """
    trained_on = summary.get("trained_on")
    if trained_on is None:
        return None
    return trained_on["bytes"] / summary["bytes"] if summary.get("bytes") else 0.0


def is_of_held_out(summary: dict[str, Any]) -> bool:
    """Tells whether scores are of documents that were held out, as far as anything tells."""
    return summary.get("split") == "valid" and not trained_share(summary)


def which_documents(summary: dict[str, Any]) -> str:
    """Returns what was scored, in words: "held-out documents", "documents (90% trained on)"."""
    share = trained_share(summary)
    if is_of_held_out(summary):
        return "held-out documents"
    if share is None:
        return "documents"
    return f"documents ({share:.0%} of the text trained on)"


def describe_documents(summary: dict[str, Any]) -> str:
    """Returns how many were scored, in words: "3 held-out documents", "9 documents, of which …"."""
    documents, share = summary["documents"], trained_share(summary)
    if is_of_held_out(summary):
        return count(documents, "held-out document")
    if share is None:
        return count(documents, "document")
    return (
        f"{count(documents, 'document')}, of which {summary['trained_on']['documents']:,} were "
        f"trained on ({share:.1%} of the bytes)"
    )
