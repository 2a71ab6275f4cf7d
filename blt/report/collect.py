"""What a report is made from: the artefacts found in the folders that were given."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from blt.dataset.manifest import MANIFEST_NAME, Manifest
from blt.dataset.several import SEPARATOR, Datasets
from blt.dataset.storage import Place
from blt.dataset.trained_split import is_of_held_out
from blt.inspection.artefacts import Dataset, find_datasets, find_parents
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


@dataclasses.dataclass(frozen=True)
class History:
    """The course of a training.

    Attributes:
      title: of the model.
      records: with step, kilobytes, bits_per_byte, held_out_….
      folder: where it lies.
      fingerprint: of the model; None if nothing tells.
    """

    title: str
    records: list[dict[str, float]]
    folder: Place
    fingerprint: str | None = None


@dataclasses.dataclass(frozen=True)
class Artefacts:
    """All that a report can say something about; what was not found is empty.

    Attributes:
      datasets: every dataset found, in order.
      scores: measured, BLT before entropy model.
      patches: measured.
      histories: of trainings, in the order of the way of the data.
      model_paths: model files that lie in the folders themselves.
      thresholds: texts of calibration files, by path.
      name: of the corpus that all is of; "" if it is the only one.
    """

    datasets: list[Dataset]
    scores: list[ScoreMeasures]
    patches: list[PatchMeasures]
    histories: list[History]
    model_paths: list[Place]
    thresholds: dict[Place, str]
    name: str = ""

    def corpora(self) -> list["Artefacts"]:
        """Returns what belongs together: of one corpus each, as the byte shards' manifest tells.

        Byte shards that were used together are one corpus.
        What nothing tells of belongs to the corpus of the folder that it lies in, if there is one.
        """
        named = [self._key(dataset) for dataset in self.datasets]
        first_of = _used_together(key for key in named if key is not None)
        keys = {
            id(dataset): key and first_of[key.partition(SEPARATOR)[0]]
            for dataset, key in zip(self.datasets, named, strict=True)
        }
        of_folder: dict[Place, set[str]] = {}
        for dataset in self.datasets:
            if (key := keys[id(dataset)]) is not None:
                folder = dataset.manifest.folder.resolve().parent
                of_folder.setdefault(folder, set()).add(key)
        known = list(dict.fromkeys(key for key in keys.values() if key is not None))

        def beside(folder: Place) -> str | None:
            found = set(known) if len(known) == 1 else of_folder.get(folder.resolve(), set())
            return next(iter(found)) if len(found) == 1 else None

        for dataset in self.datasets:
            if keys[id(dataset)] is None:
                keys[id(dataset)] = beside(dataset.manifest.folder.resolve().parent)

        def of(key: str | None) -> "Artefacts":
            datasets = [dataset for dataset in self.datasets if keys[id(dataset)] == key]
            folders = {dataset.manifest.folder.resolve() for dataset in datasets}

            def is_of(folder: Place) -> bool:
                return folder.resolve() in folders or beside(folder) == key

            return dataclasses.replace(
                self,
                datasets=datasets,
                scores=_labelled(
                    itertools.chain.from_iterable(
                        same_documents([s for s in self.scores if keys[id(s.dataset)] == key])
                    )
                ),
                patches=[p for p in self.patches if keys[id(p.dataset)] == key],
                histories=[h for h in self.histories if is_of(h.folder)],
                model_paths=[path for path in self.model_paths if is_of(path.parent)],
                thresholds={p: text for p, text in self.thresholds.items() if is_of(p.parent)},
                name=_corpus_name(datasets, key),
            )

        groups = [*known, *([None] if None in keys.values() or not known else [])]
        found = [of(key) for key in groups]
        if len(found) == 1:
            return [dataclasses.replace(found[0], name="")]
        names = _apart([corpus.name for corpus in found])
        return [
            dataclasses.replace(corpus, name=name)
            for corpus, name in zip(found, names, strict=True)
        ]

    def _key(self, dataset: Dataset) -> str | None:
        """Returns the sha256 of the manifest of the byte shards that a dataset comes from."""
        manifest = dataset.manifest
        if manifest.kind == "byte_shards":
            return manifest.sha256
        packed = self._parents(manifest, "training_shards")
        return manifest.parents.get("byte_shards") or (packed and packed.parents.get("byte_shards"))

    def of_kind(self, kind: str) -> list[Dataset]:
        return [dataset for dataset in self.datasets if dataset.manifest.kind == kind]

    def _parents(self, manifest: Manifest, kind: str) -> Datasets | None:
        """Returns the parents of a dataset, from those given or those beside it."""
        return find_parents(manifest, kind, (other.manifest for other in self.of_kind(kind)))

    def byte_shards_of(self, manifest: Manifest) -> Datasets | None:
        return self._parents(manifest, "byte_shards")

    def boundaries_of(self, manifest: Manifest) -> Datasets | None:
        """Returns the boundaries a dataset was made with, or those found of the same bytes."""
        named = self._parents(manifest, "boundaries")
        byte_shards = manifest.parents.get("byte_shards")
        if named is not None or byte_shards is None:
            return named
        of_parent: dict[str | None, Manifest] = {}
        for measured in self.patches:
            patches = measured.dataset.manifest
            of_parent.setdefault(patches.parents.get("byte_shards"), patches)
        if byte_shards in of_parent:
            return Datasets((of_parent[byte_shards],))
        names = byte_shards.split(SEPARATOR)
        if of_parent.keys() >= set(names):
            return Datasets(tuple(of_parent[name] for name in names))
        return None


def collect(folders: Sequence[Place]) -> Artefacts:
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
    loose = [folder for folder in folders if not (folder / MANIFEST_NAME).is_file()]
    return Artefacts(
        datasets=datasets,
        scores=[measure_scores(d, BLT if is_blt_scores(d) else ENTROPY_MODEL) for d in scored],
        patches=[measure_patches(dataset) for dataset in of_kind["boundaries"]],
        histories=[
            *_entropy_histories(loose),
            *_blt_histories(of_kind["blt_run"]),
        ],
        model_paths=[
            path
            for folder in loose
            for path in sorted([*folder.glob("*.keras"), *folder.glob("*.ngram")])
        ],
        thresholds={
            path: path.read_bytes().decode("utf-8", "replace")[:4000]
            for folder in loose
            for path in sorted(folder.glob("threshold*.yaml"))
        },
    )


def same_documents(scores: Sequence[ScoreMeasures]) -> list[list[ScoreMeasures]]:
    """Returns scores in groups that are of the same documents; those of held-out ones come first.

    Args:
      scores: of one corpus.
    """
    groups: dict[Any, list[ScoreMeasures]] = {}
    for measured in scores:
        config = measured.dataset.manifest.config
        names = ("split",) if config.get("split") == "all" else ("split", "valid_fraction", "seed")
        groups.setdefault(tuple(config.get(name) for name in names), []).append(measured)
    return sorted(groups.values(), key=lambda group: not is_of_held_out(group[0].summary))


def _labelled(found: Iterable[ScoreMeasures]) -> list[ScoreMeasures]:
    """Names scores by their model; by their folders too, where that is not enough."""
    scores = list(found)
    labels = [measured.label for measured in scores]
    for depth in (1, 2, 3):
        labels = [
            label if labels.count(label) == 1 else _with_folder(measured, depth)
            for label, measured in zip(labels, scores, strict=True)
        ]
    return [measured.called(label) for label, measured in zip(labels, scores, strict=True)]


def _with_folder(measured: ScoreMeasures, depth: int) -> str:
    parts = _parts(measured.dataset.manifest.folder.resolve())[-depth:]
    return f"{measured.label} ({'/'.join(parts)})"


def _parts(path: object) -> tuple[str, ...]:
    """Returns the names in a path or URL."""
    return PurePosixPath(str(path)).parts


def _corpus_name(datasets: Sequence[Dataset], key: str | None) -> str:
    """Returns the path of what a corpus is called by: its byte shards' folder, or theirs."""
    if key is None:
        return "of a corpus that nothing tells of"
    of_bytes = [dataset for dataset in datasets if dataset.manifest.kind == "byte_shards"]
    folder = str((of_bytes or datasets)[0].manifest.folder.resolve())
    return f"{folder} and {len(of_bytes) - 1} more" if of_bytes[1:] else folder


def _used_together(keys: Iterable[str]) -> dict[str, str]:
    """Returns one sha256 of the byte shards of its corpus by each that the keys name."""
    first_of: dict[str, str] = {}
    for key in keys:
        names = key.split(SEPARATOR)
        joined = {first_of.get(name, name) for name in names}
        first = min(joined)
        first_of |= {name: first for name, other in first_of.items() if other in joined}
        first_of |= dict.fromkeys(names, first)
    return first_of


def _apart(paths: Sequence[str], least: int = 2) -> list[str]:
    """Returns the last parts of paths: `least`, or as many as tell them apart."""
    for depth in range(least, max(len(_parts(path)) for path in paths)):
        names = ["/".join(_parts(path)[-depth:]) for path in paths]
        if len({*names}) == len({*paths}):
            return names
    return list(paths)


def _entropy_histories(folders: Sequence[Place]) -> list[History]:
    paths = [path for folder in folders for path in sorted(folder.glob(f"*{HISTORY_SUFFIX}"))]
    return [
        History(title, read_history(path), path.parent)
        for title, path in zip(_titles("Entropy model", paths), paths, strict=True)
    ]


def _blt_histories(runs: Sequence[Dataset]) -> list[History]:
    titles = _titles("BLT", [run.manifest.folder for run in runs])
    return [
        History(
            title,
            read_history(run.manifest.folder / RUN_HISTORY),
            run.manifest.folder,
            run.manifest.fingerprints.get("blt"),
        )
        for title, run in zip(titles, runs, strict=True)
        if (run.manifest.folder / RUN_HISTORY).is_file()
    ]


def _titles(title: str, paths: Sequence[Place]) -> list[str]:
    """Returns the title for each path; with the end of the path, where there are several."""
    if len(paths) < 2:
        return [title] * len(paths)
    return [f"{title} ({name})" for name in _apart([str(path.resolve()) for path in paths], 1)]
