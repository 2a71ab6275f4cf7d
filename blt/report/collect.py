"""What a report is made from: the artefacts found in the folders that were given."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from blt.inspection.artefacts import Dataset, find_by_sha256, find_datasets, open_dataset
from blt.inspection.history import HISTORY_SUFFIX, RUN_HISTORY, read_history
from blt.inspection.measures import (
    BLT,
    ENTROPY_MODEL,
    PatchMeasures,
    ScoreMeasures,
    is_blt_scores,
    measure_patches,
    measure_scores,
)
from blt.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class History:
    """The course of a training: records with step, kilobytes, bits_per_byte, held_out_…"""

    title: str
    records: list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Artefacts:
    """All that a report can say something about; what was not found is empty.

    Attributes:
      datasets: every dataset found, in order.
      scores: measured, BLT before entropy model.
      patches: measured.
      histories: of trainings, in the order of the way of the data.
      model_paths: model files that lie in the folders themselves.
      thresholds: texts of calibration files, by name.
    """

    datasets: list[Dataset]
    scores: list[ScoreMeasures]
    patches: list[PatchMeasures]
    histories: list[History]
    model_paths: list[Path]
    thresholds: dict[str, str]

    def of_kind(self, kind: str) -> list[Dataset]:
        return [dataset for dataset in self.datasets if dataset.manifest.kind == kind]

    def find(self, kind: str, sha256: str | None, near: Path) -> Dataset | None:
        """Returns the dataset with this manifest, from those given or those beside `near`."""
        if sha256 is None:
            return None
        for dataset in self.of_kind(kind):
            if dataset.manifest.sha256 == sha256:
                return dataset
        manifest = find_by_sha256(sha256, near)
        return open_dataset(manifest.folder) if manifest else None

    def byte_shards_of(self, manifest: Manifest) -> Dataset | None:
        return self.find("byte_shards", manifest.parents.get("byte_shards"), manifest.folder)

    def boundaries_of(self, manifest: Manifest) -> Dataset | None:
        """Returns the boundaries a dataset was made with, or those found of the same bytes."""
        named = self.find("boundaries", manifest.parents.get("boundaries"), manifest.folder)
        if named is not None:
            return named
        byte_shards = manifest.parents.get("byte_shards")
        for measured in self.patches:
            if byte_shards and measured.dataset.manifest.parents.get("byte_shards") == byte_shards:
                return measured.dataset
        return None


def collect(folders: Sequence[Path]) -> Artefacts:
    """Finds and measures what lies in `folders` (datasets, or folders of datasets).

    Raises:
      UserError: a folder is missing or holds nothing that a report can be made from.
      WorkError: a shard is damaged.
    """
    datasets = find_datasets(folders)
    of_kind = {
        kind: [dataset for dataset in datasets if dataset.manifest.kind == kind]
        for kind in ("boundaries", "blt_run", "scores")
    }
    scored = sorted(of_kind["scores"], key=lambda dataset: not is_blt_scores(dataset))
    labels = _labels(scored)
    loose = [folder for folder in folders if not (folder / "manifest.json").is_file()]
    return Artefacts(
        datasets=datasets,
        scores=[measure_scores(d, label) for d, label in zip(scored, labels, strict=True)],
        patches=[measure_patches(dataset) for dataset in of_kind["boundaries"]],
        histories=[
            *_entropy_histories(loose),
            *_blt_histories([dataset.manifest.folder for dataset in of_kind["blt_run"]]),
        ],
        model_paths=[
            path
            for folder in loose
            for path in sorted([*folder.glob("*.keras"), *folder.glob("*.ngram")])
        ],
        thresholds={
            path.name: path.read_text(encoding="utf-8", errors="replace")[:4000]
            for folder in loose
            for path in sorted(folder.glob("threshold*.yaml"))
        },
    )


def _labels(scored: Sequence[Dataset]) -> list[str]:
    """Names each dataset of scores by its model; by its folder too, where that is not enough."""
    models = [BLT if is_blt_scores(dataset) else ENTROPY_MODEL for dataset in scored]
    return [
        model if models.count(model) == 1 else f"{model} ({dataset.name})"
        for model, dataset in zip(models, scored, strict=True)
    ]


def _entropy_histories(folders: Sequence[Path]) -> list[History]:
    paths = [path for folder in folders for path in sorted(folder.glob(f"*{HISTORY_SUFFIX}"))]
    several = len(paths) > 1
    return [
        History(f"Entropy model{f' ({path.name})' if several else ''}", read_history(path))
        for path in paths
    ]


def _blt_histories(folders: Sequence[Path]) -> list[History]:
    several = len(folders) > 1
    return [
        History(f"BLT{f' ({folder.name})' if several else ''}", read_history(folder / RUN_HISTORY))
        for folder in folders
        if (folder / RUN_HISTORY).is_file()
    ]
